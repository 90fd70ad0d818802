//! The engines, on a real containerd and a real dockerd.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests state what they expect by failing loudly"
)]

mod common;
#[path = "engine/fixture.rs"]
mod fixture;

use common::Stack;
use fixture::{Image, Layer, containerd, docker, export, names};

#[tokio::test(flavor = "multi_thread")]
async fn docker_runs_what_was_exported() {
    let stack = Stack::shared();
    let engine = docker(stack).await;
    let image = Image::new(&[Layer::busybox().tar(), Layer::new().file("etc/greeting", "hello\n").tar()]);
    let plan = export(&*engine, &image, &names(&["run:one", "run:two"])).await.unwrap();
    assert_eq!((plan.present.len(), plan.stored.len(), plan.missing.len()), (0, 2, 2));
    for name in ["run:one", "run:two"] {
        let said = stack.docker(["run", "--rm", "--network", "host", name, "cat", "/etc/greeting"]).ok().stdout;
        assert_eq!(said, "hello\n");
        assert_eq!(stack.image(&format!("docker.io/library/{name}")), Some(image.root.digest.to_string()));
    }
    let plan = export(&*engine, &image, &names(&["run:three"])).await.unwrap();
    assert_eq!((plan.present.len(), plan.stored.len(), plan.missing.len()), (4, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_runs_what_was_exported() {
    let stack = Stack::shared();
    let engine = containerd(stack, "plain").await;
    let image = Image::new(&[Layer::busybox().tar(), Layer::new().file("etc/greeting", "hello\n").tar()]);
    export(&*engine, &image, &names(&["run:one"])).await.unwrap();
    let checked = stack.ctr("plain", ["images", "check"]).ok().stdout;
    assert!(checked.contains("complete (3/3)") && checked.trim_end().ends_with("true"), "{checked}");
    assert_eq!(stack.leases("plain"), Vec::<String>::new());
    assert_eq!(stack.ingests("plain"), Vec::<String>::new());
}

/// Folders without an entry, whiteouts and opaque folders are where unpacking in parallel goes wrong first.
#[tokio::test(flavor = "multi_thread")]
async fn layers_unpacked_at_once_look_like_layers_unpacked_in_turn() {
    let stack = Stack::shared();
    let engine = docker(stack).await;
    assert!(engine.identity().parallel_unpack);
    let base = Layer::busybox()
        .folder("tmp", 0o1777)
        .folder("root", 0o700)
        .file("gone", "x")
        .file("opaque/hidden", "x")
        .file("kept/below", "x");
    let second = Layer::new().file("tmp/a", "a").file("root/deep/b", "b").file("kept/above", "x").file(".wh.gone", "");
    let third = Layer::new()
        .file("tmp/c", "c")
        .file("root/deep/d", "d")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/new", "x");
    let image = Image::new(&[
        base.tar(),
        second.tar_of(&["tmp/a", "root/deep/b", "kept/above", ".wh.gone"]),
        third.tar_of(&["tmp/c", "root/deep/d", "opaque/.wh..wh..opq", "opaque/new"]),
    ]);
    export(&*engine, &image, &names(&["parallel:one"])).await.unwrap();
    let script = "stat -c '%n %a' /tmp /root /root/deep /opaque; ls -d /gone; ls /tmp /opaque /kept";
    let said = stack.docker(["run", "--rm", "--network", "host", "parallel:one", "sh", "-c", script]).output();
    let expected =
        "/tmp 1777\n/root 700\n/root/deep 755\n/opaque 755\n/kept:\nabove\nbelow\n\n/opaque:\nnew\n\n/tmp:\na\nc\n";
    assert_eq!(said.stdout, expected, "{said}");
    assert!(said.stderr.contains("/gone: No such file"), "{said}");
}
