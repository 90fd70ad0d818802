//! The clients that people use pull from the door.

use linkspan::image::{Digest, Platform};

use crate::common::{Run, Stack, text};
use crate::fixture::{Image, Layer, compress, export, names};
use crate::served::Served;

fn image(content: &str) -> Image {
    Image::new(&[Layer::busybox().tar(), Layer::new().file("etc/greeting", content).tar()])
}

#[tokio::test(flavor = "multi_thread")]
async fn crane_and_skopeo_pull_and_verify() {
    let stack = Stack::shared();
    for served in Served::everywhere("registry-crane", &["--registry-catalog"]).await {
        // crane validates layers that are compressed.
        let plain = [Layer::busybox().tar(), Layer::new().file("etc/greeting", "by crane and skopeo\n").tar()];
        let diff_ids = plain.each_ref().map(|layer| Digest::sha256(layer));
        let layers = plain.map(|layer| ("+gzip", compress("+gzip", layer)));
        let image = Image::compressed(&layers, &diff_ids, &Platform::host().architecture);
        export(&*served.engine, &image, &names(&["clients/crane:1"])).await.unwrap();
        let (address, digest) = (&served.address, image.root.digest.to_string());
        let name = format!("{address}/clients/crane:1");
        let crane = |args: &[&str]| stack.run("crane").args(args).ok().stdout.trim().to_owned();
        assert_eq!(crane(&["digest", &name]), digest);
        assert_eq!(crane(&["manifest", &name]).as_bytes(), &image.blobs[&image.root.digest][..]);
        assert_eq!(crane(&["ls", &format!("{address}/clients/crane")]), "1");
        assert!(crane(&["catalog", address]).lines().any(|name| name == "clients/crane"));
        crane(&["validate", "--remote", &name]);
        let (folder, from) = (tempfile::tempdir().unwrap(), format!("docker://{name}"));
        let copy = ["--insecure-policy", "copy", "--src-tls-verify=false", "--preserve-digests"];
        Run::new("skopeo").args(copy).args([&from, &format!("dir:{}", text(folder.path()))]).ok();
        let inspect = ["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &from];
        assert_eq!(Run::new("skopeo").args(inspect).ok().stdout.trim(), digest);
        // A copy between registries, which asks for each blob by HEAD first.
        let copied = format!("{}/clients/copied:1", stack.registry());
        crane(&["copy", &name, &copied]);
        assert_eq!(crane(&["digest", &copied]), digest);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_pulls_from_its_own_engine_and_from_another() {
    let stack = Stack::shared();
    for (served, content) in [
        (Served::docker(&[]).await, "of its own engine\n"),
        (Served::containerd("registry-docker", &[]).await, "of another engine\n"),
    ] {
        let image = image(content);
        export(&*served.engine, &image, &names(&["clients/docker:1"])).await.unwrap();
        for host in [served.address.clone(), served.address.replace("127.0.0.1", "localhost")] {
            let name = format!("{host}/clients/docker:1");
            stack.docker(["pull", "--quiet", &name]).ok();
            assert_eq!(stack.image(&name), Some(image.root.digest.to_string()));
            assert_eq!(stack.run_image(&name, &["cat", "/etc/greeting"]).ok().stdout, content);
            stack.docker(["rmi", &name]).ok();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_classic_docker_pulls_too() {
    let stack = Stack::classic();
    let served = Served::layout(&[]).await;
    export(&*served.engine, &image("to a classic store\n"), &names(&["clients/classic:1"])).await.unwrap();
    let name = format!("{}/clients/classic:1", served.address);
    stack.docker_classic(["pull", "--quiet", &name]).ok();
    let output = stack.run_classic_image(&name, &["cat", "/etc/greeting"]).ok().stdout;
    assert_eq!(output, "to a classic store\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn ctr_pulls_and_unpacks() {
    let stack = Stack::shared();
    for served in Served::everywhere("registry-ctr", &[]).await {
        let image = image("by ctr\n");
        export(&*served.engine, &image, &names(&["clients/ctr:1"])).await.unwrap();
        let name = format!("{}/clients/ctr:1", served.address);
        stack.ctr("registry-ctr-pulled", ["images", "pull", "--plain-http", &name]).ok();
        assert_eq!(stack.image_of("registry-ctr-pulled", &name), Some(image.root.digest.to_string()));
    }
}
