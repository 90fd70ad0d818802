//! What is in the store before, during and after an export.

use std::sync::atomic::{AtomicBool, Ordering};

use linkspan::engine::{EngineError, ImageTransaction, Lifetime, Opened};

use crate::common::{Stack, until};
use crate::fixture::{Image, Layer, begin, containerd, docker, export, names, origin, send};

/// An image with a layer of a few MiB.
fn large(name: &str) -> Image {
    Image::new(&[Layer::new().file(name, vec![7; 5 << 20]).tar()])
}

/// Writes a part of the first blob that is missing.
async fn write_part(transaction: &dyn ImageTransaction, image: &Image) {
    let plan = transaction.plan();
    let Opened::Writer(mut writer) = transaction.writer(&plan.missing[0]).await.unwrap() else { panic!("not missing") };
    let bytes = image.blobs[&plan.missing[0].digest].slice(..3 << 20);
    writer.write(bytes).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn giving_up_leaves_nothing() {
    let stack = Stack::shared();
    let engine = containerd(stack, "giving-up").await;
    let image = large("given-up");
    let origin = origin();
    let lease = engine.lease(&origin, Lifetime::Process).await.unwrap();
    assert_eq!(stack.leases("giving-up"), [format!("linkspan-{}", origin.export)]);
    let transaction = begin(&lease, image.graph()).await.unwrap();
    write_part(&*transaction, &image).await;
    until("the ingest", || stack.ingests("giving-up").len(), |count| *count == 1);
    lease.release().await.unwrap();
    lease.release().await.unwrap();
    assert_eq!(stack.leases("giving-up"), Vec::<String>::new());
    assert_eq!(stack.ingests("giving-up"), Vec::<String>::new());
    stack.collect_garbage("giving-up");
    until("the documents to be collected", || stack.blobs("giving-up").len(), |count| *count == 0);
    assert_eq!(stack.images("giving-up"), []);
    export(&*engine, &image, &names(&["given-up:1"])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_may_be_begun_again_in_the_same_export() {
    let stack = Stack::shared();
    let engine = containerd(stack, "again").await;
    let image = large("again");
    let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
    let transaction = begin(&lease, image.graph()).await.unwrap();
    write_part(&*transaction, &image).await;
    // The first writer was dropped, and containerd may not know it yet.
    send(&*transaction, &image.layers[0], &image.blobs[&image.layers[0].digest]).await.unwrap();
    let prepared = transaction.prepare().await.unwrap();
    prepared.commit(&names(&["again:1"]), &[]).await.unwrap();
    lease.release().await.unwrap();
    assert_eq!(stack.images("again").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_of_another_namespace_are_shared_without_sending_them() {
    let stack = Stack::shared();
    let image = large("shared");
    export(&*containerd(stack, "shared-from").await, &image, &names(&["shared:1"])).await.unwrap();
    let engine = containerd(stack, "shared-to").await;
    let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
    let transaction = begin(&lease, image.graph()).await.unwrap();
    let plan = transaction.plan();
    assert_eq!(plan.missing, image.layers);
    assert!(matches!(transaction.writer(&image.layers[0]).await.unwrap(), Opened::Present));
    let prepared = transaction.prepare().await.unwrap();
    prepared.commit(&names(&["shared:1"]), &[]).await.unwrap();
    lease.release().await.unwrap();
    let checked = stack.ctr("shared-to", ["images", "check"]).ok().stdout;
    assert!(checked.contains("complete (2/2)") && checked.trim_end().ends_with("true"), "{checked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn moving_a_name_keeps_the_records_labels() {
    let stack = Stack::shared();
    let engine = containerd(stack, "labels").await;
    let [one, two] = ["1", "2"].map(|content| Image::new(&[Layer::new().file("content", content).tar()]));
    export(&*engine, &one, &names(&["labelled:1"])).await.unwrap();
    stack.ctr("labels", ["images", "label", "docker.io/library/labelled:1", "someone=else"]).ok();
    export(&*engine, &two, &names(&["labelled:1"])).await.unwrap();
    assert_eq!(stack.images("labels"), [("docker.io/library/labelled:1".to_owned(), two.root.digest.to_string())]);
    let listed = stack.ctr("labels", ["images", "ls"]).ok().stdout;
    assert!(listed.contains("someone=else"), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_keep_the_image_when_the_lease_is_gone() {
    let stack = Stack::shared();
    let engine = containerd(stack, "collected").await;
    let images = ["1", "2"].map(|content| Image::new(&[Layer::new().file("content", content).tar()]));
    let both = Image::index(&[images[0].clone(), Image::foreign(&[Layer::new().file("other", "3").tar()])]);
    export(&*engine, &both, &names(&["kept:1"])).await.unwrap();
    let before = stack.blobs("collected");
    assert_eq!(before.len(), both.blobs.len());
    // Whoever deletes an image synchronously waits until the garbage is collected.
    export(&*engine, &images[1], &names(&["deleted:1"])).await.unwrap();
    stack.ctr("collected", ["images", "rm", "--sync", "docker.io/library/deleted:1"]).ok();
    assert_eq!(stack.blobs("collected"), before);
    assert_eq!(stack.snapshots("collected").len(), 1);
}

/// What any client may do at any time, leases or not.
fn delete(stack: &Stack, namespace: &str, digest: &linkspan::image::Digest) {
    stack.ctr(namespace, ["content", "rm", digest.as_str()]).ok();
}

/// Between the moment when an image loses its name and that in which it gets it back, the garbage collector may run.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_gets_its_name_back_is_all_there() {
    let stack = Stack::shared();
    let engine = containerd(stack, "given-back").await;
    let [old, image] = [0, 1].map(|content| Image::new(&[Layer::new().file("given", format!("back {content}")).tar()]));
    export(&*engine, &old, &names(&["given:back"])).await.unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let lease = stack.ctr("collecting", ["leases", "create"]).ok().stdout;
                stack.ctr("collecting", ["leases", "delete", "--sync", lease.trim()]).ok();
            }
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(async {
                    for _ in 0..25 {
                        let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
                        let transaction = begin(&lease, image.graph()).await.unwrap();
                        let plan = transaction.plan();
                        for blob in &plan.missing {
                            send(&*transaction, blob, &image.blobs[&blob.digest]).await.unwrap();
                        }
                        let prepared = transaction.prepare().await.unwrap();
                        delete(stack, "given-back", &image.layers[0].digest);
                        assert!(prepared.commit(&names(&["given:back"]), &[]).await.unwrap_err().is_outdated_plan());
                        lease.release().await.unwrap();
                        let listed = stack.ctr("given-back", ["images", "check"]).ok().stdout;
                        assert!(listed.contains("complete (2/2)") && listed.trim_end().ends_with("true"), "{listed}");
                    }
                });
            });
        }));
        is_over.store(true, Ordering::Relaxed);
        outcome.unwrap();
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_during_a_commit_never_leaves_a_broken_image() {
    let stack = Stack::shared();
    for (engine, namespace) in [(containerd(stack, "deleted").await, "deleted"), (docker(stack).await, "moby")] {
        let [old, image] =
            [0, 1].map(|content| Image::new(&[Layer::new().file("deleted", format!("{namespace} {content}")).tar()]));
        let is_complete = |name: &str| {
            let listed = stack.ctr(namespace, ["images", "check", &format!("name=={name}")]).ok().stdout;
            listed.contains("complete (2/2)") && listed.trim_end().ends_with("true")
        };
        export(&*engine, &old, &names(&["deleted:moves"])).await.unwrap();
        let ready = async || {
            let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
            let transaction = begin(&lease, image.graph()).await.unwrap();
            let plan = transaction.plan();
            for blob in &plan.missing {
                send(&*transaction, blob, &image.blobs[&blob.digest]).await.unwrap();
            }
            transaction.prepare().await.unwrap();
            (lease, transaction)
        };
        // A layer is not at hand any more.
        for moved in [&["deleted:moves", "deleted:new"][..], &[]] {
            let (lease, transaction) = ready().await;
            let prepared = transaction.prepare().await.unwrap();
            delete(stack, namespace, &image.layers[0].digest);
            let error = prepared.commit(&names(moved), &[]).await.unwrap_err();
            assert!(error.is_outdated_plan(), "{namespace}: {error}");
            lease.release().await.unwrap();
            let standing =
                stack.images(namespace).into_iter().filter(|(_, root)| *root == image.root.digest.to_string());
            assert_eq!(standing.collect::<Vec<_>>(), [], "{namespace}: nothing broken is visible");
            assert!(is_complete("docker.io/library/deleted:moves"), "{namespace}: the name has stayed");
        }
        // Documents are.
        let (lease, transaction) = ready().await;
        let prepared = transaction.prepare().await.unwrap();
        delete(stack, namespace, &image.root.digest);
        delete(stack, namespace, &image.config.digest);
        prepared.commit(&names(&["deleted:new"]), &[]).await.unwrap();
        lease.release().await.unwrap();
        assert!(is_complete("docker.io/library/deleted:new"), "{namespace}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_is_one_blob_is_stored_named_and_pinned() {
    let (stack, namespace, name) = (Stack::shared(), "one-blob", "registry.example/blob:1");
    let engine = containerd(stack, namespace).await;
    let blob = Image::blob(b"of a type that only its reader knows");
    export(&*engine, &blob, &names(&[name])).await.unwrap();
    let found = engine.images().unwrap().resolve(&names(&[name])[0]).await.unwrap().unwrap();
    assert_eq!((found.digest, found.media_type), (blob.root.digest.clone(), blob.root.media_type.clone()));
    assert_eq!(engine.already_complete(&blob.root, &names(&[name])).await.unwrap(), None);

    let is_there = || {
        stack.collect_garbage(namespace);
        stack.blobs(namespace).iter().any(|there| there == blob.root.digest.as_str())
    };
    let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
    let transaction = begin(&lease, blob.graph()).await.unwrap();
    assert_eq!(transaction.plan().present, std::slice::from_ref(&blob.root));
    stack.ctr(namespace, ["images", "rm", "--sync", name]).ok();
    assert!(is_there(), "the lease pins it");
    transaction.prepare().await.unwrap().commit(&names(&[name]), &[]).await.unwrap();
    lease.release().await.unwrap();
    assert!(is_there(), "its name keeps it");
    stack.ctr(namespace, ["images", "rm", "--sync", name]).ok();
    assert!(!is_there());

    let refused = export(&*docker(stack).await, &blob, &names(&["docker.io/library/blob:1"])).await.unwrap_err();
    assert!(matches!(refused, EngineError::NotOffered { .. }), "{refused}");
}
