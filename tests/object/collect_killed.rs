//! Collectors that are killed or interrupted: whatever the instant, nobody loses anything, and the next collection leaves nothing behind.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use linkspan::engine::Engine;
use linkspan::engine::images::Record;
use linkspan::image::{Digest, Reference};
use rustix::process::Signal;
use tokio::sync::Semaphore;

use crate::collect::{check_whole, collect, left, next_second};
use crate::common::{Bucket, Minio, Stack, text, until};
use crate::faulty::{Fault, Faulty};
use crate::fixture::{Image, export, names};
use crate::names::layout;
use crate::uploads::noise;

/// More requests than a collection of the buckets here makes.
const MOST: usize = 400;
/// Every so many-th request is one at which a collector is killed.
const STEP: usize = 3;

fn layer(seed: u64) -> bytes::Bytes {
    noise(1, seed).slice(..3_000)
}

/// Images that share layers: one that keeps its tag, one that is pushed again after it was collected, and one that is lost.
struct Three {
    kept: Image,
    again: Image,
    lost: Image,
}

impl Three {
    fn new() -> Self {
        let [base, shared, one, other, third] = [400, 401, 402, 403, 404].map(layer);
        Self {
            kept: Image::new(&[base.clone(), one]),
            again: Image::new(&[base, shared.clone(), other]),
            lost: Image::new(&[shared, third]),
        }
    }
}

fn name(text: &str) -> Reference {
    names(&[text]).remove(0)
}

async fn remove(engine: &dyn Engine, image: &Image, tag: &str) {
    let record = Record { name: Some(name(tag).to_string()), target: image.root.clone() };
    engine.remove(&record, false).await.unwrap();
}

/// A bucket in which only `kept:1` has a tag.
async fn bucket_of(three: &Three) -> Bucket {
    let bucket = Minio::shared().bucket();
    let engine = bucket.engine().await.unwrap().engine;
    for (image, tag) in [(&three.kept, "kept:1"), (&three.again, "again:1"), (&three.lost, "lost:1")] {
        export(&*engine, image, &names(&[tag])).await.unwrap();
    }
    remove(&*engine, &three.again, "again:1").await;
    remove(&*engine, &three.lost, "lost:1").await;
    bucket
}

/// Fails if there is a blob that none of `images` has, or a link to one.
fn check_nothing_else(bucket: &Bucket, images: &[&Image]) {
    let needed: BTreeSet<_> = images.iter().flat_map(|image| image.blobs.keys().map(Digest::hex)).collect();
    let is_known = |key: &String| key.split('/').any(|part| needed.contains(part)) || key.ends_with("/current/link");
    let unknown: Vec<_> =
        bucket.keys().into_iter().filter(|key| key.starts_with("docker/") && !is_known(key)).collect();
    assert_eq!((unknown, left(bucket)), (Vec::<String>::new(), Vec::new()));
}

/// Kills a collector in `bucket` at its request `at`. Then a writer and another collector run. Returns whether the first one had
/// ended before that request.
async fn kill_at(bucket: &Bucket, three: &Three, at: usize, fault: Fault) -> bool {
    let mut requests = 0;
    let faulty = Faulty::start(bucket, move |_, _| {
        requests += 1;
        if requests == at { fault } else { Fault::Pass }
    })
    .await;
    let collector = faulty.bucket(bucket).linkspan(["gc", "--grace", "0", "--wait", "0"]).spawn();
    // One of these must come: it makes the request, or it says that it has ended.
    let ended = || collector.stdout().contains("Total reclaimed space");
    let what = format!("request {at} of a collector, or its end");
    tokio::task::block_in_place(|| until(&what, || faulty.count(fault) > 0 || ended(), |it| *it));
    let is_over = faulty.count(fault) == 0;
    if !is_over {
        collector.signal(Signal::KILL);
    }
    let output = tokio::task::block_in_place(|| collector.wait());
    assert_eq!(output.status.success(), is_over, "{output}");

    let (writer, next) = (bucket.engine().await.unwrap().engine, bucket.engine().await.unwrap().engine);
    let back = names(&["back:1"]);
    // The writer waits for what is being deleted, which the other collector finishes.
    let (exported, _) = tokio::join!(export(&*writer, &three.again, &back), collect(&*next, Duration::ZERO));
    exported.unwrap();
    check_whole(bucket, &name("kept:1"), &three.kept).await;
    check_whole(bucket, &back[0], &three.again).await;
    next_second().await;
    collect(&*next, Duration::ZERO).await;
    check_whole(bucket, &name("kept:1"), &three.kept).await;
    check_whole(bucket, &back[0], &three.again).await;
    check_nothing_else(bucket, &[&three.kept, &three.again]);
    is_over
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn a_collector_that_is_killed_at_any_request_harms_nobody_and_leaves_nothing() {
    let three = Arc::new(Three::new());
    let slots = Arc::new(Semaphore::new(4));
    for fault in [Fault::Stall, Fault::Unanswered] {
        // The two kinds take turns, and come to all requests together in as few rounds.
        let mut at = if fault == Fault::Stall { 2 } else { 3 };
        let mut ended = false;
        while !ended {
            let mut cases = Vec::new();
            for _ in 0..8 {
                cases.push((at, bucket_of(&three).await));
                at += STEP;
            }
            next_second().await;
            let cases = cases.into_iter().map(|(at, bucket)| {
                let (three, slots) = (three.clone(), slots.clone());
                tokio::spawn(async move {
                    let _slot = slots.acquire().await.unwrap();
                    kill_at(&bucket, &three, at, fault).await
                })
            });
            for case in cases.collect::<Vec<_>>() {
                ended |= tokio::time::timeout(Duration::from_secs(240), case).await.unwrap().unwrap();
            }
            assert!(at < MOST, "a collection does not end");
        }
        eprintln!("{fault:?}: a collection has fewer than {at} requests");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_registry_was_pushed_after_a_collector_was_interrupted_is_kept_by_the_next_one() {
    let (stack, three) = (Stack::shared(), Three::new());
    let bucket = bucket_of(&three).await;
    next_second().await;
    // One that is about to delete what it has condemned: deletions are POSTs to the bucket.
    let faulty =
        Faulty::start(
            &bucket,
            |method, target| {
                if method == "POST" && target.contains("?delete") { Fault::Stall } else { Fault::Pass }
            },
        )
        .await;
    let collector = faulty.bucket(&bucket).linkspan(["gc", "--grace", "0", "--wait", "0"]).spawn();
    until("the collector to delete something", || faulty.count(Fault::Stall), |count| *count > 0);
    collector.signal(Signal::INT);
    let output = collector.wait();
    assert_eq!(output.status.code(), Some(130), "{output}");
    assert!(output.stderr.contains("the next `linkspan gc` finishes what was begun"), "{output}");

    let registry = bucket.registry(stack);
    let folder = tempfile::tempdir().unwrap();
    export(&*layout(folder.path()).await, &three.again, &names(&["x:1"])).await.unwrap();
    let pushed = format!("{}/pushed:1", registry.address);
    stack.run("crane").args(["push", text(folder.path()), &pushed]).ok();
    let done = bucket.linkspan(["gc", "--wait", "0", "--json"]).ok().stdout;
    let done: serde_json::Value = serde_json::from_str(&done).unwrap();
    assert_eq!(done["finished"], 1, "{done}");
    check_whole(&bucket, &name("pushed:1"), &three.again).await;
    check_whole(&bucket, &name("kept:1"), &three.kept).await;
    next_second().await;
    bucket.linkspan(["gc", "--grace", "0", "--wait", "0"]).ok();
    check_whole(&bucket, &name("pushed:1"), &three.again).await;
    check_nothing_else(&bucket, &[&three.kept, &three.again]);
}
