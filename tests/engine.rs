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
