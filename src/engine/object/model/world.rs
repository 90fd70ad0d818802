//! What processes do with one bucket, and what must be true of it after each of their requests.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use object_store::memory::InMemory;
use serde_json::json;

use super::super::ObjectEngine;
use super::super::bucket::Bucket;
use super::super::host::Host;
use super::super::keys::{self, Repository};
use super::super::lease::ObjectLease;
use super::super::stores::Stores;
use super::stepped_store::Stepped;
use crate::engine::collect::Collection;
use crate::engine::images::Record;
use crate::engine::{Engine as _, EngineError, Lease as _, Precondition};
use crate::image::{Descriptor, Digest, Graph, Limits, Reference, Walk};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(super) const TAGS: [&str; 3] = ["a/app:1", "b/app:1", "b/app:2"];
pub(super) const IMAGES: usize = 3;

/// An image of three layers, of which others have some as well.
fn made(number: usize) -> (Arc<Graph>, Vec<Bytes>) {
    let document = |media_type: &str, value: serde_json::Value| {
        let bytes = Bytes::from(value.to_string());
        (Descriptor::new(media_type, Digest::sha256(&bytes), bytes.len() as u64), bytes)
    };
    let layers: Vec<_> = [number, number + 1, number + 2].map(|layer| Bytes::from(format!("layer {layer}"))).to_vec();
    let leaves: Vec<_> =
        layers.iter().map(|bytes| Descriptor::new(LAYER, Digest::sha256(bytes), bytes.len() as u64)).collect();
    let diff_ids: Vec<_> = leaves.iter().map(|leaf| &leaf.digest).collect();
    let rootfs = json!({"type": "layers", "diff_ids": diff_ids});
    let (config, config_bytes) = document(CONFIG, json!({"architecture": "amd64", "os": "linux", "rootfs": rootfs}));
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": leaves});
    let (root, bytes) = document(MANIFEST, manifest);
    let mut walk = Walk::new(root.clone(), Limits::default()).unwrap();
    walk.supply(&root.digest, bytes).unwrap();
    walk.supply(&config.digest, config_bytes).unwrap();
    (Arc::new(walk.finish().unwrap()), layers)
}

pub(super) fn image(number: usize) -> &'static (Arc<Graph>, Vec<Bytes>) {
    static MADE: LazyLock<Vec<(Arc<Graph>, Vec<Bytes>)>> = LazyLock::new(|| (0..IMAGES).map(made).collect());
    &MADE[number]
}

/// What one process does.
#[derive(Debug, Clone)]
pub(super) enum Task {
    /// Exports an image as a tag.
    Export {
        image: usize,
        tag: usize,
    },
    /// Gives the image of a tag another one, and removes the first.
    Rename {
        from: usize,
        to: usize,
    },
    Remove {
        tag: usize,
    },
    Collect {
        grace: u64,
    },
}

async fn export(stores: Arc<Stores>, number: usize, image: usize, tag: &str) -> Result<(), EngineError> {
    let (graph, layers) = self::image(image);
    let lease = ObjectLease::open(&stores, &format!("export-{number}"), None).await?;
    let plan = lease.plan(graph).await?;
    for blob in &plan.missing {
        let bytes = layers.iter().find(|bytes| Digest::sha256(bytes) == blob.digest).unwrap();
        stores.blobs.store(vec![(blob.digest.clone(), bytes.clone())]).await?;
    }
    lease.pins.check_held().await?;
    stores.names.publish(graph, &BTreeSet::new(), &[tag.parse().unwrap()], &[] as &[Precondition]).await?;
    lease.release().await
}

async fn rename(engine: ObjectEngine, from: &str, to: &str) -> Result<(), EngineError> {
    let Some(root) = engine.images()?.resolve(&from.parse().unwrap()).await? else { return Ok(()) };
    engine.tag(&root, &to.parse().unwrap()).await?;
    let record = Record { name: Some(from.to_owned()), target: root };
    if from == to { Ok(()) } else { engine.remove(&record, false).await }
}

async fn remove(engine: ObjectEngine, tag: &str) -> Result<(), EngineError> {
    let Some(root) = engine.images()?.resolve(&tag.parse().unwrap()).await? else { return Ok(()) };
    engine.remove(&Record { name: Some(tag.to_owned()), target: root }, false).await
}

/// A bucket and those who use it.
pub(super) struct World {
    stepped: Stepped,
    /// The same objects, without turns.
    pub(super) objects: Bucket,
    started: usize,
}

/// What one process still has to do.
pub(super) type Running = Pin<Box<dyn Future<Output = Result<(), EngineError>> + Send>>;

impl World {
    pub(super) fn new() -> Self {
        let inner = Arc::new(InMemory::new());
        let objects = Bucket::new(inner.clone(), "s3://model", "");
        Self { stepped: Stepped::over(inner), objects, started: 0 }
    }

    /// A process begins `task`, on a machine whose clock is `skew` milliseconds ahead.
    pub(super) fn start(&mut self, task: &Task, skew: i64) -> Running {
        self.started += 1;
        let number = self.started;
        let mut bucket = Bucket::new(Arc::new(self.stepped.clone()), "s3://model", "");
        // Of another boot, so that only times tell whether it lives.
        bucket.host = Host::model(&format!("machine-{number}/pid:[1]/1/1"), self.stepped.time_of(skew));
        let engine = ObjectEngine::new(&bucket);
        match task.clone() {
            Task::Export { image, tag } => export(engine.stores.clone(), number, image, TAGS[tag]).boxed(),
            Task::Rename { from, to } => rename(engine, TAGS[from], TAGS[to]).boxed(),
            Task::Remove { tag } => remove(engine, TAGS[tag]).boxed(),
            Task::Collect { grace } => Box::pin(async move {
                let wanted = Collection {
                    grace: Duration::from_secs(grace),
                    wait: Duration::from_secs(30),
                    is_dry: false,
                    deleted: &|_, _| {},
                };
                engine.collect(&wanted).await.map(drop)
            }),
        }
    }

    pub(super) fn pass(&self, milliseconds: i64) {
        self.stepped.pass(milliseconds);
    }

    /// The blobs that tags need, of which all must be there, with their links.
    pub(super) fn check(&self, history: &str) -> BTreeSet<Digest> {
        let now = |future: BoxFuture<'_, bool>| future.now_or_never().unwrap();
        let exists = |key: String| now(async move { self.objects.size(&key).await.unwrap().is_some() }.boxed());
        let mut needed = BTreeSet::new();
        for tag in TAGS {
            let name: Reference = tag.parse().unwrap();
            let repository = Repository::of(&name).unwrap();
            let current = repository.current(name.tag().unwrap());
            let Some(found) = self.objects.get(&current, 1024).now_or_never().unwrap().unwrap() else { continue };
            let root: Digest = std::str::from_utf8(&found.bytes).unwrap().parse().unwrap();
            let (graph, _) = (0..IMAGES).map(image).find(|(graph, _)| graph.root().digest == root).unwrap();
            for blob in graph.descriptors() {
                assert!(exists(keys::blob(&blob.digest)), "{tag} lacks {}\n{history}", blob.digest);
                let link =
                    if blob.digest == root { repository.revision(&root) } else { repository.layer(&blob.digest) };
                assert!(exists(link.clone()), "{tag} lacks the link {link}\n{history}");
                needed.insert(blob.digest.clone());
            }
        }
        needed
    }

    pub(super) fn below(&self, folder: &str) -> Vec<String> {
        let listed = self.objects.list(folder, 1000).now_or_never().unwrap().unwrap();
        listed.into_iter().map(|(key, _)| key).collect()
    }
}
