//! Where images are stored: the seam between the export core and an engine.
//!
//! An [`Engine`] creates a [`Lease`] for each export, and the lease begins an [`ImageTransaction`] for each image. The
//! order of an export is [`Engine::already_complete`] (is there anything to do at all?), [`Engine::lease`], [`Lease::begin`],
//! [`ImageTransaction::writer`] for each missing blob, [`ImageTransaction::prepare`], [`PreparedImage::commit`],
//! [`Lease::release`]. Nothing is visible to the engine's users before the commit. The traits are object-safe, because the
//! daemon chooses the engine at run time.
//!
//! ```no_run
//! # async fn list() -> Result<(), Box<dyn std::error::Error>> {
//! use linkspan::engine::images::Query;
//! use linkspan::engine::{EngineKind, select};
//!
//! let selection = select::Selection { kind: Some(EngineKind::Containerd), ..Default::default() };
//! let engine = select::select(&selection).await?.engine;
//! for record in engine.images()?.list(&Query::default()).await?.records {
//!     println!("{} {}", record.name.unwrap_or_default(), record.target.digest);
//! }
//! # Ok(())
//! # }
//! ```

mod api_error;
mod blob_url;
pub mod caches;
mod cluster;
pub mod collect;
mod containerd;
mod docker;
mod docker_api;
mod docker_classic;
pub mod doctor;
pub(crate) mod error;
#[cfg(test)]
pub(crate) mod fixture;
mod identity_message;
pub mod images;
pub mod ingest;
mod installed;
mod kind;
mod layer_applier;
mod lease;
mod local;
#[cfg(feature = "object")]
mod object;
pub(crate) mod open_leases;
mod process;
mod release;
pub mod remote;
mod repository;
pub mod select;
mod stored;
pub(crate) mod stream;
mod transaction;
mod transfer_permits;

use std::fmt::{self, Debug};
use std::sync::Arc;

use async_trait::async_trait;
use serde::Serialize;

use crate::image::{Descriptor, Digest, Graph, Reference};
use crate::net::Principal;

pub use blob_url::BlobUrl;
use caches::CacheStore;
pub use cluster::{ClusterAddress, ClusterAddressError, ClusterTool, NodeNames};
use collect::{Collected, Collection};
#[cfg(any(test, fuzzing))]
pub(crate) use containerd::layer_fuzz;
pub(crate) use error::BY_DOCKER;
pub use error::EngineError;
pub(crate) use identity_message::identity_message;
use images::{Images, Record};
pub use kind::{EngineKind, UnknownKind};
pub use lease::{
    Abandoned, DurableLease, Lease, Lifetime, MAX_RECORD, PersistentLeases, Pin, TransactionOptions, UnpackFor,
};
#[cfg(any(test, fuzzing))]
pub(crate) use local::fuzz as layout_fuzz;
pub(crate) use local::{NewLayout, cache_tags, cache_versions, new_cache_index};
#[cfg(feature = "object")]
pub use object::{BucketAddress, BucketAddressError, ObjectVariables};
#[cfg(feature = "object")]
pub(crate) use object::{failure as object_store_failure, open_store as open_object_store};
pub use open_leases::OpenLeases;
pub(crate) use release::release;
pub use stored::{StoredBlob, StoredBlobs};
pub use transaction::{BlobWriter, ImageTransaction, Opened, Plan, Precondition, PreparedImage};
pub(crate) use transfer_permits::{InFlight, PARALLEL};

/// What an engine is, for messages and for `doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its kind.
    pub kind: EngineKind,
    /// The engine's version.
    pub version: String,
    /// Its socket, as a URL, the directory of a layout, or the address of a bucket.
    pub address: String,
    /// Where it keeps images.
    pub storage: Storage,
}

/// Where an engine keeps images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Storage {
    /// In containerd.
    Containerd {
        /// The containerd namespace that images go to.
        namespace: String,
        /// The snapshotter that unpacks them.
        snapshotter: String,
        /// Whether layers can be unpacked in parallel (the snapshotter's `rebase` capability).
        parallel_unpack: bool,
    },
    /// In dockerd's classic store.
    Classic {
        /// The graph driver, such as `overlay2`.
        storage_driver: String,
    },
    /// In the files of a directory.
    Directory {},
    /// In an object store.
    Bucket {},
    /// In the containerd of each node of a cluster.
    Cluster {
        /// The containerd namespace that images go to.
        namespace: String,
        /// The snapshotter that unpacks them; several if the nodes have different ones.
        snapshotter: String,
        /// Whether layers can be unpacked in parallel on every node.
        parallel_unpack: bool,
        /// The nodes, as docker calls their containers.
        nodes: NodeNames,
    },
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, version, address, storage } = self;
        write!(f, "{kind} {version} ({address})")?;
        match storage {
            Storage::Containerd { namespace, snapshotter, .. } => {
                write!(f, ", namespace {namespace}, snapshotter {snapshotter}")
            }
            Storage::Cluster { namespace, snapshotter, nodes, .. } => {
                write!(f, ", namespace {namespace}, snapshotter {snapshotter}, nodes {}", nodes.to_vec().join(" "))
            }
            Storage::Classic { storage_driver } => write!(f, ", storage driver {storage_driver}"),
            Storage::Directory {} | Storage::Bucket {} => Ok(()),
        }
    }
}

/// Who is exporting. All but the client becomes the labels of the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The export's id: unique, at most 64 characters of `[a-z0-9-]`.
    pub export: String,
    /// The door it came through.
    pub door: &'static str,
    /// The builder, as configured.
    pub builder: String,
    /// The client.
    pub principal: Principal,
}

impl Origin {
    /// An export of this process itself.
    pub fn internal(export: impl Into<String>, door: &'static str, builder: impl Into<String>) -> Self {
        Self { export: export.into(), door, builder: builder.into(), principal: Principal::Internal }
    }

    /// Checks the export's id, which becomes a part of file names or keys.
    pub(crate) fn check_id(&self) -> Result<(), EngineError> {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if (1..=64).contains(&self.export.len()) && self.export.bytes().all(is_plain) {
            return Ok(());
        }
        let (operation, shown) = ("opening an export".to_owned(), self.export.chars().take(80).collect::<String>());
        let reason = format!("`{shown}` is no id: expected up to 64 of a-z, 0-9 and -");
        Err(EngineError::Protocol { operation, reason })
    }
}

/// The content store of an engine, as a builder that uses the same containerd recognises it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SharedContent {
    /// The UUID of the containerd that holds the engine's blobs.
    pub containerd: Option<String>,
    /// Whether a blob of another namespace of it is taken from there.
    pub namespaces: bool,
}

/// An engine that images can be exported to.
#[async_trait]
pub trait Engine: Debug + Send + Sync {
    /// What it is.
    fn identity(&self) -> &Identity;

    /// The content store that it shares with builders; by default none.
    fn sharing(&self) -> SharedContent {
        SharedContent::default()
    }

    /// Whether all `names` resolve to the image `root` already, complete and unpacked, so that nothing needs to be done;
    /// `Some(n)` counts the image's blobs. Always `None` without names. A Docker is asked to tag the image again, so that
    /// its events and authorization plugins take part. Writes nothing into containerd.
    ///
    /// # Errors
    /// When the engine cannot be queried.
    async fn already_complete(&self, root: &Descriptor, names: &[Reference]) -> Result<Option<usize>, EngineError>;

    /// Creates a lease, or opens a durable one again: whether its blobs are still pinned is then for [`Lease::pin`] to tell,
    /// since the engine may have lost its state meanwhile.
    ///
    /// # Errors
    /// When the engine is not reachable or not the one that was verified; [`EngineError::NotOffered`] for a durable lease
    /// where nothing outlives the process.
    async fn lease(&self, origin: &Origin, lifetime: Lifetime<'_>) -> Result<Arc<dyn Lease>, EngineError>;

    /// The leases that outlive their process. `None` where there are none: what an export sent is then gone with its process.
    fn persistent_leases(&self) -> Option<&dyn PersistentLeases>;

    /// The image records and blobs of the engine, to be read.
    ///
    /// # Errors
    /// [`EngineError::NotOffered`] where it cannot be read.
    fn images(&self) -> Result<Arc<dyn Images>, EngineError> {
        Err(EngineError::NotOffered { engine: self.identity().kind.name(), what: "reading its images" })
    }

    /// The build caches that are stored in the engine.
    ///
    /// # Errors
    /// [`EngineError::NotOffered`] where none can be.
    fn caches(&self) -> Result<Arc<dyn CacheStore>, EngineError> {
        Err(EngineError::NotOffered { engine: self.identity().kind.name(), what: "storing build caches" })
    }

    /// The engine that keeps the build caches and their leases, where it is another one.
    fn cache_engine(&self) -> Option<Arc<dyn Engine>> {
        None
    }

    /// What `name` resolves to, exactly so, in the digests that [`Engine::knows_as`] gives: by default the root of its image.
    ///
    /// # Errors
    /// When the engine cannot be queried.
    async fn resolve(&self, name: &Reference) -> Result<Option<Digest>, EngineError> {
        Ok(self.images()?.resolve(name).await?.map(|root| root.digest))
    }

    /// The digest by which the engine knows the image `root`: its own, unless the engine keeps no such roots. `None` if
    /// that follows from documents that it has not seen; then the commit compares ([`Precondition`]).
    fn knows_as(&self, root: &Digest) -> Option<Digest> {
        Some(root.clone())
    }

    /// The store into which the engine loads archives, if blobs that are in it can be omitted from them. `None` if archives
    /// are loaded into this engine in some other way, or not at all.
    ///
    /// # Errors
    /// When the engine is not reachable or not the one that was verified.
    async fn load_store(&self) -> Result<Option<Arc<dyn StoredBlobs>>, EngineError>;

    /// Pins `graph` while it is read. `None` where nothing needs to be pinned: the engine then keeps what is being read by
    /// itself.
    ///
    /// # Errors
    /// When the engine cannot be queried, or refuses. What it has can be read all the same.
    async fn read_lease(&self, origin: &Origin, graph: &Arc<Graph>) -> Result<Option<Arc<dyn Lease>>, EngineError> {
        let lease = self.lease(origin, Lifetime::Process).await?;
        match lease.pin_graph(graph).await {
            Ok(_) => Ok(Some(lease)),
            Err(error) => {
                // The caller learns why nothing is pinned.
                if let Err(error) = lease.release().await {
                    tracing::warn!(%error, "a lease could not be released");
                }
                Err(error)
            }
        }
    }

    /// Releases the leases, and removes their ingests, that earlier processes of ours left behind; soon if not at once.
    /// Returns how many there are.
    ///
    /// # Errors
    /// When the engine cannot be queried.
    async fn recover(&self) -> Result<usize, EngineError>;

    /// Sets `name` to the image `root`, of which the engine has a record.
    ///
    /// # Errors
    /// When the engine refuses; [`EngineError::NotOffered`] where names cannot be set by themselves.
    async fn tag(&self, _root: &Descriptor, _name: &Reference) -> Result<(), EngineError> {
        let engine = self.identity().kind.name();
        Err(EngineError::NotOffered { engine, what: "giving an image another name" })
    }

    /// Removes a record, and with the last one of an image what only that needs. `force` is dockerd's word for images
    /// that stopped containers use.
    ///
    /// # Errors
    /// When the engine refuses; [`EngineError::NotOffered`] where images cannot be removed.
    async fn remove(&self, _record: &Record, _force: bool) -> Result<(), EngineError> {
        let engine = self.identity().kind.name();
        Err(EngineError::NotOffered { engine, what: "removing images" })
    }

    /// Deletes what nothing refers to any more.
    ///
    /// # Errors
    /// When the engine refuses, or a blob might be in use that looks unused; [`EngineError::Collects`] where that is not
    /// Linkspan's to do.
    async fn collect(&self, _wanted: &Collection<'_>) -> Result<Collected, EngineError> {
        let kind = self.identity().kind;
        Err(EngineError::Collects { engine: kind.name(), who: collect::collector_of(kind) })
    }

    /// What is wrong with a name that leads to no image although the engine has it: its entry is unreadable, or its image is gone.
    ///
    /// # Errors
    /// When the engine cannot be queried.
    async fn broken_name(&self, _name: &Reference) -> Result<Option<EngineError>, EngineError> {
        Ok(None)
    }

    /// Removes a name that is broken ([`Engine::broken_name`]).
    ///
    /// # Errors
    /// [`EngineError::NameMoved`] when it is not broken; when the engine refuses.
    async fn remove_broken(&self, _name: &Reference) -> Result<(), EngineError> {
        let engine = self.identity().kind.name();
        Err(EngineError::NotOffered { engine, what: "removing names without an image" })
    }
}
