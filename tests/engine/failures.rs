//! Bytes that lie, and engines that go away.

use std::os::unix::process::CommandExt as _;

use linkspan::engine::{EngineError, Lifetime, Opened};
use linkspan::image::Digest;

use crate::common::{Part, Run, Stack, until};
use crate::fixture::{Image, Layer, begin, containerd, docker, export, names, origin, send};

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_blob_is_refused_and_leaves_nothing() {
    let stack = Stack::shared();
    let engine = containerd(stack, "corrupt").await;
    let mut image = Image::new(&[Layer::new().file("a", vec![1; 1 << 20]).tar()]);
    let layer = image.layers[0].clone();
    let good = image.blobs[&layer.digest].clone();
    let mut flipped = good.to_vec();
    flipped[1 << 19] ^= 1;
    for bad in [flipped.into(), good.slice(1..), [&good[..], b"x"].concat().into()] {
        image.blobs.insert(layer.digest.clone(), bad);
        let error = export(&*engine, &image, &names(&["corrupt:1"])).await.unwrap_err();
        assert!(matches!(&error, EngineError::Corrupt { digest, .. } if *digest == layer.digest), "{error}");
        assert_eq!(stack.ingests("corrupt"), Vec::<String>::new());
        assert_eq!(stack.leases("corrupt"), Vec::<String>::new());
        assert_eq!(stack.images("corrupt"), []);
    }
    image.blobs.insert(layer.digest.clone(), good);
    export(&*engine, &image, &names(&["corrupt:1"])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_with_a_wrong_diff_id_is_refused() {
    let stack = Stack::shared();
    let engine = containerd(stack, "wrong-diff-id").await;
    for count in [1, 3] {
        let layers: Vec<_> = (0..count).map(|n| Layer::new().file(&format!("{count}-{n}"), "x").tar()).collect();
        let mut diff_ids: Vec<_> = layers.iter().map(|layer| Digest::sha256(layer)).collect();
        diff_ids[count - 1] = Digest::sha256(b"something else");
        let image = Image::with_diff_ids(&layers, &diff_ids);
        let error = export(&*engine, &image, &names(&["wrong-diff-id:1"])).await.unwrap_err();
        let layer = &image.layers[count - 1].digest;
        assert!(matches!(&error, EngineError::Corrupt { digest, .. } if digest == layer), "{error}");
        assert_eq!(stack.images("wrong-diff-id"), []);
        stack.collect_garbage("wrong-diff-id");
        until("snapshots to be collected", || stack.snapshots("wrong-diff-id"), Vec::is_empty);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_no_archive_is_refused_by_name() {
    let stack = Stack::shared();
    let engine = containerd(stack, "no-archive").await;
    let image = Image::new(&[vec![1; 2000].into()]);
    let error = export(&*engine, &image, &names(&["no:1"])).await.unwrap_err();
    let layer = &image.layers[0].digest;
    assert!(matches!(&error, EngineError::Unpack { layer: found, .. } if found == layer), "{error}");
    assert_eq!(stack.images("no-archive"), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_containerd_fails_the_export_and_not_the_next() {
    let stack = Stack::start(&[Part::Containerd, Part::Dockerd]);
    let engine = docker(&stack).await;
    let image = Image::new(&[Layer::busybox().tar(), Layer::new().file("large", vec![3; 20 << 20]).tar()]);
    let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
    let transaction = begin(&lease, image.graph()).await.unwrap();
    let Opened::Writer(mut writer) = transaction.writer(&image.layers[1]).await.unwrap() else { panic!("not missing") };
    let bytes = &image.blobs[&image.layers[1].digest];
    writer.write(bytes.slice(..2 << 20)).await.unwrap();
    stack.kill(Part::Containerd);
    let mut rest = bytes.slice(2 << 20..);
    let mut outcome = Ok(());
    while outcome.is_ok() && !rest.is_empty() {
        outcome = writer.write(rest.split_to(1 << 20)).await;
    }
    let outcome = match outcome {
        Ok(()) => writer.commit().await,
        failed => failed,
    };
    let error = outcome.unwrap_err();
    assert!(error.is_disconnect(), "{error:?}");
    assert!(lease.release().await.unwrap_err().is_disconnect());

    stack.up();
    // dockerd needs a moment to find its containerd again, which is not for the user to wait out.
    export(&*engine, &image, &names(&["after:1"])).await.unwrap();
    let listed = stack.docker(["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]).ok().lines();
    assert_eq!(listed, ["after:1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_dockerd_is_proven_again() {
    let stack = Stack::start(&[Part::Containerd, Part::Dockerd]);
    let engine = docker(&stack).await;
    let image = Image::new(&[Layer::busybox().tar()]);
    export(&*engine, &image, &names(&["before:1"])).await.unwrap();
    stack.kill(Part::Dockerd);
    let error = engine.lease(&origin(), Lifetime::Process).await.unwrap_err();
    assert!(matches!(error, EngineError::Unreachable { engine: "docker", .. }), "{error}");
    stack.up();
    export(&*engine, &image, &names(&["after:1"])).await.unwrap();
    assert_eq!(engine.already_complete(&image.root, &names(&["before:1", "after:1"])).await.unwrap(), Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_named_and_nothing_stays_on_it() {
    let stack = Stack::start(&[Part::Containerd]);
    stack.kill(Part::Containerd);
    // The end of the stack unmounts what was mounted below its folder.
    let root = stack.state().join("containerd/root");
    Run::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "linkspan-test"]).arg(root).ok();
    stack.up();
    let engine = containerd(&stack, "full").await;
    let image = |size: usize| Image::new(&[Layer::new().file("large", vec![1; size]).tar()]);
    // Once while it is written, once while it is unpacked.
    for size in [40 << 20, 14 << 20] {
        let error = export(&*engine, &image(size), &names(&["full:1"])).await.unwrap_err();
        assert!(matches!(error, EngineError::NoSpace { .. }), "{size}: {error:?}");
        assert!(error.hint().unwrap().contains("free space"));
        assert_eq!((stack.images("full"), stack.ingests("full")), (vec![], vec![]));
        assert_eq!(stack.leases("full"), Vec::<String>::new());
        until("all to be collected", || stack.blobs("full").len(), |count| *count == 0);
    }
    export(&*engine, &image(1 << 20), &names(&["full:1"])).await.unwrap();
    assert_eq!(stack.images("full").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_came_is_named_instead_of_waited_for() {
    let stack = Stack::shared();
    let engine = containerd(stack, "never").await;
    let image = Image::new(&[Layer::new().file("never", "1").tar(), Layer::new().file("came", "2").tar()]);
    let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
    let transaction = begin(&lease, image.graph()).await.unwrap();
    send(&*transaction, &image.layers[1], &image.blobs[&image.layers[1].digest]).await.unwrap();
    let error = transaction.prepare().await.unwrap_err();
    let expected = [image.layers[0].digest.clone()];
    assert!(matches!(&error, EngineError::Missing { digests } if *digests == expected), "{error}");
    lease.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_was_deleted_is_named() {
    let stack = Stack::shared();
    let engine = containerd(stack, "lost").await;
    let image = Image::new(&[Layer::new().file("lost", "1").tar()]);
    let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
    stack.ctr("lost", ["leases", "rm", &stack.leases("lost")[0]]).ok();
    let error = begin(&lease, image.graph()).await.unwrap_err();
    assert!(matches!(error, EngineError::LeaseLost { .. }), "{error}");
    lease.release().await.unwrap();
    // Not to be confused with an image of which the name sounds like it.
    export(&*engine, &image, &names(&["release:lease"])).await.unwrap();
}

/// Leaves a lease and an ingest behind, as a process that is killed does: it runs in a process of its own.
#[test]
#[ignore = "a part of a_killed_process_is_cleaned_up_after"]
fn leave_behind() {
    let socket = std::env::var_os("LINKSPAN_LEAVE_BEHIND").unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let selection = linkspan::engine::select::Selection {
            kind: Some(linkspan::engine::EngineKind::Containerd),
            containerd_address: Some(socket.into()),
            namespace: Some("left".to_owned()),
            ..Default::default()
        };
        let engine = linkspan::engine::select::select(&selection).await.unwrap().engine;
        let image = Image::new(&[Layer::new().file("left", vec![1; 3 << 20]).tar()]);
        let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
        let transaction = begin(&lease, image.graph()).await.unwrap();
        let Opened::Writer(mut writer) = transaction.writer(&image.layers[0]).await.unwrap() else {
            panic!("not missing")
        };
        writer.write(image.blobs[&image.layers[0].digest].slice(..2 << 20)).await.unwrap();
        std::process::abort();
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_is_cleaned_up_after() {
    let stack = Stack::shared();
    let engine = containerd(stack, "left").await;
    let ours = engine.lease(&origin(), Lifetime::Process).await.unwrap();
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command
        .args(["--ignored", "--exact", "failures::leave_behind"])
        .env("LINKSPAN_LEAVE_BEHIND", stack.containerd_address());
    let output = command.process_group(0).output().unwrap();
    assert!(!output.status.success());
    assert_eq!(stack.leases("left").len(), 2, "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(engine.recover().await.unwrap(), 1);
    assert_eq!(stack.leases("left").len(), 1, "this process lives, and so does its export");
    assert_eq!(stack.ingests("left"), Vec::<String>::new());
    assert_eq!(engine.recover().await.unwrap(), 0);
    ours.release().await.unwrap();
    stack.collect_garbage("left");
    until("all to be collected", || stack.blobs("left").len(), |count| *count == 0);
}
