//! Images made by hand, and an export of them without the export core, so that only the engine is tested.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use linkspan::engine::EngineKind;
use linkspan::engine::select::{Selection, select};
use linkspan::engine::{
    Engine, EngineError, ImageTransaction, Lease, Lifetime, Opened, Origin, Plan, TransactionOptions, UnpackFor,
};
use linkspan::image::{Descriptor, Digest, Graph, Kind, Limits, Platform, Reference, Walk};
use linkspan::progress::Events;
use linkspan::source::{Chunks, Source, SourceError};
use serde_json::{Value, json};

use crate::common::{Run, Stack};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// A folder that becomes a layer.
pub(crate) struct Layer {
    folder: tempfile::TempDir,
}

impl Layer {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    pub(crate) fn folder(self, path: &str, mode: u32) -> Self {
        let path = self.folder.path().join(path);
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    /// busybox as `/bin/sh`.
    pub(crate) fn busybox() -> Self {
        let layer = Self::new().folder("bin", 0o755);
        let bin = layer.folder.path().join("bin");
        let busybox = Run::new("sh").args(["-c", "command -v busybox"]).ok().stdout;
        fs::copy(busybox.trim(), bin.join("busybox")).unwrap();
        for applet in ["sh", "cat", "ls", "stat", "id", "test"] {
            symlink("busybox", bin.join(applet)).unwrap();
        }
        layer
    }

    /// A tar of everything in it.
    pub(crate) fn tar(&self) -> Bytes {
        self.tar_of(&["."])
    }

    /// A tar of `members` only: folders above them get no entry.
    pub(crate) fn tar_of(&self, members: &[&str]) -> Bytes {
        tar(self.folder.path(), members)
    }
}

fn tar(folder: &Path, members: &[&str]) -> Bytes {
    let file = tempfile::NamedTempFile::new().unwrap();
    let arguments = ["--sort=name", "--mtime=@1000000", "--owner=0", "--group=0", "--numeric-owner"];
    Run::new("tar").args(arguments).arg("-C").arg(folder).arg("-cf").arg(file.path()).args(members).ok();
    fs::read(file.path()).unwrap().into()
}

/// Compresses a layer in the way that a media type's suffix says: `+gzip`, `+zstd` or nothing.
pub(crate) fn compress(kind: &str, plain: Bytes) -> Bytes {
    match kind {
        "+zstd" => zstd::encode_all(&plain[..], 1).unwrap().into(),
        "+gzip" => {
            use std::io::Write as _;
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&plain).unwrap();
            encoder.finish().unwrap().into()
        }
        "" => plain,
        other => panic!("{other}"),
    }
}

/// An image with all its blobs.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) root: Descriptor,
    pub(crate) blobs: HashMap<Digest, Bytes>,
    pub(crate) layers: Vec<Descriptor>,
    pub(crate) config: Descriptor,
}

/// An image that runs busybox, with a greeting.
pub(crate) fn image(content: &str) -> Image {
    Image::new(&[Layer::busybox().tar(), Layer::new().file("etc/greeting", content).tar()])
}

impl Image {
    /// An image for this host.
    pub(crate) fn new(layers: &[Bytes]) -> Self {
        Self::with_diff_ids(layers, &layers.iter().map(|layer| Digest::sha256(layer)).collect::<Vec<_>>())
    }

    /// The same for another architecture.
    pub(crate) fn foreign(layers: &[Bytes]) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::sha256(layer)).collect();
        Self::build(layers, &diff_ids, "s390x")
    }

    /// An image of which the config may say something else than the truth.
    pub(crate) fn with_diff_ids(layers: &[Bytes], diff_ids: &[Digest]) -> Self {
        Self::build(layers, diff_ids, &Platform::host().architecture)
    }

    fn build(layers: &[Bytes], diff_ids: &[Digest], architecture: &str) -> Self {
        let plain: Vec<_> = layers.iter().map(|layer| ("", layer.clone())).collect();
        Self::compressed(&plain, diff_ids, architecture)
    }

    /// Layers with what follows the media type of an uncompressed one: `+gzip`, `+zstd`.
    pub(crate) fn compressed(layers: &[(&str, Bytes)], diff_ids: &[Digest], architecture: &str) -> Self {
        let mut blobs = HashMap::new();
        let layers: Vec<_> =
            layers.iter().map(|(kind, layer)| keep(&mut blobs, &format!("{TAR}{kind}"), layer.clone())).collect();
        let config = json!({
            "architecture": architecture, "os": "linux", "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = keep_json(&mut blobs, CONFIG, &config);
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        let root = keep_json(&mut blobs, MANIFEST, &manifest);
        Self { root, blobs, layers, config }
    }

    /// The first image in an OCI archive, such as `docker save` and BuildKit's exporters write.
    pub(crate) fn of_archive(path: &Path) -> Self {
        let folder = tempfile::tempdir_in(path.parent().unwrap()).unwrap();
        Run::new("tar").arg("-C").arg(folder.path()).arg("-xf").arg(path).ok();
        let mut blobs = HashMap::new();
        let mut read = |descriptor: &Descriptor| -> Bytes {
            let path = folder.path().join("blobs/sha256").join(descriptor.digest.hex());
            let bytes = Bytes::from(fs::read(&path).unwrap());
            blobs.insert(descriptor.digest.clone(), bytes.clone());
            bytes
        };
        let descriptor = |value: &Value| -> Descriptor { serde_json::from_value(value.clone()).unwrap() };
        let mut list: Value = serde_json::from_slice(&fs::read(folder.path().join("index.json")).unwrap()).unwrap();
        let root = loop {
            let first = descriptor(&list["manifests"][0]);
            if first.kind() == Kind::Manifest {
                break first;
            }
            list = serde_json::from_slice(&read(&first)).unwrap();
        };
        let manifest: Value = serde_json::from_slice(&read(&root)).unwrap();
        let config = descriptor(&manifest["config"]);
        read(&config);
        let layers: Vec<_> = manifest["layers"].as_array().unwrap().iter().map(descriptor).collect();
        layers.iter().for_each(|layer| drop(read(layer)));
        // Those of the indexes around it are not its own.
        blobs.retain(|digest, _| {
            *digest == root.digest || *digest == config.digest || layers.iter().any(|layer| layer.digest == *digest)
        });
        Self { root, blobs, layers, config }
    }

    /// An index of images; the layers and config are those of the first.
    pub(crate) fn index(images: &[Self]) -> Self {
        let mut blobs: HashMap<_, _> = images.iter().flat_map(|image| image.blobs.clone()).collect();
        let manifests: Vec<_> = images.iter().map(|image| image.root.clone()).collect();
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        let root = keep_json(&mut blobs, INDEX, &index);
        Self { root, blobs, layers: images[0].layers.clone(), config: images[0].config.clone() }
    }

    /// A manifest with this config and these layers, which are among `blobs`.
    pub(crate) fn of_parts(config: &Value, layers: &[Value], blobs: &HashMap<Digest, Bytes>) -> Self {
        let mut blobs = blobs.clone();
        let config = keep_json(&mut blobs, CONFIG, config);
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        let root = keep_json(&mut blobs, MANIFEST, &manifest);
        let layers = layers.iter().map(|layer| serde_json::from_value(layer.clone()).unwrap()).collect();
        Self { root, blobs, layers, config }
    }

    /// A root of some type of its own, which is one blob.
    pub(crate) fn blob(bytes: &[u8]) -> Self {
        let mut blobs = HashMap::new();
        let root = keep(&mut blobs, "application/vnd.example.blob", Bytes::copy_from_slice(bytes));
        Self { layers: vec![root.clone()], config: root.clone(), root, blobs }
    }

    pub(crate) fn graph(&self) -> Arc<Graph> {
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

fn keep(blobs: &mut HashMap<Digest, Bytes>, media_type: &str, bytes: Bytes) -> Descriptor {
    let digest = Digest::sha256(&bytes);
    let descriptor = json!({"mediaType": media_type, "digest": digest, "size": bytes.len()});
    blobs.insert(digest, bytes);
    serde_json::from_value(descriptor).unwrap()
}

fn keep_json(blobs: &mut HashMap<Digest, Bytes>, media_type: &str, json: &Value) -> Descriptor {
    keep(blobs, media_type, serde_json::to_vec(json).unwrap().into())
}

/// An image's blobs, to be read.
#[derive(Debug)]
pub(crate) struct Blobs(pub(crate) Image);

#[async_trait]
impl Source for Blobs {
    fn name(&self) -> &str {
        "memory"
    }

    async fn open(&self, blob: &Descriptor, offset: u64) -> Result<Chunks, SourceError> {
        let (name, digest) = (self.name().to_owned(), blob.digest.clone());
        let bytes = self.0.blobs.get(&blob.digest).ok_or(SourceError::NotFound { name, digest })?;
        let rest = bytes.slice(usize::try_from(offset).unwrap()..);
        Ok(stream::iter([Ok(rest)]).boxed())
    }
}

/// An export's origin, with an id that no other has.
pub(crate) fn origin() -> Origin {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let export = format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    Origin::internal(export, "test", "by hand")
}

pub(crate) fn names(names: &[&str]) -> Vec<Reference> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

pub(crate) fn docker_selection(stack: &Stack) -> Selection {
    Selection {
        kind: Some(EngineKind::Docker),
        docker_host: Some(stack.docker_host().parse().unwrap()),
        ..Selection::default()
    }
}

pub(crate) fn containerd_selection(stack: &Stack, namespace: &str) -> Selection {
    Selection {
        kind: Some(EngineKind::Containerd),
        containerd_address: Some(stack.containerd_address().into()),
        namespace: Some(namespace.to_owned()),
        ..Selection::default()
    }
}

pub(crate) async fn docker(stack: &Stack) -> Arc<dyn Engine> {
    select(&docker_selection(stack)).await.unwrap().engine
}

pub(crate) async fn containerd(stack: &Stack, namespace: &str) -> Arc<dyn Engine> {
    select(&containerd_selection(stack, namespace)).await.unwrap().engine
}

/// Begins a transaction that unpacks and tells nobody.
pub(crate) async fn begin(lease: &Arc<dyn Lease>, graph: Arc<Graph>) -> Result<Box<dyn ImageTransaction>, EngineError> {
    lease
        .clone()
        .begin(graph, TransactionOptions { unpack: UnpackFor::Commit, names: Vec::new(), events: Events::none() })
        .await
}

/// Writes a blob in pieces of 100,000 bytes, as far as it is not there from an earlier attempt.
pub(crate) async fn send(
    transaction: &dyn ImageTransaction,
    blob: &Descriptor,
    bytes: &Bytes,
) -> Result<(), EngineError> {
    match transaction.writer(blob).await? {
        Opened::Present => Ok(()),
        Opened::Writer(mut writer) => {
            let mut rest = bytes.slice(usize::try_from(writer.offset()).unwrap()..);
            while !rest.is_empty() {
                writer.write(rest.split_to(rest.len().min(100_000))).await?;
            }
            writer.commit().await
        }
    }
}

/// A whole export, one blob after the other.
pub(crate) async fn export(engine: &dyn Engine, image: &Image, names: &[Reference]) -> Result<Plan, EngineError> {
    let lease = engine.lease(&origin(), Lifetime::Process).await?;
    let outcome = transfer(&lease, image, names).await;
    lease.release().await?;
    outcome
}

async fn transfer(lease: &Arc<dyn Lease>, image: &Image, names: &[Reference]) -> Result<Plan, EngineError> {
    let transaction = begin(lease, image.graph()).await?;
    for blob in &transaction.plan().missing {
        send(&*transaction, blob, &image.blobs[&blob.digest]).await?;
    }
    transaction.prepare().await?.commit(names, &[]).await?;
    Ok(transaction.plan().clone())
}
