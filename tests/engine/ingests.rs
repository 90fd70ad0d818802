//! Blobs that clients send by themselves, before the image is known.

use std::sync::Arc;

use bytes::Bytes;
use linkspan::engine::EngineKind;
use linkspan::engine::ingest::{Expected, IngestManager, IngestWriter, OpenedIngest};
use linkspan::engine::select::{Selection, select};
use linkspan::engine::{Engine, EngineError, Lease, Lifetime, Origin, Pin};
use linkspan::image::Digest;

use crate::common::{Stack, until};
use crate::fixture::{Image, Layer, begin, containerd, names, origin};

async fn open(ingests: &dyn IngestManager, name: &str, expected: &Expected) -> Box<dyn IngestWriter> {
    match ingests.open(name, expected).await.unwrap() {
        OpenedIngest::Writer(upload) => upload,
        OpenedIngest::Present => panic!("{name} is there already"),
    }
}

/// All of `bytes`, under a name of its own, with nothing said beforehand.
async fn ingest(ingests: &dyn IngestManager, name: &str, bytes: &Bytes) -> Result<(Digest, u64), EngineError> {
    let mut upload = open(ingests, name, &Expected::default()).await;
    upload.write(bytes.clone()).await?;
    upload.commit(Expected::default()).await
}

/// A containerd, and a layout, which offer the same.
async fn engines(namespace: &str) -> [Arc<dyn Engine>; 2] {
    let stack = Stack::shared();
    [containerd(stack, namespace).await, layout(&stack.fresh_path("-layout")).await]
}

async fn layout(root: &std::path::Path) -> Arc<dyn Engine> {
    let selection = Selection { kind: Some(EngineKind::Layout), layout: Some(root.to_owned()), ..Selection::default() };
    select(&selection).await.unwrap().engine
}

async fn leased(engine: &dyn Engine) -> Arc<dyn Lease> {
    engine.lease(&origin(), Lifetime::Process).await.unwrap()
}

fn content(seed: &str) -> Bytes {
    seed.repeat(300_000).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingest_is_resumed_where_it_was_left() {
    for engine in engines("ingests").await {
        let lease = leased(&*engine).await;
        let ingests = lease.ingests().unwrap();
        let bytes = content("goes on ");
        let expected = Expected { digest: Some(Digest::sha256(&bytes)), size: Some(bytes.len() as u64) };
        for (from, to) in [(0, 1), (1, 1_500_000), (1_500_000, bytes.len())] {
            let mut upload = open(ingests, "on", &expected).await;
            assert_eq!(upload.offset(), from as u64);
            upload.write(bytes.slice(from..to)).await.unwrap();
            upload.suspend().await.unwrap();
            let status = ingests.status("on").await.unwrap().unwrap();
            assert_eq!((status.offset, status.expected.size), (to as u64, expected.size));
        }
        assert_eq!(ingests.statuses().await.unwrap().len(), 1);
        let upload = open(ingests, "on", &expected).await;
        assert_eq!(upload.commit(Expected::default()).await.unwrap(), (Digest::sha256(&bytes), bytes.len() as u64));
        assert_eq!(ingests.statuses().await.unwrap(), []);
        assert!(matches!(ingests.open("again", &expected).await.unwrap(), OpenedIngest::Present));
        lease.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ingests_of_two_exports_never_meet() {
    for engine in engines("ingests-apart").await {
        let export = origin().export;
        let mut held = Vec::new();
        // However the id and the name are joined: what one has more at its end the other has at its beginning.
        for (id, name) in [("", "layer-1"), ("-layer", "1"), ("-", "layer-1"), ("", "-layer-1"), ("-layer-1", "x")] {
            let origin = Origin { export: format!("{export}{id}"), ..origin() };
            let lease = engine.lease(&origin, Lifetime::Process).await;
            // The first and the fourth are one export.
            let lease = match lease {
                Ok(lease) => lease,
                Err(_) => held.first().map(|(lease, ..): &(Arc<dyn Lease>, _, _)| lease.clone()).unwrap(),
            };
            let bytes = content(&format!("{id}|{name} "));
            let mut upload = open(lease.ingests().unwrap(), name, &Expected::default()).await;
            assert_eq!(upload.offset(), 0, "{id} {name}");
            upload.write(bytes.clone()).await.unwrap();
            upload.suspend().await.unwrap();
            held.push((lease, name, bytes));
        }
        for (lease, name, bytes) in &held {
            let ingests = lease.ingests().unwrap();
            assert!(ingests.statuses().await.unwrap().iter().any(|status| status.reference == *name), "{name}");
            let upload = open(ingests, name, &Expected::default()).await;
            assert_eq!(upload.offset(), bytes.len() as u64, "{name}");
            assert_eq!(upload.commit(Expected::default()).await.unwrap().0, Digest::sha256(bytes), "{name}");
        }
        for (lease, ..) in held {
            lease.release().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_another_export_has_is_not_joined() {
    let engine = containerd(Stack::shared(), "ingests-ids").await;
    let origin = origin();
    let refused = async |record: &str| {
        let error = engine.lease(&origin, Lifetime::Durable { record }).await.unwrap_err();
        assert!(matches!(error, EngineError::Busy { .. }), "{error}");
    };
    let of_a_build = engine.lease(&origin, Lifetime::Process).await.unwrap();
    refused("one").await;
    refused("").await;
    of_a_build.release().await.unwrap();
    let lasting = engine.lease(&origin, Lifetime::Durable { record: "one" }).await.unwrap();
    refused("another").await;
    assert!(engine.lease(&origin, Lifetime::Process).await.is_err());
    for record in ["one", ""] {
        engine.lease(&origin, Lifetime::Durable { record }).await.unwrap();
    }
    lasting.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_match_stays_an_ingest() {
    for engine in engines("ingests-wrong").await {
        let lease = leased(&*engine).await;
        let ingests = lease.ingests().unwrap();
        let bytes = content("wrong ");
        let (size, other) = (bytes.len() as u64, Digest::sha256(b"other"));
        let wrongs = [Expected { digest: Some(other), size: None }, Expected { digest: None, size: Some(size + 1) }];
        let mut upload = open(ingests, "wrong", &Expected::default()).await;
        upload.write(bytes.clone()).await.unwrap();
        for wrong in wrongs {
            let error = upload.commit(wrong).await.unwrap_err();
            assert!(matches!(error, EngineError::Corrupt { .. }), "{error}");
            upload = open(ingests, "wrong", &Expected::default()).await;
            assert_eq!(upload.offset(), size);
        }
        upload.restart().await.unwrap();
        assert_eq!(upload.offset(), 0);
        upload.write(bytes.slice(..10)).await.unwrap();
        assert_eq!(upload.commit(Expected::default()).await.unwrap(), (Digest::sha256(&bytes[..10]), 10));
        lease.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_by_the_end_is_not_written_twice() {
    for engine in engines("ingests-twice").await {
        let lease = leased(&*engine).await;
        let ingests = lease.ingests().unwrap();
        let bytes = content("twice ");
        let mut late = open(ingests, "late", &Expected::default()).await;
        late.write(bytes.clone()).await.unwrap();
        ingest(ingests, "early", &bytes).await.unwrap();
        let error = late.commit(Expected::default()).await.unwrap_err();
        assert!(matches!(&error, EngineError::Present { digest } if *digest == Digest::sha256(&bytes)), "{error}");
        assert_eq!(ingests.statuses().await.unwrap(), []);
        let pinned =
            lease.pin(&[Pin::from(&Digest::sha256(b"absent")), Pin::from(&Digest::sha256(&bytes))]).await.unwrap();
        assert_eq!(pinned, [None, Some(bytes.len() as u64)]);
        lease.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ingests_are_aborted_and_have_one_writer() {
    for engine in engines("ingests-abort").await {
        let stack = Stack::shared();
        let lease = leased(&*engine).await;
        let ingests = lease.ingests().unwrap();
        let mut first = open(ingests, "one", &Expected::default()).await;
        first.write(content("one ")).await.unwrap();
        let error = ingests.open("one", &Expected::default()).await.unwrap_err();
        assert!(matches!(error, EngineError::Busy { .. }), "{error}");
        first.suspend().await.unwrap();
        ingests.abort("one").await.unwrap();
        ingests.abort("one").await.unwrap();
        assert_eq!(ingests.status("one").await.unwrap(), None);
        for name in ["", "a\nb", &"x".repeat(513)] {
            let error = ingests.open(name, &Expected::default()).await.unwrap_err();
            assert!(matches!(error, EngineError::IngestRef { .. }), "{error}");
        }
        open(ingests, "two", &Expected::default()).await.suspend().await.unwrap();
        lease.release().await.unwrap();
        assert_eq!(stack.ingests("ingests-abort"), [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_outlives_its_process() {
    let stack = Stack::shared();
    let origin = origin();
    let image = Image::new(&[Layer::new().file("durable", "1").tar()]);
    let layer = &image.blobs[&image.layers[0].digest];
    {
        let engine = containerd(stack, "durable").await;
        let lease = engine.lease(&origin, Lifetime::Durable { record: "" }).await.unwrap();
        let ingests = lease.ingests().unwrap();
        ingest(ingests, "config", &image.blobs[&image.config.digest]).await.unwrap();
        let mut half = open(ingests, "layer", &Expected::default()).await;
        half.write(layer.slice(..5000)).await.unwrap();
        half.suspend().await.unwrap();
    }
    let engine = containerd(stack, "durable").await;
    assert_eq!(engine.recover().await.unwrap(), 0);
    let lease = engine.lease(&origin, Lifetime::Durable { record: "" }).await.unwrap();
    let ingests = lease.ingests().unwrap();
    assert_eq!(lease.pin(&[Pin::from(&image.config.digest)]).await.unwrap(), [Some(image.config.size)]);
    let mut rest = open(ingests, "layer", &Expected::default()).await;
    rest.write(layer.slice(5000..)).await.unwrap();
    assert_eq!(rest.commit(Expected::default()).await.unwrap().0, image.layers[0].digest);
    ingest(ingests, "manifest", &image.blobs[&image.root.digest]).await.unwrap();
    let transaction = begin(&lease, image.graph()).await.unwrap();
    let plan = transaction.plan();
    assert_eq!((plan.present.len(), plan.missing.len()), (3, 0));
    let prepared = transaction.prepare().await.unwrap();
    prepared.commit(&names(&["durable:1"]), &[]).await.unwrap();
    lease.release().await.unwrap();
    assert_eq!(stack.leases("durable"), [""; 0]);
    until("the image", || stack.images("durable").len(), |count| *count == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_into_a_layout_outlives_its_process() {
    let root = Stack::shared().fresh_path("-layout");
    let (origin, image) = (origin(), Image::new(&[Layer::new().file("durable", vec![3; 3 << 20]).tar()]));
    let layer = &image.blobs[&image.layers[0].digest];
    {
        let engine = layout(&root).await;
        let lease = engine.lease(&origin, Lifetime::Durable { record: "" }).await.unwrap();
        let ingests = lease.ingests().unwrap();
        ingest(ingests, "config", &image.blobs[&image.config.digest]).await.unwrap();
        let mut half = open(ingests, "layer", &Expected::default()).await;
        half.write(layer.slice(..2_000_000)).await.unwrap();
        half.suspend().await.unwrap();
    }
    let blob = root.join("blobs/sha256").join(image.config.digest.hex());
    until("the config to have its name", || blob.exists(), |is_there| *is_there);
    let engine = layout(&root).await;
    assert_eq!(engine.recover().await.unwrap(), 0);
    let lease = engine.lease(&origin, Lifetime::Durable { record: "" }).await.unwrap();
    let ingests = lease.ingests().unwrap();
    assert_eq!(lease.pinned().await.unwrap(), std::slice::from_ref(&image.config.digest));
    let mut rest = open(ingests, "layer", &Expected::default()).await;
    assert_eq!(rest.offset(), 2_000_000);
    rest.write(layer.slice(2_000_000..)).await.unwrap();
    assert_eq!(rest.digest().await.unwrap(), image.layers[0].digest);
    assert_eq!(rest.commit(Expected::default()).await.unwrap().0, image.layers[0].digest);
    ingest(ingests, "manifest", &image.blobs[&image.root.digest]).await.unwrap();
    let transaction = begin(&lease, image.graph()).await.unwrap();
    let plan = transaction.plan();
    assert_eq!((plan.present.len(), plan.missing.len()), (3, 0));
    let prepared = transaction.prepare().await.unwrap();
    prepared.commit(&names(&["durable:1"]), &[]).await.unwrap();
    lease.release().await.unwrap();
    assert_eq!(engine.already_complete(&image.root, &names(&["durable:1"])).await.unwrap(), Some(3));
    assert_eq!(std::fs::read_dir(root.join(".linkspan/uploads")).unwrap().count(), 0);
}
