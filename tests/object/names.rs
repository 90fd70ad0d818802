//! Tags: who may set them, when several writers do, and what registries have that names cannot say.

use std::path::Path;
use std::sync::Arc;

use linkspan::engine::select::{Selection, select};
use linkspan::engine::{Engine, EngineError, ImageTransaction, Lease, Lifetime, Precondition};
use linkspan::image::{Digest, Reference};

use crate::common::{Bucket, Minio};
use crate::fixture::{Image, begin, export, image, names, origin, send};

/// An image layout at `root`.
pub(crate) async fn layout(root: &Path) -> Arc<dyn Engine> {
    select(&Selection::layout(root)).await.unwrap().engine
}

/// What a name resolves to.
pub(crate) async fn resolved(bucket: &Bucket, name: &str) -> Option<Digest> {
    bucket.engine().await.unwrap().engine.resolve(&names(&[name])[0]).await.unwrap()
}

/// An image of which all is there but the names.
pub(crate) async fn prepared(engine: &dyn Engine, image: &Image) -> (Arc<dyn Lease>, Box<dyn ImageTransaction>) {
    let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
    let transaction = begin(&lease, image.graph()).await.unwrap();
    for blob in transaction.plan().missing.clone() {
        send(&*transaction, &blob, &image.blobs[&blob.digest]).await.unwrap();
    }
    (lease, transaction)
}

pub(crate) fn precondition(name: &Reference, expected: Option<&Digest>) -> Precondition {
    Precondition { name: name.clone(), expected: vec![expected.cloned()] }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_writers_of_one_tag_one_wins_each_round() {
    let bucket = Minio::shared().bucket();
    let name = names(&["race:1"]).remove(0);
    let mut before: Option<Digest> = None;
    for round in 0..4 {
        let mut writers = Vec::new();
        for writer in 0..8 {
            let (bucket, name, before) = (bucket.clone(), name.clone(), before.clone());
            writers.push(tokio::spawn(async move {
                // Each is a process of its own, as far as the store can tell.
                let engine = bucket.engine().await.unwrap().engine;
                let image = image(&format!("round {round}, writer {writer}\n"));
                let (lease, transaction) = prepared(&*engine, &image).await;
                let conditions = [precondition(&name, before.as_ref())];
                let set = transaction.prepare().await.unwrap().commit(&[name], &conditions).await;
                lease.release().await.unwrap();
                (image.root.digest, set)
            }));
        }
        let (mut won, mut lost) = (Vec::new(), 0);
        for writer in writers {
            match writer.await.unwrap() {
                (digest, Ok(())) => won.push(digest),
                (_, Err(EngineError::NameMoved { name, current: Some(_) })) => {
                    assert_eq!(name, "docker.io/library/race:1");
                    lost += 1;
                }
                (_, Err(error)) => panic!("{error}"),
            }
        }
        assert_eq!((won.len(), lost), (1, 7), "round {round}: {won:?}");
        before = won.pop();
        assert_eq!(resolved(&bucket, "race:1").await, before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_names_are_set_or_none_where_one_must_not_move() {
    let bucket = Minio::shared().bucket();
    let engine = bucket.engine().await.unwrap().engine;
    let (old, new) = (image("old\n"), image("new\n"));
    let set = names(&["both:1", "both:2", "free:1"]);
    export(&*engine, &old, &set[1..2]).await.unwrap();
    let (lease, transaction) = prepared(&*engine, &new).await;
    let conditions = [precondition(&set[0], None), precondition(&set[1], None)];
    let error = transaction.prepare().await.unwrap().commit(&set, &conditions).await.unwrap_err();
    assert!(
        matches!(&error, EngineError::NameMoved { current: Some(current), .. } if *current == old.root.digest),
        "{error}"
    );
    assert_eq!(resolved(&bucket, "both:1").await, None, "it was set, and is as it was");
    assert_eq!(resolved(&bucket, "free:1").await, None);
    assert_eq!(resolved(&bucket, "both:2").await, Some(old.root.digest.clone()));
    let conditions = [precondition(&set[0], None), precondition(&set[1], Some(&old.root.digest))];
    transaction.prepare().await.unwrap().commit(&set, &conditions).await.unwrap();
    for name in ["both:1", "both:2", "free:1"] {
        assert_eq!(resolved(&bucket, name).await, Some(new.root.digest.clone()), "{name}");
    }
    lease.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_with_a_digest_is_that_image_whatever_its_tag() {
    let bucket = Minio::shared().bucket();
    let engine = bucket.engine().await.unwrap().engine;
    let (one, other) = (image("one\n"), image("other\n"));
    for (image, name) in [(&one, "repo:1"), (&other, "repo:1"), (&other, "else:1")] {
        export(&*engine, image, &names(&[name])).await.unwrap();
    }
    let by = |repository: &str, image: &Image| format!("{repository}@{}", image.root.digest);
    assert_eq!(resolved(&bucket, "repo:1").await, Some(other.root.digest.clone()), "the last writer wins");
    assert_eq!(resolved(&bucket, &by("repo", &one)).await, Some(one.root.digest.clone()), "it is still a revision");
    assert_eq!(resolved(&bucket, &by("else", &one)).await, None);
    // A page for each name, and each name once.
    let images = engine.images().unwrap();
    let (mut query, mut seen) = (linkspan::engine::images::Query { limit: 1, ..Default::default() }, Vec::new());
    loop {
        let page = images.list(&query).await.unwrap();
        seen.extend(page.records.into_iter().filter_map(|record| record.name));
        let Some(next) = page.next else { break };
        query.after = Some(next);
    }
    assert_eq!(seen, ["docker.io/library/else:1", "docker.io/library/repo:1"]);
    let of = |prefix: &str| linkspan::engine::images::Query { prefix: prefix.to_owned(), ..Default::default() };
    for (prefix, count) in
        [("docker.io/library/repo:", 1), ("docker.io/library/", 2), ("docker.io/library/rep", 1), ("ghcr.io/", 0)]
    {
        assert_eq!(images.list(&of(prefix)).await.unwrap().records.len(), count, "{prefix}");
    }
}
