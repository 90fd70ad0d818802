//! A store that fails: short failures are repeated, others are errors that name the object, and nothing of an export is visible.

use std::sync::atomic::{AtomicUsize, Ordering};

use linkspan::engine::{Engine, EngineError, Lifetime, Precondition};
use linkspan::image::Reference;

use crate::common::Minio;
use crate::faulty::{Fault, Faulty};
use crate::fixture::{Image, begin, export, image, names, origin, send};
use crate::names::resolved;
use crate::uploads::noise;

/// An image with a layer of some parts, and a small one.
fn large(seed: u64) -> Image {
    Image::new(&[noise(20, seed), noise(1, seed + 1)])
}

fn is_write(method: &str, target: &str, part: &str) -> bool {
    matches!(method, "PUT" | "POST") && target.contains(part)
}

/// Commits a complete image under a name that must not exist.
async fn create(engine: &dyn Engine, image: &Image, name: &Reference) -> Result<(), EngineError> {
    let lease = engine.lease(&origin(), Lifetime::Process).await?;
    let transaction = begin(&lease, image.graph()).await?;
    for blob in transaction.plan().missing.clone() {
        send(&*transaction, &blob, &image.blobs[&blob.digest]).await?;
    }
    let condition = Precondition { name: name.clone(), expected: vec![None] };
    let set = transaction.prepare().await?.commit(std::slice::from_ref(name), &[condition]).await;
    lease.release().await?;
    set
}

#[tokio::test(flavor = "multi_thread")]
async fn short_failures_are_repeated() {
    let (bucket, image) = (Minio::shared().bucket(), large(100));
    let count = AtomicUsize::new(0);
    let faulty = Faulty::start(&bucket, move |_, _| match count.fetch_add(1, Ordering::Relaxed) % 7 {
        1 => Fault::Reset,
        3 => Fault::Status(503, "SlowDown"),
        5 => Fault::Status(500, "InternalError"),
        _ => Fault::Pass,
    })
    .await;
    let engine = faulty.bucket(&bucket).engine().await.unwrap().engine;
    export(&*engine, &image, &names(&["repeated:1"])).await.unwrap();
    assert!(faulty.count(Fault::Reset) > 0 && faulty.count(Fault::Status(503, "SlowDown")) > 0);
    assert_eq!(resolved(&bucket, "repeated:1").await, Some(image.root.digest.clone()));
    let direct = bucket.engine().await.unwrap().engine;
    let complete = direct.already_complete(&image.root, &names(&["repeated:1"])).await.unwrap();
    assert_eq!(complete, Some(image.blobs.len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_of_which_the_answer_is_lost_counts_once() {
    let (bucket, image) = (Minio::shared().bucket(), large(110));
    // The completion of the layer, and the link of the tag.
    let mut lost = Vec::new();
    let faulty = Faulty::start(&bucket, move |method, target| {
        let is_completion = method == "POST" && target.contains("uploadId=");
        let is_tag = is_write(method, target, "/current/link");
        let is_meant = (is_completion || is_tag) && !lost.contains(&is_tag);
        if is_meant {
            lost.push(is_tag);
        }
        if is_meant { Fault::Lost } else { Fault::Pass }
    })
    .await;
    let engine = faulty.bucket(&bucket).engine().await.unwrap().engine;
    create(&*engine, &image, &names(&["once:1"])[0]).await.unwrap();
    assert_eq!(faulty.count(Fault::Lost), 2, "{:?}", faulty.seen());
    assert_eq!(resolved(&bucket, "once:1").await, Some(image.root.digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_refuses_names_the_object_and_nothing_is_visible() {
    for (fault, part, expected) in [
        (Fault::Status(403, "AccessDenied"), "blobs/sha256", "credentials"),
        (Fault::Status(403, "AccessDenied"), "partNumber=2", "credentials"),
        (Fault::Status(507, "XMinioStorageFull"), "blobs/sha256", "free space in the object store"),
        (Fault::Status(400, "EntityTooLarge"), "_layers/", "AWS_ENDPOINT_URL"),
        (Fault::Status(503, "SlowDown"), "_manifests/revisions", "export again"),
        (Fault::Reset, "uploads", "AWS_ENDPOINT_URL"),
    ] {
        let bucket = Minio::shared().bucket();
        let faulty = Faulty::start(
            &bucket,
            move |method, target| if is_write(method, target, part) { fault } else { Fault::Pass },
        )
        .await;
        let engine = faulty.bucket(&bucket).engine().await.unwrap().engine;
        let error = export(&*engine, &large(120), &names(&["refused:1"])).await.unwrap_err();
        let (text, hint) = (error.to_string(), error.hint().unwrap());
        assert!(
            text.contains(&format!("s3://{}/some/prefix/", bucket.name)) && hint.contains(expected),
            "{text}; {hint}"
        );
        if let Fault::Status(_, code) = fault {
            assert!(text.contains(code) && text.contains("made by the test"), "{text}");
        }
        assert_eq!(resolved(&bucket, "refused:1").await, None);
        assert!(!bucket.keys().iter().any(|key| key.contains("/current/")), "{part}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_another_writer_set_meanwhile_is_not_overwritten() {
    let bucket = Minio::shared().bucket();
    let faulty = Faulty::start(&bucket, |method, target| {
        let is_tag = is_write(method, target, "/current/link");
        if is_tag { Fault::Status(412, "PreconditionFailed") } else { Fault::Pass }
    })
    .await;
    let engine = faulty.bucket(&bucket).engine().await.unwrap().engine;
    let error = create(&*engine, &image("moved meanwhile\n"), &names(&["moved:1"])[0]).await.unwrap_err();
    assert!(matches!(error, EngineError::NameMoved { current: None, .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_preconditions_sets_tags_plainly_and_says_what_it_cannot() {
    let bucket = Minio::shared().bucket();
    let faulty = Faulty::start(&bucket, |method, target| {
        // It writes whatever is asked.
        if is_write(method, target, "_linkspan/conditional") { Fault::Status(200, "OK") } else { Fault::Pass }
    })
    .await;
    let engine = faulty.bucket(&bucket).engine().await.unwrap().engine;
    let (one, other) = (image("plain\n"), image("conditional\n"));
    export(&*engine, &one, &names(&["plain:1"])).await.unwrap();
    let error = create(&*engine, &other, &names(&["conditional:1"])[0]).await.unwrap_err();
    assert!(error.to_string().contains("no conditional writes"), "{error}");
    assert!(error.hint().unwrap().contains("--deny-tag-move"));
    assert_eq!(resolved(&bucket, "plain:1").await, Some(one.root.digest));
    assert_eq!(resolved(&bucket, "conditional:1").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_goes_on_where_a_response_was_cut() {
    let (bucket, image) = (Minio::shared().bucket(), large(130));
    export(&*bucket.engine().await.unwrap().engine, &image, &names(&["cut:1"])).await.unwrap();
    let count = AtomicUsize::new(0);
    let faulty = Faulty::start(&bucket, move |method, target| {
        let is_blob = method == "GET" && target.contains("blobs/sha256");
        let is_cut = is_blob && count.fetch_add(1, Ordering::Relaxed) % 4 < 2;
        if is_cut { Fault::Cut } else { Fault::Pass }
    })
    .await;
    let images = faulty.bucket(&bucket).engine().await.unwrap().engine.images().unwrap();
    for layer in &image.layers {
        use futures_util::TryStreamExt as _;
        let chunks: Vec<bytes::Bytes> = images.open(layer, 0).await.unwrap().try_collect().await.unwrap();
        assert!(layer.digest.verify(&chunks.concat()));
    }
    assert!(faulty.count(Fault::Cut) >= 2);
}
