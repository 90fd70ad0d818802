//! The engines, on a real containerd and a real dockerd.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests state what they expect by failing loudly")]

mod already_complete;
mod choice;
#[path = "../common/mod.rs"]
mod common;
mod docker_api;
mod failures;
mod fixture;
mod in_process;
mod ingests;
mod log;
mod moved;
mod names;
mod pins;
mod read;
#[path = "../classic/relay.rs"]
#[allow(dead_code, reason = "shared with the tests of the classic store, which use more of it")]
mod relay;
mod rootless;
mod serial;
mod store;
mod trees;
mod unpack;
mod writes;

use common::Stack;
use fixture::{Image, Layer, containerd, docker, export, names};
use linkspan::engine::Storage;

#[tokio::test(flavor = "multi_thread")]
async fn docker_runs_what_was_exported() {
    let stack = Stack::shared();
    let engine = docker(stack).await;
    let image = fixture::image("hello\n");
    let plan = export(&*engine, &image, &names(&["run:one", "run:two"])).await.unwrap();
    // Other tests may have brought busybox.
    assert_eq!((plan.stored.len(), plan.present.len() + plan.missing.len()), (2, 2));
    for name in ["run:one", "run:two"] {
        let output = stack.run_image(name, &["cat", "/etc/greeting"]).ok().stdout;
        assert_eq!(output, "hello\n");
        assert_eq!(stack.tagged("moby", name), Some(image.root.digest.to_string()));
    }
    let plan = export(&*engine, &image, &names(&["run:three"])).await.unwrap();
    assert_eq!((plan.present.len(), plan.stored.len(), plan.missing.len()), (4, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_has_all_of_what_was_exported() {
    let stack = Stack::shared();
    let engine = containerd(stack, "plain").await;
    let image = fixture::image("hello\n");
    export(&*engine, &image, &names(&["run:one"])).await.unwrap();
    let checked = stack.ctr("plain", ["images", "check"]).ok().stdout;
    // A config and two layers, and they are unpacked.
    assert!(checked.contains("complete (3/3)") && checked.trim_end().ends_with("true"), "{checked}");
    assert_eq!(stack.leases("plain"), Vec::<String>::new());
    assert_eq!(stack.ingests("plain"), Vec::<String>::new());
    assert!(matches!(&engine.identity().storage, Storage::Containerd { namespace, .. } if namespace == "plain"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_a_name_is_dangling() {
    let stack = Stack::shared();
    let image = Image::new(&[Layer::busybox().tar(), Layer::new().file("nameless", "").tar()]);
    export(&*docker(stack).await, &image, &[]).await.unwrap();
    let listed = stack.docker(["images", "--filter", "dangling=true", "--no-trunc", "--quiet"]).ok().lines();
    assert!(listed.contains(&image.root.digest.to_string()), "{listed:?}");
    export(&*containerd(stack, "nameless").await, &image, &[]).await.unwrap();
    let record = (format!("linkspan-dangling@{}", image.root.digest), image.root.digest.to_string());
    assert_eq!(stack.images("nameless"), [record]);
}

#[tokio::test(flavor = "multi_thread")]
async fn images_for_other_platforms_are_stored_and_not_unpacked() {
    let stack = Stack::shared();
    let engine = containerd(stack, "platforms").await;
    let here = Image::new(&[Layer::new().file("here", "1").tar()]);
    let there = Image::foreign(&[Layer::new().file("there", "2").tar()]);
    let both = Image::index(&[here.clone(), there.clone()]);
    let plan = export(&*engine, &both, &names(&["both:1"])).await.unwrap();
    assert_eq!((plan.stored.len(), plan.missing.len()), (5, 2));
    let chains: Vec<_> = stack.snapshots("platforms").into_iter().map(|(name, _)| name).collect();
    assert_eq!(chains, [here.layers[0].digest.to_string()], "its only layer is not compressed");
    let plan = export(&*engine, &there, &names(&["there:1"])).await.unwrap();
    assert_eq!((plan.present.len(), plan.missing.len()), (3, 0), "it came with the other");
}
