//! The clients that people use push to the door.

use crate::common::{Context, Run, Stack, text};
use crate::fixture::{Image, Layer, export, names};
use crate::served::{Served, layout};

const WRITABLE: &[&str] = &["--registry-writable"];

fn image(content: &str) -> Image {
    Image::new(&[Layer::busybox().tar(), Layer::new().file("etc/greeting", content).tar()])
}

/// What the engine has under a name, by the door.
#[track_caller]
fn pushed(served: &Served, name: &str) -> String {
    let head = served.head(&format!("/v2/{name}/manifests/1"));
    assert_eq!(head.status, 200, "{name}");
    head.header("docker-content-digest").unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn crane_and_skopeo_push() {
    let stack = Stack::shared();
    for served in Served::everywhere("registry-push-crane", WRITABLE).await {
        let (image, folder) = (image(&format!("to {}\n", served.kind())), tempfile::tempdir().unwrap());
        export(&*layout(folder.path()).await, &image, &names(&["pushed:1"])).await.unwrap();
        let digest = image.root.digest.to_string();
        for again in [false, true] {
            let name = format!("{}/push/crane:1", served.address);
            stack.run("crane").args(["push", text(folder.path()), &name]).ok();
            assert_eq!(pushed(&served, "push/crane"), digest, "{again}");
            let to = format!("docker://{}/push/skopeo:1", served.address);
            let copy = ["--insecure-policy", "copy", "--dest-tls-verify=false", "--preserve-digests"];
            Run::new("skopeo").args(copy).args([&format!("oci:{}:1", text(folder.path())), &to]).ok();
            assert_eq!(pushed(&served, "push/skopeo"), digest, "{again}");
        }
        // From a registry to the engine and back.
        let (there, back) = (format!("{}/push/there:1", stack.registry()), format!("{}/push/back:1", served.address));
        stack.run("crane").args(["push", text(folder.path()), &there]).ok();
        stack.run("crane").args(["copy", &there, &back]).ok();
        assert_eq!(pushed(&served, "push/back"), digest);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn buildx_pushes_what_it_builds_and_docker_runs_it() {
    let stack = Stack::shared();
    let served = Served::docker(WRITABLE).await;
    let context = Context::new(&format!("FROM {}\nRUN echo built >/built\n", stack.base_image()));
    let builder = stack.builder(stack.buildkit_host());
    let name = format!("{}/push/buildx:1", served.address);
    for again in [false, true] {
        builder.build(context.path(), ["--push", "-t", &name]).ok();
        let output = stack.run_image("push/buildx:1", &["cat", "/built"]).ok().stdout;
        assert_eq!(output, "built\n", "{again}");
    }
    // With attestations, it is an index, and the only image that there is of it.
    let attested = format!("{}/push/attested:1", served.address);
    for _ in 0..2 {
        builder.build(context.path(), ["--push", "--provenance", "mode=max", "-t", &attested]).ok();
        assert_eq!(stack.run_image("push/attested:1", &["cat", "/built"]).ok().stdout, "built\n");
        let listed = stack.ctr("moby", ["images", "ls", "-q"]).ok().lines();
        let listed: Vec<_> = listed.iter().filter(|name| name.contains("push/attested")).collect();
        assert_eq!(listed, ["docker.io/push/attested:1"]);
    }
    let index = served.get("/v2/push/attested/manifests/1").json();
    let subject = index["manifests"][0]["digest"].as_str().unwrap();
    let referrers = served.get(&format!("/v2/push/attested/referrers/{subject}")).json();
    // Each build attests anew, and those of before stay until they are collected: in no order that is promised.
    let referrers_of: Vec<_> = referrers["manifests"].as_array().unwrap().iter().map(|one| &one["digest"]).collect();
    assert!(referrers_of.contains(&&index["manifests"][1]["digest"]), "{index} {referrers}");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_dockers_push() {
    let (stack, classic) = (Stack::shared(), Stack::classic());
    for served in Served::everywhere("registry-push-docker", WRITABLE).await {
        let image = image(&format!("by docker to {}\n", served.kind()));
        let source = crate::fixture::docker(stack).await;
        let name = format!("{}/push/docker:1", served.address);
        export(&*source, &image, &names(&[&name])).await.unwrap();
        stack.docker(["push", "--quiet", &name]).ok();
        assert_eq!(pushed(&served, "push/docker"), image.root.digest.to_string());
        // The classic store makes manifests of its own.
        let name = format!("{}/push/classic:1", served.address);
        let tar = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(tar.path(), Layer::busybox().tar()).unwrap();
        classic.docker_classic(["import", text(tar.path()), &name]).ok();
        classic.docker_classic(["push", "--quiet", &name]).ok();
        pushed(&served, "push/classic");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ctr_pushes() {
    let stack = Stack::shared();
    for served in Served::everywhere("registry-push-ctr", WRITABLE).await {
        let image = image(&format!("by ctr to {}\n", served.kind()));
        let source = crate::fixture::containerd(stack, "registry-push-source").await;
        let name = format!("{}/push/ctr:1", served.address);
        export(&*source, &image, &names(&[&name])).await.unwrap();
        stack.ctr("registry-push-source", ["images", "push", "--plain-http", &name]).ok();
        assert_eq!(pushed(&served, "push/ctr"), image.root.digest.to_string());
    }
}
