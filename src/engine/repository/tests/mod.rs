//! Exports into layouts, with and without faults.

mod collector;
mod conditions;
mod faults;
mod late;
mod leases;
mod others;
mod power;
mod recorder;
mod refusals;
mod resume;
mod space;
mod trust;

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::engine::ingest::{Expected, OpenedIngest};
use crate::engine::local::testing::{self, Disk, System};
use crate::engine::{ImageTransaction, Opened, Pin, Plan, Precondition, TransactionOptions, UnpackFor};
use crate::image::{Digest, Document, Kind, Walk};
use crate::progress::Events;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// An image with all its blobs.
#[derive(Debug, Clone)]
struct Image {
    root: Descriptor,
    blobs: HashMap<Digest, Bytes>,
    layers: Vec<Descriptor>,
}

impl Image {
    fn new(layers: &[&[u8]]) -> Self {
        let mut blobs = HashMap::new();
        let mut keep = |media_type: &str, bytes: Vec<u8>| {
            let descriptor = Descriptor::new(media_type, Digest::sha256(&bytes), bytes.len() as u64);
            blobs.insert(descriptor.digest.clone(), Bytes::from(bytes));
            descriptor
        };
        let layers: Vec<_> =
            layers.iter().map(|layer| keep("application/vnd.oci.image.layer.v1.tar", layer.to_vec())).collect();
        let diff_ids: Vec<_> = layers.iter().map(|layer| &layer.digest).collect();
        let config =
            json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = keep("application/vnd.oci.image.config.v1+json", config.to_string().into());
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        let root = keep(MANIFEST, manifest.to_string().into());
        Self { root, blobs, layers }
    }

    /// An index of images.
    fn index(images: &[&Self]) -> Self {
        let manifests: Vec<_> = images.iter().map(|image| &image.root).collect();
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).to_string();
        let mut blobs: HashMap<_, _> = images.iter().flat_map(|image| image.blobs.clone()).collect();
        let root = Descriptor::new(INDEX, Digest::sha256(index.as_bytes()), index.len() as u64);
        blobs.insert(root.digest.clone(), index.into());
        Self { root, blobs, layers: images[0].layers.clone() }
    }

    /// A root of a type of its own, which is one blob.
    fn blob(bytes: &[u8]) -> Self {
        let root = Descriptor::new("application/vnd.example.blob", Digest::sha256(bytes), bytes.len() as u64);
        let blobs = [(root.digest.clone(), Bytes::copy_from_slice(bytes))].into();
        Self { layers: vec![root.clone()], root, blobs }
    }

    fn graph(&self) -> Arc<Graph> {
        if !matches!(self.root.kind(), Kind::Index | Kind::Manifest) {
            return Arc::new(Graph::of_blob(self.root.clone()).unwrap());
        }
        let mut walk = Walk::new(self.root.clone(), Limits::default()).unwrap();
        while let Some(pending) = walk.pending().first().map(|pending| pending.digest.clone()) {
            walk.supply(&pending, self.blobs[&pending].clone()).unwrap();
        }
        Arc::new(walk.finish().unwrap())
    }
}

/// A folder in memory, if there is such a file system: the tests sync a lot.
fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

impl RepositoryEngine {
    /// Makes an engine over the stores on this disk, in this boot.
    async fn on(root: &Path, disk: Arc<dyn Disk>, boot: String) -> Result<Self, EngineError> {
        let this = Self::new(root, testing::on(root, disk, boot));
        this.check().await?;
        Ok(this)
    }
}

async fn engine(root: &Path) -> RepositoryEngine {
    RepositoryEngine::on(root, Arc::new(System), "this-boot".to_owned()).await.unwrap()
}

fn origin() -> Origin {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    Origin::internal(format!("test-{}", NEXT.fetch_add(1, Ordering::Relaxed)), "test", "")
}

fn names(names: &[&str]) -> Vec<Reference> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

/// Begins a transaction that unpacks, without event receivers.
async fn begin(lease: &Arc<dyn Lease>, graph: Arc<Graph>) -> Result<Box<dyn ImageTransaction>, EngineError> {
    lease
        .clone()
        .begin(graph, TransactionOptions { unpack: UnpackFor::Commit, names: Vec::new(), events: Events::none() })
        .await
}

async fn send(transaction: &dyn ImageTransaction, blob: &Descriptor, bytes: &Bytes) -> Result<(), EngineError> {
    match transaction.writer(blob).await? {
        Opened::Present => Ok(()),
        Opened::Writer(mut writer) => {
            let mut rest = bytes.slice(writer.offset() as usize..);
            while !rest.is_empty() {
                writer.write(rest.split_to(rest.len().min(100_000))).await?;
            }
            writer.commit().await
        }
    }
}

async fn transfer(lease: &Arc<dyn Lease>, image: &Image, names: &[Reference]) -> Result<Plan, EngineError> {
    let transaction = arrive(lease, image).await?;
    transaction.prepare().await?.commit(names, &[]).await?;
    Ok(transaction.plan().clone())
}

/// Runs an export up to, but without, the commit.
async fn arrive(lease: &Arc<dyn Lease>, image: &Image) -> Result<Box<dyn ImageTransaction>, EngineError> {
    let transaction = begin(lease, image.graph()).await?;
    for blob in &transaction.plan().missing {
        send(&*transaction, blob, &image.blobs[&blob.digest]).await?;
    }
    transaction.prepare().await?;
    Ok(transaction)
}

async fn export(engine: &RepositoryEngine, image: &Image, names: &[Reference]) -> Result<Plan, EngineError> {
    let lease = engine.lease(&origin(), Lifetime::Process).await?;
    let outcome = transfer(&lease, image, names).await;
    lease.release().await?;
    outcome
}

/// Reads a layout as another tool would: every entry of the index must be complete, and every blob match its name.
/// Returns what the names resolve to.
fn read_as_other_tool(root: &Path) -> HashMap<String, Digest> {
    for file in blobs(root) {
        let bytes = fs::read(root.join("blobs/sha256").join(&file)).unwrap();
        assert_eq!(Digest::sha256(&bytes).hex(), file, "a blob is not what it is called");
    }
    let marker: Value = serde_json::from_slice(&fs::read(root.join("oci-layout")).unwrap()).unwrap();
    assert_eq!(marker, json!({"imageLayoutVersion": "1.0.0"}));
    let index: Value = serde_json::from_slice(&fs::read(root.join("index.json")).unwrap()).unwrap();
    let mut found = HashMap::new();
    for entry in index["manifests"].as_array().unwrap() {
        let target: Descriptor = serde_json::from_value(entry.clone()).unwrap();
        complete(root, &target);
        let name = target.annotations.get("io.containerd.image.name").cloned().unwrap_or_default();
        assert_eq!(found.insert(name, target.digest), None, "one name stands for one image");
    }
    found
}

fn complete(root: &Path, blob: &Descriptor) {
    let bytes = fs::read(root.join("blobs/sha256").join(blob.digest.hex())).unwrap();
    assert!(bytes.len() as u64 == blob.size && blob.digest.verify(&bytes), "{} is not complete", blob.digest);
    if matches!(blob.kind(), Kind::Index | Kind::Manifest) {
        let document = Document::parse(blob.clone(), bytes.into()).unwrap();
        document.children().into_iter().for_each(|child| complete(root, child));
    }
}

/// The file names of the blobs.
fn blobs(root: &Path) -> Vec<String> {
    files(&root.join("blobs/sha256"))
}

fn files(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn an_export_is_a_layout_that_anybody_can_read() {
    let folder = folder();
    let engine = engine(&folder.path().join("new/layout")).await;
    let root = engine.stores.blobs.paths().root().to_owned();
    let image = Image::new(&[b"one", b"two", &[7; 300_000]]);
    assert_eq!(engine.already_complete(&image.root, &names(&["demo:1"])).await.unwrap(), None);
    let plan = export(&engine, &image, &names(&["demo:1", "example.com/x:2"])).await.unwrap();
    assert_eq!((plan.stored.len(), plan.present.len(), plan.missing.len()), (2, 0, 3));
    assert_eq!(plan.missing[0], image.layers[2], "the largest comes first");
    let found = read_as_other_tool(&root);
    assert_eq!(found["docker.io/library/demo:1"], image.root.digest);
    assert_eq!(found["example.com/x:2"], image.root.digest);
    assert_eq!(engine.already_complete(&image.root, &names(&["demo:1"])).await.unwrap(), Some(5));
    assert_eq!(engine.already_complete(&image.root, &names(&["demo:3"])).await.unwrap(), None);
    let plan = export(&engine, &image, &names(&["demo:3"])).await.unwrap();
    assert_eq!((plan.stored.len(), plan.present.len(), plan.missing.len()), (0, 5, 0));
    assert_eq!(read_as_other_tool(&root).len(), 3);
    for folder in ["leases", "ingest", "uploads"] {
        assert_eq!(files(&root.join(".linkspan").join(folder)), [""; 0], "{folder}");
    }
    drop(engine);
    assert_eq!(files(&root.join(".linkspan/processes")), [""; 0]);
}

#[tokio::test]
async fn an_image_without_a_name_is_listed_once() {
    let folder = folder();
    let engine = engine(folder.path()).await;
    let image = Image::new(&[b"nameless"]);
    export(&engine, &image, &[]).await.unwrap();
    export(&engine, &image, &[]).await.unwrap();
    assert_eq!(read_as_other_tool(folder.path()), HashMap::from([(String::new(), image.root.digest)]));
}

#[tokio::test]
async fn exports_at_the_same_time_do_not_lose_each_others_names() {
    let folder = folder();
    // Two engines share no state, like two processes.
    let engines = [Arc::new(engine(folder.path()).await), Arc::new(engine(folder.path()).await)];
    let tasks: Vec<_> = (0..16)
        .map(|number| {
            let engine = engines[number % 2].clone();
            let own = number.to_string();
            tokio::spawn(async move {
                let image = Image::new(&[&[9; 200_000], b"shared", own.as_bytes()]);
                export(&engine, &image, &names(&[&format!("demo:{own}")])).await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(read_as_other_tool(folder.path()).len(), 16);
    assert_eq!(blobs(folder.path()).len(), 2 + 16 * 3);
}

#[tokio::test]
async fn a_corrupt_blob_is_refused_and_does_not_hinder_the_next_export() {
    let folder = folder();
    let engine = engine(folder.path()).await;
    let image = Image::new(&[&[1; 200_000], b"small"]);
    for layer in &image.layers {
        let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
        let transaction = begin(&lease, image.graph()).await.unwrap();
        let mut wrong = image.blobs[&layer.digest].to_vec();
        wrong[1] ^= 1;
        let error = send(&*transaction, layer, &wrong.into()).await.unwrap_err();
        assert!(matches!(&error, EngineError::Corrupt { digest, .. } if *digest == layer.digest), "{error}");
        let error = transaction.prepare().await.unwrap_err();
        assert!(matches!(error, EngineError::Missing { .. }), "{error}");
        lease.release().await.unwrap();
        assert_eq!(read_as_other_tool(folder.path()).len(), 0);
    }
    export(&engine, &image, &names(&["good:1"])).await.unwrap();
    assert_eq!(read_as_other_tool(folder.path()).len(), 1);
}

#[tokio::test]
async fn sha512_has_a_folder_of_its_own() {
    let folder = folder();
    let engine = engine(folder.path()).await;
    let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
    let digest = Digest::of(crate::image::Algorithm::Sha512, b"long");
    let expected = Expected { digest: Some(digest.clone()), size: Some(4) };
    let OpenedIngest::Writer(mut writer) = lease.ingests().unwrap().open("long", &expected).await.unwrap() else {
        panic!("it is not there yet")
    };
    writer.write(Bytes::from_static(b"long")).await.unwrap();
    assert_eq!(writer.commit(Expected::default()).await.unwrap(), (digest.clone(), 4));
    engine.stores.blobs.flush().await.unwrap();
    assert_eq!(files(&folder.path().join("blobs/sha512")), [digest.hex()]);
    lease.release().await.unwrap();
}
