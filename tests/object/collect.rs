//! `linkspan gc`: what goes, what stays, and that nobody loses anything who writes meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use linkspan::engine::Engine;
use linkspan::engine::collect::{Collected, Collection};
use linkspan::engine::images::{Query, Record};
use linkspan::image::Reference;
use serde_json::Value;

use crate::common::{Bucket, Minio, Stack, linkspan, refusal, text};
use crate::faulty::{Fault, Faulty};
use crate::fixture::{Image, export, image, names};
use crate::names::layout;
use crate::uploads::noise;

pub(crate) fn blobs(bucket: &Bucket) -> usize {
    bucket.keys().iter().filter(|key| key.ends_with("/data")).count()
}

pub(crate) fn left(bucket: &Bucket) -> Vec<String> {
    let ours = |key: &String| key.starts_with("_linkspan/condemned/") || key.starts_with("_linkspan/leases/");
    bucket.keys().into_iter().filter(ours).collect()
}

/// Lists and heads of a store have whole seconds, and what is of the same second is too young for any grace.
pub(crate) async fn next_second() {
    tokio::time::sleep(Duration::from_millis(1_100)).await;
}

pub(crate) async fn collect(engine: &dyn Engine, grace: Duration) -> Collected {
    let wanted = Collection { grace, wait: Duration::from_millis(20), is_dry: false, deleted: &|_, _| {} };
    engine.collect(&wanted).await.unwrap()
}

/// Fails unless every blob of `name` can be read and has its link.
pub(crate) async fn check_whole(bucket: &Bucket, name: &Reference, image: &Image) {
    let engine = bucket.engine().await.unwrap().engine;
    let images = engine.images().unwrap();
    let root = images.resolve(name).await.unwrap();
    assert_eq!(root.as_ref().map(|root| &root.digest), Some(&image.root.digest), "{name}");
    let keys = bucket.keys();
    for blob in image.graph().descriptors() {
        let read: Vec<Bytes> = images.open(blob, 0).await.unwrap().try_collect().await.unwrap();
        assert_eq!(read.concat(), image.blobs[&blob.digest], "{name}: {}", blob.digest);
        let link = format!("{}/link", blob.digest.hex());
        let repository = format!("/repositories/{}/", name.familiar().split(':').next().unwrap());
        assert!(keys.iter().any(|key| key.contains(&repository) && key.ends_with(&link)), "{name} lacks {link}");
    }
}

/// Gives `app:1` a second image, and collects what only the first one had. Returns both, and how many blobs they had.
pub(crate) async fn what_lost_its_tag_is_collected(bucket: &Bucket) -> (Image, Image, usize) {
    let engine = bucket.engine().await.unwrap().engine;
    let (old, new) = (image("old\n"), image("new\n"));
    for image in [&old, &new] {
        export(&*engine, image, &names(&["app:1"])).await.unwrap();
    }
    let before = blobs(bucket);
    next_second().await;
    let kept = bucket.linkspan(["gc", "--wait", "0", "--json"]).ok().stdout;
    let kept: Value = serde_json::from_str(&kept).unwrap();
    assert_eq!((kept["digests"].as_array().map(Vec::len), blobs(bucket)), (Some(0), before), "{kept}");

    // The layer with the greeting, the config and the manifest.
    let dry = bucket.linkspan(["gc", "--grace", "0", "--dry-run"]).ok().stdout;
    assert_eq!(dry.lines().filter(|line| line.starts_with("Would delete: sha256:")).count(), 3, "{dry}");
    assert!(dry.contains(old.root.digest.as_str()) && dry.contains("Would reclaim: "), "{dry}");
    assert_eq!(blobs(bucket), before);
    let done = bucket.linkspan(["gc", "--grace", "0", "--wait", "0"]).ok().stdout;
    assert_eq!(done.replace("Deleted", "Would delete").replace("Total reclaimed space", "Would reclaim"), dry);
    assert_eq!(blobs(bucket), before - 3);
    (old, new, before)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lost_its_tag_goes_after_the_grace_with_its_links() {
    let (stack, bucket) = (Stack::shared(), Minio::shared().bucket());
    let engine = bucket.engine().await.unwrap().engine;
    let (old, new, before) = what_lost_its_tag_is_collected(&bucket).await;
    let keys = bucket.keys();
    assert!(!keys.iter().any(|key| key.contains(old.root.digest.hex())), "{keys:?}");
    check_whole(&bucket, &names(&["app:1"])[0], &new).await;
    let registry = bucket.registry(stack);
    let output = stack.docker(["run", "--rm", &format!("{}/app:1", registry.address), "cat", "/etc/greeting"]).ok();
    assert_eq!(output.stdout, "new\n");

    // And the same image again.
    export(&*engine, &old, &names(&["app:1"])).await.unwrap();
    check_whole(&bucket, &names(&["app:1"])[0], &old).await;
    bucket.linkspan(["rm", "app:1"]).ok();
    next_second().await;
    assert_eq!(collect(&*engine, Duration::ZERO).await.blobs as usize, before);
    assert_eq!((blobs(&bucket), left(&bucket)), (0, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_engines_say_who_collects_there() {
    let folder = tempfile::tempdir().unwrap();
    drop(layout(folder.path()).await);
    let output = linkspan(["gc", "--engine", "layout", "--layout", text(folder.path())]).fails();
    assert!(refusal(&output).contains("for an hour") && output.stderr.contains("layout is not collected"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_preconditions_is_not_collected() {
    let bucket = Minio::shared().bucket();
    let engine = bucket.engine().await.unwrap().engine;
    export(&*engine, &image("kept\n"), &names(&["kept:1"])).await.unwrap();
    // One that says it has written what it was told to create.
    let faulty = Faulty::start(&bucket, |method, target| {
        if method == "PUT" && target.contains("conditional") { Fault::Status(200, "") } else { Fault::Pass }
    })
    .await;
    let before = bucket.keys();
    let output = faulty.bucket(&bucket).linkspan(["gc", "--grace", "0", "--wait", "0"]).fails();
    assert!(refusal(&output).contains("no conditional writes") && output.stderr.contains(&bucket.name), "{output}");
    assert_eq!(bucket.keys(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_and_collectors_race_and_every_tag_is_whole() {
    const ROUNDS: usize = 25;
    let bucket = Minio::shared().bucket();
    let is_over = Arc::new(AtomicBool::new(false));
    // Layers that several images share, as base layers are.
    let layers: Vec<_> = (0..4).map(|at| noise(1, 300 + at).slice(..50_000)).collect();
    let image = |at: usize| Image::new(&[layers[at % 4].clone(), layers[(at + 1) % 4].clone()]);
    let images: Arc<Vec<_>> = Arc::new((0..4).map(image).collect());
    let mut collectors = Vec::new();
    for _ in 0..2 {
        let (bucket, is_over) = (bucket.clone(), is_over.clone());
        collectors.push(tokio::spawn(async move {
            let engine = bucket.engine().await.unwrap().engine;
            let (mut runs, mut deleted) = (0, 0);
            while !is_over.load(Ordering::Relaxed) {
                deleted += collect(&*engine, Duration::ZERO).await.blobs;
                runs += 1;
            }
            (runs, deleted)
        }));
    }
    let mut writers = Vec::new();
    for writer in 0..4 {
        let (bucket, images) = (bucket.clone(), images.clone());
        writers.push(tokio::spawn(async move {
            let name = names(&[&format!("repo{}:w{writer}", writer % 2)]).remove(0);
            for round in 0..ROUNDS {
                let engine = bucket.engine().await.unwrap().engine;
                let image = &images[(writer * 7 + round * 3) % images.len()];
                export(&*engine, image, std::slice::from_ref(&name)).await.unwrap();
                check_whole(&bucket, &name, image).await;
                if round % 3 == 1 {
                    let (name, target) = (Some(name.to_string()), image.root.clone());
                    let record = linkspan::engine::images::Record { name, target };
                    engine.remove(&record, false).await.unwrap();
                }
            }
            (name, (writer * 7 + (ROUNDS - 1) * 3) % images.len())
        }));
    }
    let mut last = Vec::new();
    for writer in writers {
        last.push(tokio::time::timeout(Duration::from_secs(240), writer).await.unwrap().unwrap());
    }
    is_over.store(true, Ordering::Relaxed);
    let (mut runs, mut deleted) = (0, 0);
    for collector in collectors {
        let (own, blobs) = tokio::time::timeout(Duration::from_secs(60), collector).await.unwrap().unwrap();
        (runs, deleted) = (runs + own, deleted + blobs);
    }
    eprintln!("{runs} collections deleted {deleted} blobs beside {} exports", 4 * ROUNDS);
    assert!(runs > 4, "nobody looked meanwhile");
    // On a busy machine all of it may have been in use whenever a collector looked; now something is not.
    let engine = bucket.engine().await.unwrap().engine;
    let (name, unused) = (names(&["repo0:unused"]), self::image("of no use\n"));
    export(&*engine, &unused, &name).await.unwrap();
    let record = linkspan::engine::images::Record { name: Some(name[0].to_string()), target: unused.root.clone() };
    engine.remove(&record, false).await.unwrap();
    next_second().await;
    assert!(collect(&*engine, Duration::ZERO).await.blobs >= 3);
    for (name, image) in &last {
        check_whole(&bucket, name, &images[*image]).await;
    }
    assert_eq!(left(&bucket), [""; 0]);
}

/// As what refers to another image has.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_has_only_a_digest_stays_until_that_is_removed() {
    let bucket = Minio::shared().bucket();
    let engine = bucket.engine().await.unwrap().engine;
    let image = image("kept by its digest\n");
    let kept = format!("docker.io/kept/app@{}", image.root.digest);
    let set = names(&[&kept]);
    export(&*engine, &image, &set).await.unwrap();
    assert_eq!(engine.already_complete(&image.root, &set).await.unwrap(), Some(image.blobs.len()));
    let images = engine.images().unwrap();
    let listed = async |prefix: &str| {
        let query = Query { prefix: prefix.to_owned(), ..Query::default() };
        let records = images.list(&query).await.unwrap().records;
        records.into_iter().map(|record| record.name.unwrap()).collect::<Vec<_>>()
    };
    for prefix in ["", "docker.io/", "docker.io/kept/app@"] {
        assert_eq!(listed(prefix).await, std::slice::from_ref(&kept), "{prefix}");
    }
    for prefix in ["docker.io/kept/app:", "docker.io/kept/a@", "docker.io/kept@", "other"] {
        assert_eq!(listed(prefix).await, Vec::<String>::new(), "{prefix}");
    }
    // A tag elsewhere is another name, and its end is not that of this one.
    let tag = names(&["other/app:1"]).remove(0);
    engine.tag(&image.root, &tag).await.unwrap();
    assert_eq!(listed("").await, [kept.clone(), tag.to_string()]);
    engine.remove(&Record { name: Some(tag.to_string()), target: image.root.clone() }, false).await.unwrap();
    next_second().await;
    collect(&*engine, Duration::ZERO).await;
    assert_eq!((listed("").await, blobs(&bucket)), (vec![kept.clone()], image.blobs.len()));
    engine.remove(&Record { name: Some(kept), target: image.root.clone() }, false).await.unwrap();
    assert_eq!(listed("").await, Vec::<String>::new());
    assert_eq!(engine.already_complete(&image.root, &set).await.unwrap(), None);
    next_second().await;
    collect(&*engine, Duration::ZERO).await;
    assert_eq!(blobs(&bucket), 0);
}
