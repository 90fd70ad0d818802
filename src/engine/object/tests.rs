//! Leases and images in a bucket in memory, which outlives the engines over it.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use object_store::memory::InMemory;
use serde_json::json;

use super::*;
use crate::engine::caches::{CacheContent, CacheDocument, NewVersion, id_prefix};
use crate::engine::ingest::{Expected, OpenedIngest};
use crate::engine::process::Process;
use crate::engine::{Opened, Precondition, TransactionOptions, UnpackFor};
use crate::image::{Digest, Kind, Walk};
use crate::progress::Events;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

fn bucket() -> Bucket {
    Bucket::new(Arc::new(InMemory::new()), "s3://memory/prefix", "prefix")
}

fn origin(export: &str) -> Origin {
    Origin::internal(export, "test", "by hand")
}

fn names(names: &[&str]) -> Vec<Reference> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

/// An image of one layer, and the layer.
fn image(layer: &'static str) -> (Arc<Graph>, Bytes) {
    let document = |media_type: &str, value: serde_json::Value| {
        let bytes = Bytes::from(value.to_string());
        (Descriptor::new(media_type, Digest::sha256(&bytes), bytes.len() as u64), bytes)
    };
    let leaf = Descriptor::new(LAYER, Digest::sha256(layer.as_bytes()), layer.len() as u64);
    let rootfs = json!({"type": "layers", "diff_ids": [leaf.digest]});
    let (config, config_bytes) = document(CONFIG, json!({"architecture": "amd64", "os": "linux", "rootfs": rootfs}));
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [leaf]});
    let (root, bytes) = document(MANIFEST, manifest);
    let mut walk = Walk::new(root.clone(), Limits::default()).unwrap();
    walk.supply(&root.digest, bytes).unwrap();
    walk.supply(&config.digest, config_bytes).unwrap();
    (Arc::new(walk.finish().unwrap()), Bytes::from_static(layer.as_bytes()))
}

async fn export(
    engine: &ObjectEngine,
    layer: &'static str,
    set: &[Reference],
    conditions: &[Precondition],
) -> Result<Digest, EngineError> {
    let (graph, bytes) = image(layer);
    let lease = engine.lease(&origin("export-1"), Lifetime::Process).await?;
    let options = TransactionOptions { unpack: UnpackFor::Nobody, names: set.to_vec(), events: Events::none() };
    let transaction = lease.clone().begin(graph.clone(), options).await?;
    for blob in &transaction.plan().missing {
        if let Opened::Writer(mut writer) = transaction.writer(blob).await? {
            writer.write(bytes.clone()).await?;
            writer.commit().await?;
        }
    }
    let set = transaction.prepare().await?.commit(set, conditions).await;
    lease.release().await?;
    set.map(|()| graph.root().digest.clone())
}

async fn listed(engine: &ObjectEngine) -> Vec<String> {
    let page = engine.images().unwrap().list(&Default::default()).await.unwrap();
    page.records.into_iter().map(|record| record.name.unwrap_or_default()).collect()
}

#[tokio::test]
async fn an_image_is_there_with_all_that_a_registry_needs() {
    let bucket = bucket();
    let engine = ObjectEngine::new(&bucket);
    let digest = export(&engine, "layer", &names(&["app:1", "ghcr.io/o/app:2"]), &[]).await.unwrap();
    let (graph, _) = image("layer");
    let blobs = engine.already_complete(graph.root(), &names(&["app:1", "ghcr.io/o/app:2"])).await.unwrap();
    assert_eq!(blobs, Some(3));
    for name in names(&["app:1", "ghcr.io/o/app:2"]) {
        let repository = keys::Repository::of(&name).unwrap();
        let mut links = vec![repository.revision(&digest), repository.current(name.tag().unwrap())];
        links.push(repository.tag_index(name.tag().unwrap(), &digest));
        links.extend(
            graph.descriptors().filter(|it| it.kind() != Kind::Manifest).map(|it| repository.layer(&it.digest)),
        );
        for link in links {
            assert!(bucket.size(&link).await.unwrap().is_some(), "{link}");
        }
    }
    assert_eq!(listed(&engine).await, ["docker.io/library/app:1", "ghcr.io/o/app:2"]);
    let record = Record { name: Some("docker.io/library/app:1".to_owned()), target: graph.root().clone() };
    engine.remove(&record, false).await.unwrap();
    engine.remove(&record, false).await.unwrap();
    assert_eq!(listed(&engine).await, ["ghcr.io/o/app:2"]);
    assert!(bucket.list(keys::LEASES, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_name_that_no_registry_can_hold_is_refused_before_anything_is_sent() {
    let bucket = bucket();
    let engine = ObjectEngine::new(&bucket);
    let error = export(&engine, "layer", &names(&["registry:5000/app:1"]), &[]).await.unwrap_err();
    assert!(error.to_string().contains("registry:5000/app:1") && error.hint().is_some(), "{error}");
    assert!(bucket.list("docker", 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn of_two_writers_of_a_tag_the_second_learns_of_the_first() {
    let bucket = bucket();
    let engine = ObjectEngine::new(&bucket);
    let name = names(&["app:1"]);
    let absent = [Precondition { name: name[0].clone(), expected: vec![None] }];
    let first = export(&engine, "first", &name, &absent).await.unwrap();
    let error = export(&engine, "second", &name, &absent).await.unwrap_err();
    assert!(matches!(&error, EngineError::NameMoved { current: Some(current), .. } if *current == first), "{error}");
    let known = [Precondition { name: name[0].clone(), expected: vec![Some(first)] }];
    let second = export(&engine, "second", &name, &known).await.unwrap();
    assert_eq!(engine.resolve(&name[0]).await.unwrap(), Some(second));
}

#[tokio::test]
async fn a_durable_lease_is_found_by_the_next_process_with_its_uploads_behind_their_parts() {
    let bucket = bucket();
    let durable = Lifetime::Durable { record: "what it is" };
    let bytes = Bytes::from(vec![7; 9 << 20]);
    let digest = Digest::sha256(b"small");
    {
        let engine = ObjectEngine::new(&bucket);
        let lease = engine.lease(&origin("kept"), durable).await.unwrap();
        for (reference, content) in [("small", Bytes::from_static(b"small")), ("large", bytes.clone())] {
            let expected = Expected { digest: Some(Digest::sha256(&content)), size: Some(content.len() as u64) };
            let OpenedIngest::Writer(mut writer) = lease.ingests().unwrap().open(reference, &expected).await.unwrap()
            else {
                panic!("it is not there");
            };
            writer.write(content).await.unwrap();
            if reference == "small" {
                writer.commit(expected).await.unwrap();
            } else {
                writer.suspend().await.unwrap();
            }
        }
        let refs = lease.ingests().unwrap().statuses().await.unwrap();
        assert_eq!(refs.iter().map(|it| (it.reference.as_str(), it.offset)).collect::<Vec<_>>(), [("large", 9 << 20)]);
    }
    // What another process would see: this one's id is in the lease.
    let key = keys::lease("kept");
    let stored = bucket.get(&key, 1 << 20).await.unwrap().unwrap().bytes;
    let this = Process::this().to_string();
    let (rest, start) = this.rsplit_once('/').unwrap();
    let other = format!("{rest}/{}", start.parse::<u64>().unwrap() + 1);
    let stored = String::from_utf8(stored.to_vec()).unwrap();
    assert!(stored.contains("\"uploads\":[{"), "{stored}");
    bucket.put(&key, stored.replace(&this, &other).into()).await.unwrap();

    let engine = ObjectEngine::new(&bucket);
    let found = engine.durable().await.unwrap();
    assert_eq!(
        found.iter().map(|it| (it.export.as_str(), it.record.as_str())).collect::<Vec<_>>(),
        [("kept", "what it is")]
    );
    assert_eq!(engine.recover().await.unwrap(), 0, "it has hours left");
    let lease = engine.lease(&origin("kept"), Lifetime::Durable { record: "" }).await.unwrap();
    assert_eq!(lease.pinned().await.unwrap(), std::slice::from_ref(&digest));
    // One part of 5 MiB is stored, and what came behind it was with the other process.
    let refs = lease.ingests().unwrap().statuses().await.unwrap();
    assert_eq!(refs.iter().map(|it| (it.reference.as_str(), it.offset)).collect::<Vec<_>>(), [("large", 5 << 20)]);
    let expected = Expected { digest: Some(Digest::sha256(&bytes)), size: Some(bytes.len() as u64) };
    let OpenedIngest::Writer(mut writer) = lease.ingests().unwrap().open("large", &expected).await.unwrap() else {
        panic!("it is not there");
    };
    assert_eq!(writer.offset(), 5 << 20);
    writer.write(bytes.slice(5 << 20..)).await.unwrap();
    writer.commit(expected).await.unwrap();
    let pinned: HashSet<_> = lease.pinned().await.unwrap().into_iter().collect();
    assert_eq!(pinned, HashSet::from([digest, Digest::sha256(&bytes)]));
    let stored = bucket.get(&key, 1 << 20).await.unwrap().unwrap().bytes;
    assert!(String::from_utf8_lossy(&stored).contains("\"uploads\":[]"));
    lease.release().await.unwrap();
    assert!(engine.durable().await.unwrap().is_empty());
    assert!(matches!(lease.pin(&[Pin::from(&Digest::sha256(b"x"))]).await, Err(EngineError::LeaseLost { .. })));
}

#[tokio::test]
async fn only_leases_of_processes_that_are_gone_are_released() {
    let bucket = bucket();
    let engine = ObjectEngine::new(&bucket);
    let lease = engine.lease(&origin("mine"), Lifetime::Process).await.unwrap();
    lease.pin(&[Pin::from(&Digest::sha256(b"x"))]).await.unwrap();
    let this = Process::this().to_string();
    let (rest, start) = this.rsplit_once('/').unwrap();
    let gone = format!("{rest}/{}", start.parse::<u64>().unwrap() + 1);
    for (export, process) in [("gone", gone.as_str()), ("elsewhere", "another-boot/pid:[1]/1/1"), ("unreadable", "")] {
        let text = json!({"process": process, "created": 0}).to_string();
        bucket.put(&keys::lease(export), text.into()).await.unwrap();
    }
    assert_eq!(engine.abandoned().await.unwrap().leases, ["gone"]);
    assert_eq!(engine.recover().await.unwrap(), 1);
    let left: Vec<_> = bucket.list(keys::LEASES, 10).await.unwrap().into_iter().map(|(key, _)| key).collect();
    assert_eq!(left, [keys::lease("elsewhere"), keys::lease("mine"), keys::lease("unreadable")]);
}

/// Leases of other machines, and caches of other builds, however many come first in a list.
#[tokio::test]
async fn what_is_ours_is_found_behind_thousands_of_others() {
    let bucket = bucket();
    let theirs = json!({"process": "another-boot/pid:[1]/1/1", "created": 0}).to_string();
    for number in 0..2_100 {
        bucket.put(&keys::lease(&format!("a{number:05}")), theirs.clone().into()).await.unwrap();
        bucket
            .put(&keys::cache(&format!("{}{number:05}", id_prefix("00"))), Bytes::from_static(b"{}").into())
            .await
            .unwrap();
    }
    let engine = ObjectEngine::new(&bucket);
    engine.lease(&origin("ours"), Lifetime::Durable { record: "what it is" }).await.unwrap();
    assert_eq!(engine.durable().await.unwrap().iter().map(|it| it.export.as_str()).collect::<Vec<_>>(), ["ours"]);

    let caches = engine.caches().unwrap();
    let document = CacheDocument {
        descriptor: Descriptor::new(MANIFEST, Digest::sha256(b"document"), 8),
        bytes: Bytes::from_static(b"document"),
    };
    let content =
        CacheContent { config: document.clone(), root: document, layers: Vec::new(), absent: Default::default() };
    // Which ids come first depends on the hash of the reference.
    let after = (0..).map(|number| format!("app{number}:main")).find(|it| id_prefix(it) > id_prefix("00")).unwrap();
    let new = NewVersion { reference: after.clone(), title: "linux/amd64".to_owned(), ..NewVersion::default() };
    let version = caches.begin(&new, &origin("cache")).await.unwrap().commit(&content).await.unwrap();
    assert_eq!(caches.versions(Some(&after)).await.unwrap(), [version]);
}

#[tokio::test]
async fn a_cache_is_listed_used_and_deleted() {
    let bucket = bucket();
    let caches = ObjectEngine::new(&bucket).caches().unwrap();
    let document = |text: &'static str| CacheDocument {
        descriptor: Descriptor::new(MANIFEST, Digest::sha256(text.as_bytes()), text.len() as u64),
        bytes: Bytes::from_static(text.as_bytes()),
    };
    let layer = Descriptor::new(LAYER, Digest::sha256(b"layer"), 5);
    let content = CacheContent {
        config: document("config"),
        root: document("root"),
        layers: vec![layer.clone()],
        absent: Default::default(),
    };
    let new = NewVersion { reference: "app:main".to_owned(), title: "linux/amd64".to_owned(), ..NewVersion::default() };
    let pending = caches.begin(&new, &origin("cache")).await.unwrap();
    assert!(matches!(pending.commit(&content).await, Err(EngineError::Missing { .. })), "a layer is missing");
    bucket.put(&keys::blob(&layer.digest), Bytes::from_static(b"layer").into()).await.unwrap();
    let version = pending.commit(&content).await.unwrap();
    assert_eq!(caches.versions(Some("app:main")).await.unwrap(), std::slice::from_ref(&version));
    assert_eq!(caches.versions(None).await.unwrap().len(), 1);
    assert!(caches.versions(Some("app")).await.unwrap().is_empty());
    caches.touch(&version).await.unwrap();
    assert!(caches.delete(&["../x".to_owned()]).await.is_err());
    caches.delete(&[version.id]).await.unwrap();
    assert!(caches.versions(None).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_image_without_all_its_layers_gets_no_other_name() {
    let bucket = bucket();
    let engine = ObjectEngine::new(&bucket);
    let root = export(&engine, "gone", &names(&["whole:1"]), &[]).await.unwrap();
    let (graph, layer) = image("gone");
    bucket.delete(&keys::blob(&Digest::sha256(&layer))).await.unwrap();
    let error = engine.tag(graph.root(), &names(&["another:1"])[0]).await.unwrap_err();
    assert!(matches!(&error, EngineError::Missing { digests } if *digests == [Digest::sha256(&layer)]), "{error}");
    assert_eq!(engine.resolve(&names(&["another:1"])[0]).await.unwrap(), None);
    assert_eq!(engine.resolve(&names(&["whole:1"])[0]).await.unwrap(), Some(root));
}

#[tokio::test]
async fn a_collection_that_was_interrupted_ends_even_where_nothing_can_be_collected() {
    let bucket = bucket();
    let engine = ObjectEngine::new(&bucket);
    let root = export(&engine, "damaged", &names(&["damaged:1"]), &[]).await.unwrap();
    bucket.put(&keys::blob(&root), Bytes::from_static(b"{}").into()).await.unwrap();
    let unused = Digest::sha256(b"unused");
    bucket.put(&keys::blob(&unused), Bytes::from_static(b"unused").into()).await.unwrap();
    let this = Process::this().to_string();
    let (rest, start) = this.rsplit_once('/').unwrap();
    let run = json!({
        "process": format!("{rest}/{}", start.parse::<u64>().unwrap() + 1), "serial": 3, "state": "deleting",
        "digests": [unused],
    });
    bucket.put(&keys::condemned("interrupted"), run.to_string().into()).await.unwrap();
    let deleted = |_: &Digest, _| {};
    let wanted = Collection { grace: Duration::ZERO, wait: Duration::ZERO, is_dry: false, deleted: &deleted };
    let error = engine.collect(&wanted).await.unwrap_err();
    assert!(error.to_string().contains(root.hex()), "{error}");
    assert!(bucket.list(keys::CONDEMNED, 10).await.unwrap().is_empty(), "nobody waits for it any more");
    assert!(bucket.size(&keys::blob(&unused)).await.unwrap().is_some());
}
