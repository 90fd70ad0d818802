//! What clients were told is there, while dockerd removes images.

use crate::common::{Linkspan, Part, Stack};
use crate::fixture::{MANIFEST, docker, export, names};
use crate::http::request;
use crate::pushes::{image, put_to};

/// A stack of its own: the collector is run in dockerd's namespace, and all images are removed.
#[tokio::test(flavor = "multi_thread")]
async fn images_of_docker_are_removed_under_pushes_and_pulls() {
    let stack = Stack::start(&[Part::Containerd, Part::Dockerd]);
    let engine = docker(&stack).await;
    let (_linkspan, address) =
        Linkspan::registry(&stack, &[&stack.docker_flags()[..], &["--registry-writable"]].concat());
    let image = image("kept\n");
    let bytes = &image.blobs[&image.root.digest];
    export(&*engine, &image, &names(&["kept/base:1"])).await.unwrap();
    // A pusher finds its blobs; then the only image that has them is removed.
    for blob in image.layers.iter().chain([&image.config]) {
        let target = format!("/v2/kept/app/blobs/{}", blob.digest);
        assert_eq!(request(&address, "HEAD", &target, &[]).status, 200);
    }
    stack.docker(["rmi", "kept/base:1"]).ok();
    stack.collect_garbage("moby");
    let pushed = put_to(&address, "kept/app", "1", MANIFEST, bytes);
    assert_eq!(pushed.status, 201, "{pushed:?}");
    // A puller reads the manifest; then all images are removed.
    assert_eq!(request(&address, "GET", "/v2/kept/app/manifests/1", &[]).status, 200);
    stack.docker(["image", "prune", "--all", "--force"]).ok();
    stack.collect_garbage("moby");
    assert_eq!(stack.image("docker.io/kept/app:1"), None);
    for blob in image.layers.iter().chain([&image.config]) {
        let got = request(&address, "GET", &format!("/v2/kept/app/blobs/{}", blob.digest), &[]);
        assert_eq!(got.status, 200);
        assert!(got.body == image.blobs[&blob.digest]);
    }
}
