//! What engines keep, and for how long.

use linkspan::caches::{CacheSettings, Caches, Selection};

use crate::common::{Part as StackPart, Stack};
use crate::fixture::{INDEX, MANIFEST, caches, containerd, docker, held, name, store};

#[tokio::test(flavor = "multi_thread")]
async fn containerds_collector_leaves_a_cache_alone_until_it_is_deleted() {
    let stack = Stack::shared();
    let engine = containerd(stack, "keeps").await;
    let caches = caches(&*engine);
    let (index, mut blobs) = store(&caches, "team/app", "linux/amd64", &["one", "two"], INDEX).await;
    let (_, others) = store(&caches, "team/app", "linux/arm64", &["two", "three"], MANIFEST).await;
    blobs.extend(others);
    stack.collect_garbage("keeps");
    assert!(held(stack, "keeps", &blobs).into_iter().all(|held| held));
    // Another process finds it, and reads all of it.
    let again = Caches::new(&*containerd(stack, "keeps").await, CacheSettings::default()).unwrap();
    again.start().await.unwrap();
    let versions = again.versions(Some(&name("team/app"))).await.unwrap();
    assert_eq!(versions.len(), 2);
    assert_eq!(versions[1], index);
    assert_eq!((index.mode.as_str(), index.builder.as_str(), index.layers), ("max", "by hand", 2));
    let parts = again.resolve(&name("team/app")).await.unwrap();
    assert!(parts.iter().all(|part| part.missing == 0 && part.listed.layers.len() == 2));
    assert_eq!(stack.images("keeps"), []);
    assert_eq!(engine.recover().await.unwrap(), 0, "it is no export that was left behind");
    drop(parts);

    let pruned = again.prune(&Selection::default(), false).await.unwrap();
    assert_eq!((pruned.versions.len(), pruned.bytes), (2, pruned.versions.iter().map(|it| it.unique).sum::<u64>() + 3));
    stack.collect_garbage("keeps");
    assert_eq!(stack.leases("keeps"), Vec::<String>::new());
    assert!(held(stack, "keeps", &blobs).into_iter().all(|held| !held));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_superseded_version_leaves_only_what_the_new_one_has() {
    let stack = Stack::shared();
    let caches = caches(&*containerd(stack, "supersedes").await);
    let (_, old) = store(&caches, "app", "", &["common", "old"], MANIFEST).await;
    let (new, blobs) = store(&caches, "app", "", &["common", "new"], MANIFEST).await;
    assert_eq!(caches.versions(None).await.unwrap(), [new]);
    stack.collect_garbage("supersedes");
    assert!(held(stack, "supersedes", &blobs).into_iter().all(|held| held));
    assert_eq!(held(stack, "supersedes", &old), [true, false, false, false]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_refs_can_have_the_same_root() {
    let stack = Stack::shared();
    let caches = caches(&*containerd(stack, "same").await);
    let (one, blobs) = store(&caches, "one", "", &["layer"], INDEX).await;
    let (other, _) = store(&caches, "other", "", &["layer"], INDEX).await;
    assert_eq!(one.root, other.root);
    caches.delete(vec![one.id]).await.unwrap();
    stack.collect_garbage("same");
    assert_eq!(caches.versions(None).await.unwrap(), [other]);
    assert!(held(stack, "same", &blobs).into_iter().all(|held| held));
}

#[tokio::test(flavor = "multi_thread")]
async fn dockers_own_prune_leaves_caches_alone_and_docker_does_not_show_them() {
    let stack = Stack::start(&[StackPart::Containerd, StackPart::Dockerd]);
    let caches = caches(&*docker(&stack).await);
    let (version, blobs) = store(&caches, "app", "linux/amd64", &["one", "two"], MANIFEST).await;
    assert_eq!(stack.docker(["images", "-aq"]).ok().stdout, "");
    stack.docker(["system", "prune", "-af", "--volumes"]).ok();
    stack.docker(["builder", "prune", "-af"]).ok();
    stack.collect_garbage("moby");
    assert_eq!(caches.versions(None).await.unwrap(), std::slice::from_ref(&version));
    assert!(held(&stack, "moby", &blobs).into_iter().all(|held| held));
    caches.delete(vec![version.id]).await.unwrap();
    stack.collect_garbage("moby");
    assert!(held(&stack, "moby", &blobs).into_iter().all(|held| !held));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_longer_than_a_message_is_stored() {
    use linkspan::caches::Part;
    use linkspan::engine::caches::CacheDocument;
    use linkspan::image::cache::CACHE_CONFIG;
    use linkspan::image::{Descriptor, Digest};
    let stack = Stack::shared();
    let caches = caches(&*containerd(stack, "long").await);
    let text = format!("{{\"layers\":[],\"records\":[{}]}}", " ".repeat(20 << 20)).into_bytes();
    let descriptor = Descriptor::new(CACHE_CONFIG, Digest::sha256(&text), text.len() as u64);
    let root = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor]}).to_string();
    let root_descriptor = Descriptor::new(INDEX, Digest::sha256(root.as_bytes()), root.len() as u64);
    let export = caches.begin(&name("long"), &Part::default(), "", 1, &crate::fixture::origin()).await.unwrap();
    let config = CacheDocument { descriptor: descriptor.clone(), bytes: text.into() };
    let root = CacheDocument { descriptor: root_descriptor, bytes: root.into() };
    export.commit(config, root, Default::default()).await.unwrap();
    let parts = caches.resolve(&name("long")).await.unwrap();
    let import: serde_json::Value = serde_json::from_slice(&parts[0].root.bytes).unwrap();
    assert_eq!(import["manifests"][0]["size"], 1 << 20, "BuildKit refuses a config that says that it is longer");
    assert_eq!(parts[0].listed.config, descriptor);
}
