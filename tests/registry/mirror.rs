//! The door as a mirror of other registries.

use std::fs;

use linkspan::engine::EngineKind;

use crate::common::{Buildkitd, Context, SecureDockerd, Stack, text};
use crate::fixture::{Image, Layer, export, names};
use crate::served::{Served, layout};

fn image(content: &str) -> Image {
    Image::new(&[Layer::busybox().tar(), Layer::new().file("etc/greeting", content).tar()])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_serves_digests_always_and_tags_on_request() {
    let plain = Served::everywhere("registry-mirror", &[]).await;
    let with_tags = Served::everywhere("registry-mirror", &["--registry-mirror-tags"]).await;
    for (served, is_by_tag) in plain.iter().map(|it| (it, false)).chain(with_tags.iter().map(|it| (it, true))) {
        let image = image("mirrored\n");
        // A bucket has the paths of a registry, in which no port can be written.
        let is_bucket = served.kind() == EngineKind::Object;
        let (mirrored, other) = match is_bucket {
            true => ("mirrored.example", "mirrored.example:5000"),
            false => ("mirrored.example:5000", "mirrored.example"),
        };
        let all_names = [format!("{mirrored}/o/app:1"), "mirrored:1".to_owned()];
        export(&*served.engine, &image, &names(&all_names.each_ref().map(String::as_str))).await.unwrap();
        let digest = image.root.digest.to_string();
        for (name, namespace, reference, is_there) in [
            ("o/app", mirrored, digest.as_str(), true),
            ("o/app", "another.example", &digest, true),
            ("o/app", mirrored, "1", is_by_tag),
            ("library/mirrored", "docker.io", "1", is_by_tag),
            ("o/app", mirrored, "2", false),
            ("o/app", other, "1", false),
            // What another registry refuses is only absent here.
            ("o/app", mirrored, "-x", false),
            ("O/app", mirrored, "1", false),
            ("o/app", "no/registry", "1", false),
        ] {
            let target = format!("/v2/{name}/manifests/{reference}?ns={namespace}");
            let expected = if is_there { 200 } else { 404 };
            let head = served.head(&target);
            assert_eq!((head.status, served.get(&target).status), (expected, expected), "{target} {is_by_tag}");
            assert_eq!(head.header("oci-namespace"), Some(namespace));
        }
        let blob = format!("/v2/o/app/blobs/{}?ns={mirrored}", image.layers[0].digest);
        assert_eq!(served.get(&blob).status, 200);
        assert_eq!(served.get(&format!("/v2/o/app/blobs/sha256:12?ns={mirrored}")).status, 404);
    }
}

/// An image of which the engine has lost a layer is left to the registry.
#[tokio::test(flavor = "multi_thread")]
async fn an_incomplete_image_is_no_image_of_a_mirror() {
    let served = Served::containerd("registry-mirror-gap", &["--registry-mirror-tags"]).await;
    let image = image("incomplete\n");
    export(&*served.engine, &image, &names(&["gap.example/app:1"])).await.unwrap();
    let target = "/v2/app/manifests/1?ns=gap.example";
    assert_eq!(served.head(target).status, 200);
    Stack::shared().ctr("registry-mirror-gap", ["content", "rm", image.layers[1].digest.as_str()]).ok();
    assert_eq!(served.head(target).status, 404);
    // By its digest it is what was asked for, as far as it is there.
    let by_digest = format!("/v2/app/manifests/{}?ns=gap.example", image.root.digest);
    assert_eq!(served.head(&by_digest).status, 200);
}

/// No such registry exists, so whatever is pulled comes from the engine.
#[tokio::test(flavor = "multi_thread")]
async fn containerd_pulls_through_it() {
    let stack = Stack::shared();
    let served = Served::docker(&["--registry-mirror-tags"]).await;
    let image = image("through ctr\n");
    export(&*served.engine, &image, &names(&["upstream.invalid/o/app:1"])).await.unwrap();
    let hosts = tempfile::tempdir().unwrap();
    let folder = hosts.path().join("upstream.invalid");
    fs::create_dir(&folder).unwrap();
    let config = format!(
        "server = \"https://upstream.invalid\"\n[host.\"http://{}\"]\n  capabilities = [\"pull\", \"resolve\"]\n",
        served.address
    );
    fs::write(folder.join("hosts.toml"), config).unwrap();
    let pull = ["images", "pull", "--hosts-dir", text(hosts.path()), "upstream.invalid/o/app:1"];
    stack.ctr("registry-ctr-mirror", pull).ok();
    assert_eq!(stack.image_of("registry-ctr-mirror", "upstream.invalid/o/app:1"), Some(image.root.digest.to_string()));
}

/// As people write it into buildkitd.toml: without a word on TLS, which loopback has none of. What the engine lacks comes from the
/// registry itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_builder_takes_its_base_from_the_engine() {
    let stack = Stack::shared();
    let served = Served::docker(&["--registry-mirror-tags"]).await;
    let (base, hub) = (image("of the engine\n"), image("of the engine, too\n"));
    export(&*served.engine, &base, &names(&["base.invalid/o/base:1"])).await.unwrap();
    export(&*served.engine, &hub, &names(&["linkspan-hub-base:1"])).await.unwrap();
    let upstream = format!("{}/mirrored/upstream:1", stack.registry());
    let folder = tempfile::tempdir().unwrap();
    export(&*layout(folder.path()).await, &image("of the registry\n"), &names(&["x:1"])).await.unwrap();
    stack.run("crane").args(["push", text(folder.path()), &upstream]).ok();
    let mirrors: String = ["base.invalid", "docker.io", stack.registry()]
        .map(|registry| format!("[registry.\"{registry}\"]\n  mirrors = [\"{}\"]\n", served.address))
        .concat();
    let buildkitd = Buildkitd::start_with(stack, "buildkitd", &mirrors);
    let builder = stack.builder(&buildkitd.address());
    for (number, (from, expected)) in [
        ("base.invalid/o/base:1".to_owned(), "of the engine\n"),
        (format!("base.invalid/o/base@{}", base.root.digest), "of the engine\n"),
        ("linkspan-hub-base:1".to_owned(), "of the engine, too\n"),
        (format!("docker.io/library/linkspan-hub-base@{}", hub.root.digest), "of the engine, too\n"),
        (upstream, "of the registry\n"),
    ]
    .into_iter()
    .enumerate()
    {
        let context = Context::new(&format!("FROM {from}\nRUN cat /etc/greeting >/copy{number}\n"));
        let out = tempfile::tempdir().unwrap();
        builder.build(context.path(), ["-o", &format!("type=local,dest={}", text(out.path()))]).ok();
        let copy = fs::read_to_string(out.path().join(format!("copy{number}"))).unwrap();
        assert_eq!(copy, expected, "{from}");
    }
}

/// `registry-mirrors` of daemon.json, which are mirrors of docker.io.
#[tokio::test(flavor = "multi_thread")]
async fn a_docker_pulls_from_the_engine_of_another_one() {
    let stack = Stack::shared();
    let (plain, with_tags) = (Served::docker(&[]).await, Served::docker(&["--registry-mirror-tags"]).await);
    let image = image("for another docker\n");
    export(&*plain.engine, &image, &names(&["linkspan-hub-pulled:1", "linkspan-org/pulled:1"])).await.unwrap();
    // The first has no tags, so that docker asks the second.
    let mirrors = [&plain, &with_tags].map(|served| format!("http://{}", served.address));
    let dockerd = SecureDockerd::start_with(stack, &serde_json::json!({ "registry-mirrors": mirrors }));
    let docker = |args: &[&str]| dockerd.with(stack.docker(args.iter().copied()));
    let by_digest = format!("linkspan-hub-pulled@{}", image.root.digest);
    for name in [by_digest.as_str(), "linkspan-hub-pulled:1", "linkspan-org/pulled:1"] {
        docker(&["pull", "--quiet", name]).ok();
        let found = docker(&["image", "inspect", "--format", "{{json .RepoDigests}}", name]).ok().stdout;
        assert!(found.contains(image.root.digest.as_str()), "{name}: {found}");
        docker(&["rmi", name]).ok();
    }
    let ran = docker(&["run", "--rm", "--network", "host", "linkspan-hub-pulled:1", "cat", "/etc/greeting"]).ok();
    assert_eq!(ran.stdout, "for another docker\n");
    docker(&["rmi", "--force", "linkspan-hub-pulled:1"]).ok();
}
