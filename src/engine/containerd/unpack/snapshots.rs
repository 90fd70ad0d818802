//! The snapshotter calls of an unpack.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use containerd_client::services::v1::snapshots::{PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest};
use containerd_client::types::Mount;
use futures_util::{StreamExt as _, stream};
use tokio::time::timeout;
use tonic::Code;
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;

use super::super::client::{Client, Expect as _, SILENCE};
use super::super::discover::Server;
use super::super::read::ContainerdImages;
use super::apply_tasks::ApplyTasks;
use super::host::Host;
use super::layer::Layer;
use crate::engine::EngineError;
use crate::engine::layer_applier::ApplierChoice;
use crate::image::Digest;

/// The snapshot label by which a snapshotter recognises a layer that it has already
/// (containerd `core/snapshots/snapshotter.go`).
const REFERENCE: &str = "containerd.io/snapshot.ref";
/// Since containerd 2.3 snapshotters are also told the layer's own digest and its parent (`core/unpack/unpacker.go`).
const DIFF_ID: &str = "containerd.io/snapshot/diff-id";
const PARENT: &str = "containerd.io/snapshot/parent-chain-id";

/// How long the removal of unfinished snapshots may take, of all together: a containerd that hangs would be waited for once more at
/// each.
const REMOVING: Duration = Duration::from_secs(60);

/// `CommitSnapshotRequest` with the field `parent`, which containerd 2.2 has and the crate's copy of the protocol has not
/// (containerd `api/services/snapshots/v1/snapshots.proto`).
#[derive(Clone, PartialEq, prost::Message)]
struct CommitSnapshotRequest {
    #[prost(string, tag = "1")]
    snapshotter: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    key: String,
    #[prost(map = "string, string", tag = "4")]
    labels: HashMap<String, String>,
    #[prost(string, tag = "5")]
    parent: String,
}

/// What preparing a snapshot came to.
#[derive(Debug)]
pub(crate) enum PrepareOutcome {
    /// It is to be filled through these mounts.
    Mounts(Vec<Mount>),
    /// The chain is there already.
    Exists,
    /// Its parent is gone.
    NoParent,
}

/// The snapshots of one snapshotter, used in the name of a lease. Clones share the list of unfinished snapshots.
#[derive(Debug, Clone)]
pub(crate) struct Snapshots {
    client: Client,
    snapshotter: String,
    /// The folder of the content store, as containerd sees it.
    content: Option<PathBuf>,
    layer_applier: ApplierChoice,
    /// Whether files are on the disk before their snapshot is committed.
    sync: bool,
    /// What writes into unfinished snapshots.
    apply_tasks: ApplyTasks,
    /// Keys of snapshots that were prepared and not yet committed.
    active: Arc<Mutex<HashSet<String>>>,
}

impl Snapshots {
    pub(crate) fn new(client: Client, server: &Server) -> Self {
        let (snapshotter, content) = (server.snapshotter.clone(), server.content.clone());
        let (layer_applier, sync) = (server.layer_applier, true);
        let (apply_tasks, active) = Default::default();
        Self { client, snapshotter, content, layer_applier, sync, apply_tasks, active }
    }

    /// The same snapshots, synced before they are committed or not.
    pub(crate) fn with_sync(&self, sync: bool) -> Self {
        Self { sync, ..self.clone() }
    }

    pub(super) fn sync(&self) -> bool {
        self.sync
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn layer_applier(&self) -> ApplierChoice {
        self.layer_applier
    }

    pub(super) fn content_root(&self) -> Option<&Path> {
        self.content.as_deref()
    }

    pub(super) fn apply_tasks(&self) -> &ApplyTasks {
        &self.apply_tasks
    }

    pub(crate) fn snapshotter(&self) -> &str {
        &self.snapshotter
    }

    /// containerd's files, or why they cannot be reached.
    pub(super) async fn host(&self) -> Result<Result<Host, String>, EngineError> {
        Host::of(&self.client).await
    }

    /// The content store, to be read.
    pub(super) fn content(&self) -> ContainerdImages {
        ContainerdImages::new(self.client.clone(), "containerd")
    }

    fn active(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a snapshot of this name exists.
    pub(crate) async fn exists(&self, name: &str) -> Result<bool, EngineError> {
        exists(&self.client, &self.snapshotter, name).await
    }

    /// How many of `layers` are unpacked already, counted from the lowest.
    pub(crate) async fn depth(&self, layers: &[Layer]) -> Result<usize, EngineError> {
        if let Some(top) = layers.last()
            && self.exists(top.chain.as_str()).await?
        {
            return Ok(layers.len());
        }
        // A snapshot keeps its parents, so the highest that exists tells it all.
        let lookups: Vec<_> = layers.iter().map(|layer| self.exists(layer.chain.as_str())).collect();
        let found: Vec<_> = stream::iter(lookups).buffered(16).collect().await;
        let mut depth = 0;
        for (at, exists) in found.into_iter().enumerate() {
            if exists? {
                depth = at + 1;
            }
        }
        Ok(depth)
    }

    /// Prepares a snapshot for `layer`, under a key of its own, on `parent`.
    pub(crate) async fn prepare(
        &self,
        key: &str,
        layer: &Layer,
        below: Option<&Digest>,
        parent: Option<&Digest>,
    ) -> Result<PrepareOutcome, EngineError> {
        let request = PrepareSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            key: key.to_owned(),
            parent: parent.map(ToString::to_string).unwrap_or_default(),
            labels: snapshot_labels(layer, below),
        };
        self.active().insert(key.to_owned());
        let mut outcome = self.try_prepare(layer, request.clone()).await;
        // A containerd that was killed while it made a snapshot has left a folder without an entry in its database, and
        // gives out its number again. The first attempt fails on that folder and removes it, so that the second succeeds
        // (`plugins/snapshots/overlay/overlay.go`, `createSnapshot`).
        if matches!(&outcome, Err(EngineError::Rpc { message, .. }) if message.ends_with(": file exists")) {
            outcome = self.try_prepare(layer, request).await;
        }
        let prepared = match outcome {
            Ok(mounts) => return Ok(PrepareOutcome::Mounts(mounts)),
            Err(EngineError::Rpc { code: Code::AlreadyExists, .. }) => PrepareOutcome::Exists,
            Err(EngineError::Rpc { code: Code::NotFound, .. }) if parent.is_some() => PrepareOutcome::NoParent,
            Err(error) => return Err(layer.unpack_error(error)),
        };
        self.active().remove(key);
        Ok(prepared)
    }

    /// A caller that goes away does not end the call: containerd would then leave the folder of the snapshot without an entry in
    /// its database (`core/metadata/snapshot.go`, `createSnapshot`, which cleans up in the context of the call).
    async fn try_prepare(&self, layer: &Layer, request: PrepareSnapshotRequest) -> Result<Vec<Mount>, EngineError> {
        let (client, operation) = (self.client.clone(), format!("preparing a snapshot for {}", layer.blob.digest));
        let ended = self.apply_tasks.call(async move {
            let mut stub = client.snapshots();
            let call = stub.prepare(client.request(request));
            // Bulk work for snapshotters that copy the parent (blockfile), so the patience is great.
            client.within(SILENCE, operation, call).await
        });
        let broken = |reason: String| EngineError::Unpack { layer: layer.blob.digest.clone(), reason };
        Ok(ended.await.map_err(|error| broken(error.to_string()))??.mounts)
    }

    /// Makes the snapshot `key` the unpacked `layer`. `parent` is only given when it was prepared without one. Whether
    /// another client did the same in the meantime makes no difference.
    pub(crate) async fn commit(
        &self,
        key: &str,
        layer: &Layer,
        below: Option<&Digest>,
        parent: Option<&Digest>,
    ) -> Result<(), EngineError> {
        let request = CommitSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            name: layer.chain.to_string(),
            key: key.to_owned(),
            labels: snapshot_labels(layer, below),
            parent: parent.map(ToString::to_string).unwrap_or_default(),
        };
        let call = async {
            let mut stub = tonic::client::Grpc::new(self.client.channel());
            stub.ready().await.map_err(|error| tonic::Status::from_error(error.into()))?;
            let path = PathAndQuery::from_static("/containerd.services.snapshots.v1.Snapshots/Commit");
            let codec: ProstCodec<CommitSnapshotRequest, ()> = ProstCodec::default();
            stub.unary(self.client.request(request), path, codec).await
        };
        let outcome =
            self.client.within(SILENCE, format!("committing the snapshot of {}", layer.blob.digest), call).await;
        match outcome {
            Ok(()) => {
                self.active().remove(key);
                Ok(())
            }
            Err(EngineError::Rpc { code: Code::AlreadyExists, .. }) => {
                if let Err(error) = self.remove(key).await {
                    tracing::debug!(%error, key, "an unfinished snapshot stays until its lease goes");
                }
                Ok(())
            }
            Err(error) => Err(layer.unpack_error(error)),
        }
    }

    /// Removes an unfinished snapshot; fine if it is gone.
    pub(super) async fn remove(&self, key: &str) -> Result<(), EngineError> {
        let mut stub = self.client.snapshots();
        let request = RemoveSnapshotRequest { snapshotter: self.snapshotter.clone(), key: key.to_owned() };
        let call = stub.remove(self.client.request(request));
        self.client.within(SILENCE, format!("removing the snapshot {key}"), call).await.unless(Code::NotFound)?;
        self.active().remove(key);
        Ok(())
    }

    /// Removes what was prepared and not committed. What cannot be removed now goes with the lease.
    pub(crate) async fn remove_active(&self) {
        // containerd could not remove a folder into which something is still being written.
        self.apply_tasks.stopped().await;
        let keys: Vec<_> = self.active().iter().cloned().collect();
        let removing = async {
            for key in keys {
                if let Err(error) = self.remove(&key).await {
                    tracing::debug!(%error, key, "an unfinished snapshot stays until its lease goes");
                    if error.is_disconnect() {
                        return;
                    }
                }
            }
        };
        if timeout(REMOVING, removing).await.is_err() {
            tracing::debug!("unfinished snapshots stay until their lease goes: containerd does not respond");
        }
    }
}

/// Whether `snapshotter` has a snapshot of this name.
pub(crate) async fn exists(client: &Client, snapshotter: &str, name: &str) -> Result<bool, EngineError> {
    let mut stub = client.snapshots();
    let request = StatSnapshotRequest { snapshotter: snapshotter.to_owned(), key: name.to_owned() };
    let call = stub.stat(client.request(request));
    Ok(client.unary(format!("looking up snapshot {name}"), call).await.unless(Code::NotFound)?.is_some())
}

/// A key for an unfinished snapshot, in the form that containerd's own clients use: `nerdctl` and others recognise
/// left-overs by it (containerd `core/snapshots/snapshotter.go`, `UnpackKeyFormat`). Unique by process, time and count.
pub(crate) fn key(layer: &Layer) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("extract-{nanos}-{:x}.{count:x} {}", std::process::id(), layer.chain)
}

fn snapshot_labels(layer: &Layer, below: Option<&Digest>) -> HashMap<String, String> {
    let mut labels = HashMap::from([
        (REFERENCE.to_owned(), layer.chain.to_string()),
        (DIFF_ID.to_owned(), layer.diff_id.to_string()),
    ]);
    labels.extend(below.map(|below| (PARENT.to_owned(), below.to_string())));
    labels
}
