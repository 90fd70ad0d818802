//! Blobs that clients send by themselves, before the image is known.

use std::sync::Arc;

use bytes::Bytes;
use linkspan::engine::EngineKind;
use linkspan::engine::select::{Selection, select};
use linkspan::engine::uploads::{Begun, Expected, Upload, Uploads};
use linkspan::engine::{Engine, EngineError, Ingest, Origin};
use linkspan::image::Digest;
use linkspan::progress::Events;

use crate::common::{Stack, until};
use crate::fixture::{Image, Layer, containerd, names, origin};

async fn begin(uploads: &dyn Uploads, name: &str, expected: &Expected) -> Box<dyn Upload> {
    match uploads.begin(name, expected).await.unwrap() {
        Begun::Upload(upload) => upload,
        Begun::Present => panic!("{name} is there already"),
    }
}

/// All of `bytes`, under a name of its own, with nothing said beforehand.
async fn upload(uploads: &dyn Uploads, name: &str, bytes: &Bytes) -> Result<(Digest, u64), EngineError> {
    let mut upload = begin(uploads, name, &Expected::default()).await;
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

async fn opened(engine: &dyn Engine) -> Arc<dyn Ingest> {
    engine.open(&origin(), Events::none()).await.unwrap()
}

fn content(seed: &str) -> Bytes {
    seed.repeat(300_000).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_where_it_was_left() {
    for engine in engines("uploads").await {
        let ingest = opened(&*engine).await;
        let uploads = ingest.uploads().unwrap();
        let bytes = content("goes on ");
        let expected = Expected { digest: Some(Digest::sha256(&bytes)), size: Some(bytes.len() as u64) };
        for (from, to) in [(0, 1), (1, 1_500_000), (1_500_000, bytes.len())] {
            let mut upload = begin(uploads, "on", &expected).await;
            assert_eq!(upload.offset(), from as u64);
            upload.write(bytes.slice(from..to)).await.unwrap();
            upload.suspend().await.unwrap();
            let status = uploads.status("on").await.unwrap().unwrap();
            assert_eq!((status.offset, status.expected.size), (to as u64, expected.size));
        }
        assert_eq!(uploads.statuses().await.unwrap().len(), 1);
        let upload = begin(uploads, "on", &expected).await;
        assert_eq!(upload.commit(Expected::default()).await.unwrap(), (Digest::sha256(&bytes), bytes.len() as u64));
        assert_eq!(uploads.statuses().await.unwrap(), []);
        assert!(matches!(uploads.begin("again", &expected).await.unwrap(), Begun::Present));
        ingest.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_of_two_exports_never_meet() {
    for engine in engines("uploads-apart").await {
        let export = origin().export;
        let mut held = Vec::new();
        // However the id and the name are joined: what one has more at its end the other has at its beginning.
        for (id, name) in [("", "layer-1"), ("-layer", "1"), ("-", "layer-1"), ("", "-layer-1"), ("-layer-1", "x")] {
            let origin = Origin { export: format!("{export}{id}"), ..origin() };
            let ingest = engine.open(&origin, Events::none()).await;
            // The first and the fourth are one export.
            let ingest = match ingest {
                Ok(ingest) => ingest,
                Err(_) => held.first().map(|(ingest, ..): &(Arc<dyn Ingest>, _, _)| ingest.clone()).unwrap(),
            };
            let bytes = content(&format!("{id}|{name} "));
            let mut upload = begin(ingest.uploads().unwrap(), name, &Expected::default()).await;
            assert_eq!(upload.offset(), 0, "{id} {name}");
            upload.write(bytes.clone()).await.unwrap();
            upload.suspend().await.unwrap();
            held.push((ingest, name, bytes));
        }
        for (ingest, name, bytes) in &held {
            let uploads = ingest.uploads().unwrap();
            assert!(uploads.statuses().await.unwrap().iter().any(|status| status.name == *name), "{name}");
            let upload = begin(uploads, name, &Expected::default()).await;
            assert_eq!(upload.offset(), bytes.len() as u64, "{name}");
            assert_eq!(upload.commit(Expected::default()).await.unwrap().0, Digest::sha256(bytes), "{name}");
        }
        for (ingest, ..) in held {
            ingest.release().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_another_export_has_is_not_joined() {
    let engine = containerd(Stack::shared(), "uploads-ids").await;
    let origin = origin();
    let refused = async |record: &str| {
        let error = engine.open_durable(&origin, record, Events::none()).await.unwrap_err();
        assert!(matches!(error, EngineError::Busy { .. }), "{error}");
    };
    let of_a_build = engine.open(&origin, Events::none()).await.unwrap();
    refused("one").await;
    refused("").await;
    of_a_build.release().await.unwrap();
    let lasting = engine.open_durable(&origin, "one", Events::none()).await.unwrap();
    refused("another").await;
    assert!(engine.open(&origin, Events::none()).await.is_err());
    for record in ["one", ""] {
        engine.open_durable(&origin, record, Events::none()).await.unwrap();
    }
    lasting.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_match_stays_an_upload() {
    for engine in engines("uploads-wrong").await {
        let ingest = opened(&*engine).await;
        let uploads = ingest.uploads().unwrap();
        let bytes = content("wrong ");
        let (size, other) = (bytes.len() as u64, Digest::sha256(b"other"));
        let wrongs = [Expected { digest: Some(other), size: None }, Expected { digest: None, size: Some(size + 1) }];
        let mut upload = begin(uploads, "wrong", &Expected::default()).await;
        upload.write(bytes.clone()).await.unwrap();
        for wrong in wrongs {
            let error = upload.commit(wrong).await.unwrap_err();
            assert!(matches!(error, EngineError::Corrupt { .. }), "{error}");
            upload = begin(uploads, "wrong", &Expected::default()).await;
            assert_eq!(upload.offset(), size);
        }
        upload.restart().await.unwrap();
        assert_eq!(upload.offset(), 0);
        upload.write(bytes.slice(..10)).await.unwrap();
        assert_eq!(upload.commit(Expected::default()).await.unwrap(), (Digest::sha256(&bytes[..10]), 10));
        ingest.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_by_the_end_is_not_written_twice() {
    for engine in engines("uploads-twice").await {
        let ingest = opened(&*engine).await;
        let uploads = ingest.uploads().unwrap();
        let bytes = content("twice ");
        let mut late = begin(uploads, "late", &Expected::default()).await;
        late.write(bytes.clone()).await.unwrap();
        upload(uploads, "early", &bytes).await.unwrap();
        let error = late.commit(Expected::default()).await.unwrap_err();
        assert!(matches!(&error, EngineError::Present { digest } if *digest == Digest::sha256(&bytes)), "{error}");
        assert_eq!(uploads.statuses().await.unwrap(), []);
        let pinned = uploads.pin(&[Digest::sha256(b"absent"), Digest::sha256(&bytes)]).await.unwrap();
        assert_eq!(pinned, [None, Some(bytes.len() as u64)]);
        ingest.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_are_aborted_and_have_one_writer() {
    for engine in engines("uploads-abort").await {
        let stack = Stack::shared();
        let ingest = opened(&*engine).await;
        let uploads = ingest.uploads().unwrap();
        let mut first = begin(uploads, "one", &Expected::default()).await;
        first.write(content("one ")).await.unwrap();
        let error = uploads.begin("one", &Expected::default()).await.unwrap_err();
        assert!(matches!(error, EngineError::Busy { .. }), "{error}");
        first.suspend().await.unwrap();
        uploads.abort("one").await.unwrap();
        uploads.abort("one").await.unwrap();
        assert_eq!(uploads.status("one").await.unwrap(), None);
        for name in ["", "a\nb", &"x".repeat(513)] {
            let error = uploads.begin(name, &Expected::default()).await.unwrap_err();
            assert!(matches!(error, EngineError::UploadName { .. }), "{error}");
        }
        begin(uploads, "two", &Expected::default()).await.suspend().await.unwrap();
        ingest.release().await.unwrap();
        assert_eq!(stack.ingests("uploads-abort"), [""; 0]);
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
        let ingest = engine.open_durable(&origin, "", Events::none()).await.unwrap();
        let uploads = ingest.uploads().unwrap();
        upload(uploads, "config", &image.blobs[&image.config.digest]).await.unwrap();
        let mut half = begin(uploads, "layer", &Expected::default()).await;
        half.write(layer.slice(..5000)).await.unwrap();
        half.suspend().await.unwrap();
    }
    let engine = containerd(stack, "durable").await;
    assert_eq!(engine.recover().await.unwrap(), 0);
    let ingest = engine.open_durable(&origin, "", Events::none()).await.unwrap();
    let uploads = ingest.uploads().unwrap();
    assert_eq!(uploads.pin(std::slice::from_ref(&image.config.digest)).await.unwrap(), [Some(image.config.size)]);
    let mut rest = begin(uploads, "layer", &Expected::default()).await;
    rest.write(layer.slice(5000..)).await.unwrap();
    assert_eq!(rest.commit(Expected::default()).await.unwrap().0, image.layers[0].digest);
    upload(uploads, "manifest", &image.blobs[&image.root.digest]).await.unwrap();
    let plan = ingest.plan(&image.graph()).await.unwrap();
    assert_eq!((plan.present.len(), plan.missing.len()), (3, 0));
    ingest.settle().await.unwrap();
    ingest.commit(&names(&["durable:1"])).await.unwrap();
    ingest.release().await.unwrap();
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
        let ingest = engine.open_durable(&origin, "", Events::none()).await.unwrap();
        let uploads = ingest.uploads().unwrap();
        upload(uploads, "config", &image.blobs[&image.config.digest]).await.unwrap();
        let mut half = begin(uploads, "layer", &Expected::default()).await;
        half.write(layer.slice(..2_000_000)).await.unwrap();
        half.suspend().await.unwrap();
    }
    let blob = root.join("blobs/sha256").join(image.config.digest.hex());
    until("the config to have its name", || blob.exists(), |is_there| *is_there);
    let engine = layout(&root).await;
    assert_eq!(engine.recover().await.unwrap(), 0);
    let ingest = engine.open_durable(&origin, "", Events::none()).await.unwrap();
    let uploads = ingest.uploads().unwrap();
    assert_eq!(uploads.pinned().await.unwrap(), std::slice::from_ref(&image.config.digest));
    let mut rest = begin(uploads, "layer", &Expected::default()).await;
    assert_eq!(rest.offset(), 2_000_000);
    rest.write(layer.slice(2_000_000..)).await.unwrap();
    assert_eq!(rest.digest().await.unwrap(), image.layers[0].digest);
    assert_eq!(rest.commit(Expected::default()).await.unwrap().0, image.layers[0].digest);
    upload(uploads, "manifest", &image.blobs[&image.root.digest]).await.unwrap();
    let plan = ingest.plan(&image.graph()).await.unwrap();
    assert_eq!((plan.present.len(), plan.missing.len()), (3, 0));
    ingest.settle().await.unwrap();
    ingest.commit(&names(&["durable:1"])).await.unwrap();
    ingest.release().await.unwrap();
    assert_eq!(engine.current(&image.root, &names(&["durable:1"])).await.unwrap(), Some(3));
    assert_eq!(std::fs::read_dir(root.join(".linkspan/uploads")).unwrap().count(), 0);
}
