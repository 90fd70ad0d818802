//! When dockerd loses a blob between the look-up and the load, speaks gRPC in the old way, or says what is not true.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use linkspan::engine::select::select;
use linkspan::engine::{EngineError, Lifetime};
use linkspan::export::{Exports, Request};
use linkspan::progress::Events;

use super::{relayed, selection};
use crate::choice::old_dockerd;
use crate::common::Stack;
use crate::fixture::{Blobs, Image, Layer, begin, export, names, origin, send};

fn with(seed: &str, common: &[u8]) -> Image {
    Image::new(&[Layer::new().file("common", common).tar(), Layer::new().file(seed, seed).tar()])
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
async fn a_name_gets_back_its_image_if_what_it_needs_is_gone() {
    let stack = Stack::shared();
    let (relay, engine) = relayed(stack).await;
    let common = vec![41; 1 << 20];
    let before = with("api-back-before", &common);
    let other = Image::new(&[Layer::new().file("api-back-other", "1").tar()]);
    export(&*engine, &before, &names(&["api-back:holds"])).await.unwrap();
    export(&*engine, &other, &names(&["api-back:1"])).await.unwrap();
    let image = with("api-back-after", &common);
    let gone = image.layers[0].digest.to_string();
    relay.on_load(move || drop(stack.ctr("moby", ["content", "rm", &gone]).ok()));
    let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
    let transaction = begin(&lease, image.graph()).await.unwrap();
    assert_eq!(transaction.plan().missing.len(), 1);
    send(&*transaction, &image.layers[1], &image.blobs[&image.layers[1].digest]).await.unwrap();
    let commit = names(&["api-back:1", "api-back:new"]);
    let error = transaction.prepare().await.unwrap().commit(&commit, &[]).await.unwrap_err();
    assert!(
        matches!(&error, EngineError::Vanished { digests } if *digests == [image.layers[0].digest.clone()]),
        "{error}"
    );
    assert_eq!(stack.tagged("moby", "api-back:1"), Some(other.root.digest.to_string()));
    assert_eq!(stack.tagged("moby", "api-back:new"), None);
    // The next plan of the same export relies on nothing.
    let whole = begin(&lease, image.graph()).await.unwrap();
    assert_eq!((whole.plan().missing.len(), whole.plan().present.len()), (2, 0));
    lease.release().await.unwrap();
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
    transaction.prepare().await.unwrap().commit(&names(&["api-corrupt:1"]), &[]).await.unwrap_err();
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
