//! Whether there is anything to do.

use linkspan::engine::Engine;

use crate::common::Stack;
use crate::fixture::{Image, Layer, containerd, docker, export, names};

async fn is_current(engine: &dyn Engine, image: &Image, name: &str) -> Option<usize> {
    engine.already_complete(&image.root, &names(&[name])).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_current_only_when_nothing_is_missing() {
    let stack = Stack::shared();
    let engine = containerd(stack, "current").await;
    let image = Image::new(&[Layer::new().file("a", "1").tar(), Layer::new().file("b", "2").tar()]);
    assert_eq!(is_current(&*engine, &image, "now:1").await, None, "it is not there");
    let again = || async {
        export(&*engine, &image, &names(&["now:1"])).await.unwrap();
        assert_eq!(is_current(&*engine, &image, "now:1").await, Some(4));
    };
    again().await;
    assert_eq!(is_current(&*engine, &image, "now:2").await, None, "another name");
    assert_eq!(engine.already_complete(&image.root, &[]).await.unwrap(), None, "no name");

    let (root, config) = (image.root.digest.as_str(), image.config.digest.as_str());
    stack.ctr("current", ["content", "label", root, "containerd.io/gc.ref.content.l.1="]).ok();
    assert_eq!(is_current(&*engine, &image, "now:1").await, None, "a label is missing");
    again().await;

    stack.ctr("current", ["content", "label", config, "containerd.io/gc.ref.snapshot.overlayfs="]).ok();
    assert_eq!(is_current(&*engine, &image, "now:1").await, None, "the snapshots' label is missing");
    again().await;

    stack.ctr("current", ["content", "rm", image.layers[0].digest.as_str()]).ok();
    assert_eq!(is_current(&*engine, &image, "now:1").await, None, "a layer is missing");
    again().await;

    stack.ctr("current", ["content", "rm", config]).ok();
    assert_eq!(is_current(&*engine, &image, "now:1").await, None, "the config is missing");
    again().await;

    for (chain, _) in stack.snapshots("current").into_iter().rev() {
        stack.ctr("current", ["snapshots", "rm", &chain]).output();
    }
    assert_eq!(is_current(&*engine, &image, "now:1").await, None, "it is not unpacked");
    again().await;

    let other = Image::new(&[Layer::new().file("c", "3").tar()]);
    export(&*engine, &other, &names(&["now:1"])).await.unwrap();
    assert_eq!(is_current(&*engine, &image, "now:1").await, None, "the name moved");
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_takes_notice_of_exports_and_of_repetitions() {
    let stack = Stack::shared();
    let engine = docker(stack).await;
    let image = Image::new(&[Layer::busybox().tar(), Layer::new().file("noticed", "").tar()]);
    let since = stack.docker(["info", "--format", "{{.SystemTime}}"]).ok().stdout;
    assert_eq!(is_current(&*engine, &image, "noticed:1").await, None);
    let both = names(&["noticed:1", "registry.example:5000/team/noticed:1"]);
    export(&*engine, &image, &both).await.unwrap();
    assert_eq!(engine.already_complete(&image.root, &both).await.unwrap(), Some(4));
    let until = stack.docker(["info", "--format", "{{.SystemTime}}"]).ok().stdout;
    let digest = format!("image={}", image.root.digest);
    let arguments = ["events", "--since", since.trim(), "--until", until.trim(), "--filter", "type=image"];
    let events = stack.docker(arguments).args(["--filter", &digest, "--format", "{{.Action}}"]).ok().lines();
    assert_eq!(events, ["load", "load", "tag", "tag"]);
}
