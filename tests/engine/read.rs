//! Reading what an engine holds, and copying images from one to another.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use linkspan::engine::Engine;
use linkspan::engine::images::{Images, Query};
use linkspan::export::{Exports, Request};
use linkspan::image::{Descriptor, Digest};
use linkspan::progress::Events;
use linkspan::source::{Chunks, Source, SourceError, read_range};

use crate::common::Stack;
use crate::fixture::{Image, Layer, containerd, docker, export, names, origin};

async fn all(chunks: Result<Chunks, SourceError>) -> Result<Vec<u8>, SourceError> {
    Ok(chunks?.try_collect::<Vec<Bytes>>().await?.concat())
}

async fn listed(images: &dyn Images, prefix: &str, limit: usize) -> Vec<String> {
    let (mut query, mut names) = (Query { prefix: prefix.to_owned(), after: None, limit }, Vec::new());
    loop {
        let page = images.list(&query).await.unwrap();
        assert!(page.records.len() <= limit);
        names.extend(page.records.into_iter().map(|record| record.name.unwrap_or_else(|| "-".to_owned())));
        let Some(next) = page.next else { return names };
        query.after = Some(next);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_found_by_name_and_by_digest() {
    let engine = containerd(Stack::shared(), "read-names").await;
    let image = Image::new(&[Layer::new().file("read", "1").tar()]);
    export(&*engine, &image, &names(&["read:1", "example.com/read:2"])).await.unwrap();
    let images = engine.images().unwrap();

    for name in ["read:1", "example.com/read:2", &format!("read@{}", image.root.digest)] {
        assert_eq!(images.resolve(&name.parse().unwrap()).await.unwrap().as_ref(), Some(&image.root), "{name}");
    }
    let elsewhere = format!("other@{}", image.root.digest);
    for name in ["read:2", &elsewhere] {
        assert_eq!(images.resolve(&name.parse().unwrap()).await.unwrap(), None, "{name}");
    }
    for known in [&image.root, &image.config] {
        assert_eq!(images.identify(&known.digest).await.unwrap().as_ref(), Some(known));
    }
    let layer = images.identify(&image.layers[0].digest).await.unwrap().unwrap();
    assert_eq!((layer.media_type.as_str(), layer.size), ("application/octet-stream", image.layers[0].size));
    assert_eq!(images.size(&image.config.digest).await.unwrap(), Some(image.config.size));
    let unknown = Digest::sha256(b"nobody has this");
    assert_eq!((images.size(&unknown).await.unwrap(), images.identify(&unknown).await.unwrap()), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_come_in_pages_and_by_prefix() {
    let engine = containerd(Stack::shared(), "read-pages").await;
    let image = Image::new(&[Layer::new().file("pages", "1").tar()]);
    export(&*engine, &image, &names(&["b:1", "a:2", "a:1", "example.com/a:1"])).await.unwrap();
    export(&*engine, &image, &[]).await.unwrap();
    let images = engine.images().unwrap();
    let expected = ["-", "docker.io/library/a:1", "docker.io/library/a:2", "docker.io/library/b:1", "example.com/a:1"];
    for limit in [1, 2, 5, 9] {
        assert_eq!(listed(&*images, "", limit).await, expected);
    }
    assert_eq!(listed(&*images, "docker.io/library/a", 1).await, expected[1..3]);
    assert_eq!(listed(&*images, "nothing", 1).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_are_read_in_whole_and_in_part() {
    let engine = containerd(Stack::shared(), "read-blobs").await;
    let content: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
    let image = Image::new(&[Layer::new().file("content", &content).tar()]);
    export(&*engine, &image, &names(&["blobs:1"])).await.unwrap();
    let (images, layer) = (engine.images().unwrap(), &image.layers[0]);
    let bytes = &image.blobs[&layer.digest];
    for offset in [0, 1, 1_500_000, layer.size] {
        assert_eq!(all(images.open(layer, offset).await).await.unwrap(), bytes[offset as usize..], "{offset}");
    }
    let part = all(read_range(&*images, layer, 999_999..2_000_001).await).await.unwrap();
    assert_eq!(part, bytes[999_999..2_000_001]);
    let unknown = Descriptor::new("", Digest::sha256(b"nobody has this"), 1);
    let error = all(images.open(&unknown, 0).await).await.unwrap_err();
    assert!(matches!(error, SourceError::NotFound { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dockers_images_have_dockers_names() {
    let stack = Stack::shared();
    let engine = docker(stack).await;
    let [old, new] =
        ["old", "new"].map(|content| Image::new(&[Layer::busybox().tar(), Layer::new().file("age", content).tar()]));
    export(&*engine, &old, &names(&["ages:1"])).await.unwrap();
    export(&*engine, &new, &names(&["ages:1"])).await.unwrap();
    let images = engine.images().unwrap();
    assert_eq!(images.resolve(&"ages:1".parse().unwrap()).await.unwrap().unwrap().digest, new.root.digest);
    let page = images.list(&Query::default()).await.unwrap();
    let name_of =
        |digest: &Digest| page.records.iter().find(|record| record.target.digest == *digest).unwrap().name.clone();
    assert_eq!(name_of(&new.root.digest).as_deref(), Some("docker.io/library/ages:1"));
    assert_eq!(name_of(&old.root.digest), None, "it lost its name");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_copied_from_engine_to_engine() {
    let stack = Stack::shared();
    let from = docker(stack).await;
    let to: Arc<dyn Engine> = containerd(stack, "copied").await;
    let image = Image::new(&[Layer::busybox().tar(), Layer::new().file("copied", "1").tar()]);
    export(&*from, &image, &names(&["copied:1"])).await.unwrap();

    let images = from.images().unwrap();
    let root = images.resolve(&"copied:1".parse().unwrap()).await.unwrap().unwrap();
    let request = Request::new(root, names(&["copied:2"]), origin());
    let exports = Exports::new(to);
    exports.run(request, images as Arc<dyn Source>, Events::none()).await.unwrap();
    exports.finish().await;
    assert_eq!(stack.images("copied"), [("docker.io/library/copied:2".to_owned(), image.root.digest.to_string())]);
    let checked = stack.ctr("copied", ["images", "check"]).ok().stdout;
    assert!(checked.contains("complete (3/3)"), "{checked}");
}
