//! When dockerd loses a blob between the look-up and the load, speaks gRPC in the old way, or says what is not true.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use linkspan::engine::select::select;
use linkspan::engine::{Engine, EngineError, ImageTransaction, Lease, Lifetime, Precondition};
use linkspan::export::{Exports, Request};
use linkspan::image::{Digest, Reference};
use linkspan::progress::Events;
use tokio::time::timeout;

use super::{relayed, selection};
use crate::choice::old_dockerd;
use crate::common::{Stack, until};
use crate::fixture::{Blobs, Image, Layer, begin, export, names, origin, send};

fn with(seed: &str, common: &[u8]) -> Image {
    Image::new(&[Layer::new().file("common", common).tar(), Layer::new().file(seed, seed).tar()])
}

/// An image that dockerd has but for its last layer.
async fn known(engine: &dyn Engine, seed: &str, common: u8) -> Image {
    let common = vec![common; 1 << 20];
    let before = with(&format!("{seed}-before"), &common);
    export(engine, &before, &names(&[&format!("{seed}:holds")])).await.unwrap();
    with(&format!("{seed}-after"), &common)
}

/// Deletes the common layer of `image`.
fn lose(stack: &Stack, image: &Image) {
    // It may be gone already.
    stack.ctr("moby", ["content", "rm", image.layers[0].digest.as_str()]).output();
}

/// What becomes of an image whose first layer dockerd has.
async fn commit(lease: &Arc<dyn Lease>, image: &Image, names: &[Reference]) -> Result<(), EngineError> {
    let transaction = begin(lease, image.graph()).await.unwrap();
    assert_eq!(transaction.plan().missing.len(), 1);
    send(&*transaction, &image.layers[1], &image.blobs[&image.layers[1].digest]).await.unwrap();
    transaction.prepare().await?.commit(names, &[]).await
}

/// The names that dockerd's containerd has for an image, those of images without a name as well.
pub(super) fn records(stack: &Stack, image: &Image) -> Vec<String> {
    let root = image.root.digest.as_str();
    stack.images("moby").into_iter().filter(|(_, digest)| digest == root).map(|(name, _)| name).collect()
}

fn request(image: &Image, name: &str) -> Request {
    Request::new(image.root.clone(), names(&[name]), origin())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_goes_before_the_load_is_sent_in_a_whole_archive() {
    let stack = Stack::shared();
    let (relay, engine) = relayed(stack).await;
    let common = vec![40; 2 << 20];
    let before = with("api-gone-before", &common);
    export(&*engine, &before, &names(&["api-gone:1"])).await.unwrap();
    relay.take();
    let image = with("api-gone-after", &common);
    let (gone, calls) = (image.layers[0].digest.to_string(), Arc::new(AtomicUsize::new(0)));
    let counted = calls.clone();
    relay.on_load(move || {
        if counted.fetch_add(1, Ordering::SeqCst) == 0 {
            stack.ctr("moby", ["content", "rm", &gone]).ok();
        }
    });
    let exports = Exports::new(engine.clone());
    exports.run(request(&image, "api-gone:1"), Arc::new(Blobs(image.clone())), Events::none()).await.unwrap();
    let (loads, sent) = relay.take();
    assert_eq!((loads, calls.load(Ordering::SeqCst)), (2, 2));
    assert!(sent > 2 << 20, "{sent}");
    assert_eq!(stack.tagged("moby", "api-gone:1"), Some(image.root.digest.to_string()));
    assert_eq!(engine.already_complete(&image.root, &names(&["api-gone:1"])).await.unwrap(), Some(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_fails_leaves_names_as_they_are_and_nothing_without_one() {
    let stack = Stack::shared();
    let (relay, engine) = relayed(stack).await;
    let other = Image::new(&[Layer::new().file("api-back-other", "1").tar()]);
    export(&*engine, &other, &names(&["api-back:1"])).await.unwrap();
    let image = known(&*engine, "api-back", 41).await;
    let gone = image.clone();
    relay.on_load(move || lose(stack, &gone));
    let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
    let error = commit(&lease, &image, &names(&["api-back:1", "api-back:new"])).await.unwrap_err();
    assert!(
        matches!(&error, EngineError::Vanished { digests } if *digests == [image.layers[0].digest.clone()]),
        "{error}"
    );
    assert_eq!(records(stack, &other), ["docker.io/library/api-back:1"]);
    assert_eq!(records(stack, &image), [""; 0]);
    // The next plan of the same export relies on nothing.
    let whole = begin(&lease, image.graph()).await.unwrap();
    assert_eq!((whole.plan().missing.len(), whole.plan().present.len()), (2, 0));
    lease.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn names_get_back_their_images_if_a_layer_goes_while_they_are_set() {
    let stack = Stack::shared();
    let (relay, engine) = relayed(stack).await;
    let other = Image::new(&[Layer::new().file("api-one-other", "1").tar()]);
    export(&*engine, &other, &names(&["api-one:1"])).await.unwrap();
    let image = known(&*engine, "api-one", 46).await;
    let gone = image.clone();
    relay.on_tag(move || lose(stack, &gone));
    let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
    let error = commit(&lease, &image, &names(&["api-one:1", "api-one:new"])).await.unwrap_err();
    assert!(matches!(&error, EngineError::Vanished { .. }), "{error}");
    lease.release().await.unwrap();
    assert_eq!(records(stack, &other), ["docker.io/library/api-one:1"]);
    assert_eq!(records(stack, &image), [""; 0]);
    // An export plans once more, and sends all of it.
    let (gone, times) = (image.clone(), AtomicUsize::new(0));
    relay.on_tag(move || {
        if times.fetch_add(1, Ordering::SeqCst) == 0 {
            lose(stack, &gone)
        }
    });
    relay.take();
    let exports = Exports::new(engine.clone());
    exports.run(request(&image, "api-one:1"), Arc::new(Blobs(image.clone())), Events::none()).await.unwrap();
    assert_eq!(relay.take().0, 2);
    assert_eq!(records(stack, &image), ["docker.io/library/api-one:1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_whose_image_is_gone_is_in_the_error() {
    let stack = Stack::shared();
    let (relay, engine) = relayed(stack).await;
    let other = Image::new(&[Layer::new().file("api-kept-other", "1").tar()]);
    export(&*engine, &other, &names(&["api-kept:1"])).await.unwrap();
    let image = known(&*engine, "api-kept", 47).await;
    let gone = image.clone();
    relay.on_tag(move || lose(stack, &gone));
    // As if somebody had removed the image that had the name before.
    relay.substitute(other.root.digest.as_str(), Digest::sha256(b"gone").as_str());
    let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
    let error = commit(&lease, &image, &names(&["api-kept:1", "api-kept:new"])).await.unwrap_err();
    assert!(
        matches!(&error, EngineError::NamesLeft { names, root, .. }
            if *names == ["api-kept:1"] && *root == image.root.digest),
        "{error:?}"
    );
    // Sent whole, it is complete under its name.
    assert!(error.is_outdated_plan() && error.hint().unwrap().contains("docker rmi api-kept:1"), "{error}");
    assert_eq!(records(stack, &image), ["docker.io/library/api-kept:1"]);
    relay.on_tag(|| ());
    export(&*engine, &image, &names(&["api-kept:1"])).await.unwrap();
    lease.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_nobody_waits_for_gives_names_back() {
    let stack = Stack::shared();
    let (relay, engine) = relayed(stack).await;
    let other = Image::new(&[Layer::new().file("api-left-other", "1").tar()]);
    export(&*engine, &other, &names(&["api-left:1"])).await.unwrap();
    let image = Image::new(&[Layer::new().file("api-left", "1").tar()]);
    relay.hold_tags(true);
    let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
    let transaction: Arc<dyn ImageTransaction> = begin(&lease, image.graph()).await.unwrap().into();
    send(&*transaction, &image.layers[0], &image.blobs[&image.layers[0].digest]).await.unwrap();
    let committed = transaction.clone();
    let commit =
        tokio::spawn(async move { committed.prepare().await.unwrap().commit(&names(&["api-left:1"]), &[]).await });
    let root = Some(image.root.digest.to_string());
    until("docker to set the name", || stack.tagged("moby", "api-left:1"), |now| *now == root);
    commit.abort();
    assert!(commit.await.unwrap_err().is_cancelled());
    relay.hold_tags(false);
    transaction.cancel().await;
    assert_eq!(records(stack, &other), ["docker.io/library/api-left:1"]);
    assert_eq!(records(stack, &image), [""; 0]);
    lease.release().await.unwrap();
    export(&*engine, &image, &names(&["api-left:1"])).await.unwrap();
}

/// dockerd is stuck while it is to set the name for a client that has gone, and the same is exported again.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_set_by_the_next_when_the_one_before_has_given_it_back() {
    let stack = Stack::shared();
    let (relay, engine) = relayed(stack).await;
    let image = Image::new(&[Layer::new().file("api-held", "1").tar()]);
    let [is_asked, is_free] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let (asked, free) = (is_asked.clone(), is_free.clone());
    relay.on_tag(move || {
        if !asked.swap(true, Ordering::SeqCst) {
            while !free.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(10));
            }
        }
    });
    let exports = Arc::new(Exports::new(engine));
    let run = || {
        let (exports, image) = (exports.clone(), image.clone());
        let request = request(&image, "api-held:1");
        tokio::spawn(async move { exports.run(request, Arc::new(Blobs(image)), Events::none()).await })
    };
    let first = run();
    until("docker to be asked", || is_asked.load(Ordering::SeqCst), |is_asked| *is_asked);
    first.abort();
    let mut second = run();
    // However long this is: who comes second has to wait. It is longer than the first one is waited for.
    let early = timeout(Duration::from_secs(22), &mut second).await;
    assert_eq!(exports.unfinished(), 1);
    is_free.store(true, Ordering::SeqCst);
    assert!(early.is_err(), "it did not wait: {early:?}");
    second.await.unwrap().unwrap();
    exports.finish().await;
    assert_eq!(records(stack, &image), ["docker.io/library/api-held:1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_was_there_without_a_name_stays_when_an_export_fails() {
    let stack = Stack::shared();
    let (_relay, engine) = relayed(stack).await;
    let image = Image::new(&[Layer::new().file("api-unnamed", "1").tar()]);
    export(&*engine, &image, &[]).await.unwrap();
    let unnamed = records(stack, &image);
    assert_eq!(unnamed, [format!("moby-dangling@{}", image.root.digest)]);
    let other = Image::new(&[Layer::new().file("api-unnamed-other", "1").tar()]);
    export(&*engine, &other, &names(&["api-unnamed:1"])).await.unwrap();
    let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
    let transaction = begin(&lease, image.graph()).await.unwrap();
    let free = Precondition { name: names(&["api-unnamed:1"])[0].clone(), expected: vec![None] };
    let error = transaction.prepare().await.unwrap().commit(&names(&["api-unnamed:1"]), &[free]).await.unwrap_err();
    assert!(matches!(&error, EngineError::NameMoved { .. }), "{error}");
    transaction.cancel().await;
    lease.release().await.unwrap();
    assert_eq!(records(stack, &image), unnamed);
    assert_eq!(records(stack, &other), ["docker.io/library/api-unnamed:1"]);
    // A name takes its place, as that of `docker tag` does.
    export(&*engine, &image, &names(&["api-unnamed:2"])).await.unwrap();
    assert_eq!(records(stack, &image), ["docker.io/library/api-unnamed:2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_not_what_it_should_be_is_never_named() {
    let stack = Stack::shared();
    let (relay, engine) = relayed(stack).await;
    let image = Image::new(&[Layer::new().file("api-corrupt", vec![42; 1 << 20]).tar()]);
    let layer = &image.layers[0];
    let mut wrong = image.blobs[&layer.digest].to_vec();
    wrong[2000] ^= 1;
    let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
    let transaction = begin(&lease, image.graph()).await.unwrap();
    let error = send(&*transaction, layer, &wrong.into()).await.unwrap_err();
    assert!(matches!(&error, EngineError::Corrupt { digest, .. } if *digest == layer.digest), "{error}");
    transaction.prepare().await.unwrap_err();
    lease.release().await.unwrap();
    assert_eq!((relay.take().0, stack.tagged("moby", "api-corrupt:1")), (1, None));
    export(&*engine, &image, &names(&["api-corrupt:1"])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_before_the_archive_is_read_is_the_error() {
    let stack = Stack::shared();
    let (relay, engine) = relayed(stack).await;
    let image = Image::new(&[Layer::new().file("api-refused", vec![43; 4 << 20]).tar()]);
    relay.respond("403 Forbidden", "authorization denied by plugin opa: no images today");
    let error = export(&*engine, &image, &names(&["api-refused:1"])).await.unwrap_err();
    assert!(
        matches!(&error, EngineError::Commit { engine: "docker", reason } if reason.contains("no images today")),
        "{error}"
    );
    relay.respond("500 Internal Server Error", "write /var/lib/docker/x: no space left on device");
    let error = export(&*engine, &image, &names(&["api-refused:1"])).await.unwrap_err();
    assert!(error.is_full(), "{error}");
    relay.accept();
    export(&*engine, &image, &names(&["api-refused:1"])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_dockerd_is_asked_over_an_upgrade() {
    let stack = Stack::shared();
    let old = old_dockerd(stack);
    let engine = select(&selection(stack, &old.address)).await.unwrap().engine;
    let image = Image::new(&[Layer::new().file("api-old", vec![44; 1 << 20]).tar()]);
    let plan = export(&*engine, &image, &names(&["api-old:1"])).await.unwrap();
    assert_eq!(plan.missing.len(), 1);
    assert_eq!(engine.already_complete(&image.root, &names(&["api-old:1"])).await.unwrap(), Some(3));
    let images = engine.images().unwrap();
    let layer = &image.layers[0];
    assert_eq!(linkspan::source::read_document(&images, layer).await.unwrap(), image.blobs[&layer.digest]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dockerd_that_has_another_store_by_now_is_named() {
    let stack = Stack::shared();
    let (relay, engine) = relayed(stack).await;
    relay.point_at(Stack::classic().docker_classic_host());
    let image = Image::new(&[Layer::new().file("api-switched", vec![45; 1 << 20]).tar()]);
    let error = export(&*engine, &image, &names(&["api-switched:1"])).await.unwrap_err();
    assert!(matches!(error, EngineError::ClassicStore { .. }), "{error}");
    relay.point_at(stack.docker_host());
    export(&*engine, &image, &names(&["api-switched:1"])).await.unwrap();
}
