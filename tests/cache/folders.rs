//! Folders, beside BuildKit's `type=local`.

use std::fs;
use std::path::Path;

use linkspan::engine::select::{Selection, select};
use serde_json::Value;

use crate::common::{Context, Part, Stack};
use crate::fixture::{caches, containerd, name, origin};

/// A stack of the test's own, whose builder it empties.
const PARTS: [Part; 4] = [Part::Containerd, Part::Dockerd, Part::Buildkitd, Part::Registry];

async fn folder(path: &Path) -> std::sync::Arc<linkspan::caches::Caches> {
    caches(&*select(&Selection::layout(path)).await.unwrap().engine)
}

/// The steps of a build that were taken from a cache.
fn cached(log: &str) -> usize {
    log.lines().filter(|line| line.ends_with(" CACHED")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_goes_from_buildkits_folder_through_an_engine_into_a_folder_that_buildkit_reads() {
    let stack = Stack::start(&PARTS);
    let builder = stack.builder(stack.buildkit_host());
    let context = Context::new(&format!("FROM {}\nRUN echo one > /one\nRUN cat /one > /two\n", stack.base_image()));
    let (theirs, ours) = (stack.fresh_path("-theirs"), stack.fresh_path("-ours"));
    for form in ["true", "false"] {
        let to = format!("type=local,dest={},tag=app,mode=max,image-manifest={form}", theirs.display());
        builder.build(context.path(), ["--cache-to", &to]).ok();
        let read = folder(&theirs).await;
        let parts = read.resolve(&name("app")).await.unwrap();
        let [part] = &parts[..] else { panic!("{parts:?}") };
        assert_eq!((part.missing, part.listed.is_index), (0, form == "false"));
        assert!(part.listed.layers.len() >= 3, "{part:?}");

        let engine = caches(&*containerd(&stack, "folders").await);
        let source = read.copy_source(part.version.clone()).await.unwrap();
        let copied = engine.copy(&source, &name("team/app:main"), &origin()).await.unwrap();
        let again = engine.copy(&source, &name("team/app:main"), &origin()).await.unwrap();
        assert_eq!((again.version.id, again.written), (copied.version.id, 0));

        let stored = engine.resolve(&name("team/app:main")).await.unwrap();
        let written = folder(&ours).await;
        let source = engine.copy_source(stored[0].version.clone()).await.unwrap();
        written.copy(&source, &name("team/app:main"), &origin()).await.unwrap();
        fs::remove_dir_all(&theirs).unwrap();
        builder.buildx(["prune", "-af"]).ok();
        let from = format!("type=local,src={},tag=team/app:main", ours.display());
        let log = builder.build(context.path(), ["--cache-from", &from]).ok().stderr;
        assert_eq!(cached(&log), 2, "{log}");
        fs::remove_dir_all(&ours).unwrap();
        builder.buildx(["prune", "-af"]).ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn buildkit_reads_every_part_of_a_cache_in_a_folder_by_a_tag_of_its_own() {
    let stack = Stack::start(&PARTS);
    let builder = stack.builder(stack.buildkit_host());
    let ours = stack.fresh_path("-parts");
    let written = folder(&ours).await;
    let parts = [("1", "linux/amd64", "app-linux-amd64"), ("2", "linux/amd64 target=app", "app")];
    let contexts = parts.map(|(number, ..)| {
        let dockerfile = format!("FROM {}\nRUN echo {number} > /n\nRUN cat /n > /m\n", stack.base_image());
        Context::new(&dockerfile)
    });
    for ((number, title, _), context) in parts.iter().zip(&contexts) {
        let theirs = stack.fresh_path("-part");
        builder
            .build(context.path(), ["--cache-to", &format!("type=local,dest={},tag=app,mode=max", theirs.display())])
            .ok();
        let read = folder(&theirs).await;
        let found = read.versions(Some(&name("app"))).await.unwrap().remove(0);
        let mut source = read.copy_source(found).await.unwrap();
        (source.version.part, source.version.title) = (number.repeat(32), (*title).to_owned());
        written.copy(&source, &name("app"), &origin()).await.unwrap();
    }
    for ((.., tag), context) in parts.iter().zip(&contexts) {
        builder.buildx(["prune", "-af"]).ok();
        let from = format!("type=local,src={},tag={tag}", ours.display());
        let log = builder.build(context.path(), ["--cache-from", &from]).ok().stderr;
        assert_eq!(cached(&log), 2, "{tag}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_and_caches_share_a_folder() {
    let stack = Stack::shared();
    let path = stack.fresh_path("-shared");
    let engine = select(&Selection::layout(&path)).await.unwrap().engine;
    let caches = caches(&*engine);
    crate::fixture::store(&caches, "demo:1", "", &["one"], crate::fixture::MANIFEST).await;
    let images = engine.images().unwrap();
    assert!(images.list(&Default::default()).await.unwrap().records.is_empty());
    assert!(images.resolve(&"demo:1".parse().unwrap()).await.unwrap().is_none());
    let index: Value = serde_json::from_slice(&fs::read(path.join("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"], "demo:1");
    assert_eq!(caches.versions(None).await.unwrap().len(), 1);
}
