//! Where bytes land: the seam between the export core and an engine.
//!
//! An [`Engine`] opens an [`Ingest`] for each export. The order in which the core
//! calls it is [`Engine::current`] (is there anything to do at all?), [`Engine::open`],
//! [`Ingest::plan`], [`Ingest::writer`] for each missing blob, [`Ingest::settle`],
//! [`Ingest::commit`], [`Ingest::release`]. Nothing is visible to the engine's users
//! before `commit`. The traits are object-safe, because the daemon chooses the engine
//! at run time.

mod api_error;
mod containerd;
mod docker;
mod docker_classic;
pub mod doctor;
pub(crate) mod error;
mod hold;
pub mod images;
mod installed;
mod kind;
mod layout;
pub(crate) mod process;
pub mod remote;
pub mod select;
pub(crate) mod stream;
#[cfg(test)]
pub(crate) mod stuck;
pub mod uploads;

use std::fmt::{self, Debug};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::Serialize;

use crate::image::{Descriptor, Digest, Graph, Reference};
use crate::net::Principal;
use crate::progress::Events;

pub use error::EngineError;
pub use hold::{Hold, StoredBlob};
use images::{Images, Record};
pub use kind::{EngineKind, UnknownKind};
#[cfg(any(test, fuzzing))]
pub(crate) use layout::fuzz as layout_fuzz;
use uploads::Uploads;

/// What an engine is, for messages and for `doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its kind.
    pub kind: EngineKind,
    /// The engine's version.
    pub version: String,
    /// Its socket, as a URL, or the directory of a layout.
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
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, version, address, storage } = self;
        write!(f, "{kind} {version} ({address})")?;
        match storage {
            Storage::Containerd { namespace, snapshotter, .. } => {
                write!(f, ", namespace {namespace}, snapshotter {snapshotter}")
            }
            Storage::Classic { storage_driver } => write!(f, ", storage driver {storage_driver}"),
            Storage::Directory {} => Ok(()),
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

/// How a builder beside an engine knows that its blobs need not be sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sharing {
    /// The UUID of the containerd that holds the engine's blobs.
    pub containerd: Option<String>,
    /// Whether a blob of another namespace of it is taken from there.
    pub namespaces: bool,
}

/// The most that an engine keeps with a durable export, in bytes.
pub const MAX_RECORD: usize = 64 << 10;

/// An export that outlives its process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Durable {
    /// [`Origin::export`].
    pub export: String,
    /// What was kept with it.
    pub record: String,
    /// When it was opened first.
    pub opened: std::time::SystemTime,
}

/// An engine that images can be exported to.
pub trait Engine: Debug + Send + Sync {
    /// What it is.
    fn identity(&self) -> &Identity;

    /// What it shares with its neighbours: nothing, unless it says so.
    fn sharing(&self) -> Sharing {
        Sharing::default()
    }

    /// Whether all `names` already stand for the image `root`, complete and unpacked, so that
    /// nothing needs to be done. On a Docker this also lets the engine see the (repeated) tagging, so
    /// that its events and authorization plugins take part. Writes nothing into containerd.
    /// With no names the answer is always `None`. `Some(n)` counts the image's blobs.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    fn current<'a>(
        &'a self,
        root: &'a Descriptor,
        names: &'a [Reference],
    ) -> BoxFuture<'a, Result<Option<usize>, EngineError>>;

    /// Opens an export: creates its lease, where the engine has such a thing.
    ///
    /// # Errors
    /// When the engine is not reachable or not the one that was proven.
    fn open<'a>(&'a self, origin: &'a Origin, events: Events) -> BoxFuture<'a, Result<Arc<dyn Ingest>, EngineError>>;

    /// Opens an export that outlives this process, or takes it up again: [`Engine::recover`] leaves it alone, and it ends
    /// by its release, or by itself eight hours after it was opened first. `record` (at most [`MAX_RECORD`] bytes) is
    /// kept with it when it is opened first, for [`Engine::durables`] to give back. Whether its blobs are still pinned is
    /// for [`Uploads::pin`] to say: the engine may have lost its state meanwhile.
    ///
    /// # Errors
    /// As [`Engine::open`]; [`EngineError::NotOffered`] where the engine has nothing that outlives the process.
    fn open_durable<'a>(
        &'a self,
        _origin: &'a Origin,
        _record: &'a str,
        _events: Events,
    ) -> BoxFuture<'a, Result<Arc<dyn Ingest>, EngineError>> {
        let engine = self.identity().kind.name();
        Box::pin(async move { Err(EngineError::NotOffered { engine, what: "an export that outlives a restart" }) })
    }

    /// The exports that [`Engine::open_durable`] opened, in this process or before it, and that have not ended.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    fn durables(&self) -> BoxFuture<'_, Result<Vec<Durable>, EngineError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// What the engine holds, to be read.
    ///
    /// # Errors
    /// [`EngineError::NotOffered`] where it cannot be read.
    fn images(&self) -> Result<Arc<dyn Images>, EngineError> {
        Err(EngineError::NotOffered { engine: self.identity().kind.name(), what: "reading its images" })
    }

    /// What `name` stands for, exactly so, in the digests that [`Engine::knows_as`] gives: by default the root of its image.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    fn resolve<'a>(&'a self, name: &'a Reference) -> BoxFuture<'a, Result<Option<Digest>, EngineError>> {
        Box::pin(async move { Ok(self.images()?.resolve(name).await?.map(|root| root.digest)) })
    }

    /// The digest by which the engine knows the image `root`: its own, unless the engine keeps no such roots. `None` if
    /// that follows from documents that it has not seen; then [`Ingest::require`] knows.
    fn knows_as(&self, root: &Digest) -> Option<Digest> {
        Some(root.clone())
    }

    /// A hold on blobs that the engine has, for a load that leaves them out of its archive. `None` if archives are
    /// loaded into this engine in some other way, or by nobody. Writes nothing yet.
    ///
    /// # Errors
    /// When the engine is not reachable or not the one that was proven.
    fn hold<'a>(&'a self, origin: &'a Origin) -> BoxFuture<'a, Result<Option<Arc<dyn Hold>>, EngineError>> {
        let _ = origin;
        Box::pin(async { Ok(None) })
    }

    /// Holds `graph` for somebody who reads it: whatever others delete meanwhile, it stays until the result is released, or
    /// this process ends. `None` where nothing is held: the engine then keeps what is being read by itself.
    ///
    /// # Errors
    /// When the engine cannot be asked, or refuses. What it has can be read all the same.
    fn reading<'a>(
        &'a self,
        origin: &'a Origin,
        graph: &'a Arc<Graph>,
    ) -> BoxFuture<'a, Result<Option<Arc<dyn Ingest>>, EngineError>> {
        Box::pin(async move {
            let ingest = self.open(origin, Events::none()).await?;
            match ingest.hold(graph).await {
                Ok(_) => Ok(Some(ingest)),
                Err(error) => {
                    // Why nothing is held is what matters.
                    if let Err(error) = ingest.release().await {
                        tracing::warn!(%error, "a lease could not be released");
                    }
                    Err(error)
                }
            }
        })
    }

    /// Finds leases (and their ingests) that an earlier process of ours left behind and releases them, soon if not at
    /// once. Returns how many there are.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    fn recover(&self) -> BoxFuture<'_, Result<usize, EngineError>>;

    /// Makes `name` stand for the image `root`, of which the engine has a record.
    ///
    /// # Errors
    /// When the engine refuses; [`EngineError::NotOffered`] where names cannot be set by themselves.
    fn tag<'a>(&'a self, _root: &'a Descriptor, _name: &'a Reference) -> BoxFuture<'a, Result<(), EngineError>> {
        let engine = self.identity().kind.name();
        Box::pin(async move { Err(EngineError::NotOffered { engine, what: "giving an image another name" }) })
    }

    /// Removes a record, and with the last one of an image what only that needs. `force` is dockerd's word for images
    /// that stopped containers use.
    ///
    /// # Errors
    /// When the engine refuses; [`EngineError::NotOffered`] where images cannot be removed.
    fn remove<'a>(&'a self, _record: &'a Record, _force: bool) -> BoxFuture<'a, Result<(), EngineError>> {
        let engine = self.identity().kind.name();
        Box::pin(async move { Err(EngineError::NotOffered { engine, what: "removing images" }) })
    }

    /// The leases that [`Engine::recover`] would release, for a process that ends too soon for that: it looks when it
    /// begins, and releases them when what it exports no longer relies on them.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    fn abandoned(&self) -> BoxFuture<'_, Result<Abandoned, EngineError>> {
        Box::pin(async { Ok(Abandoned::default()) })
    }

    /// Releases leases that [`Engine::abandoned`] found. What is gone meanwhile is no error.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    fn release_abandoned<'a>(&'a self, _leases: &'a [String]) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(async { Ok(()) })
    }
}

/// Leases of processes that are gone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Abandoned {
    /// The leases, as the engine knows them.
    pub leases: Vec<String>,
    /// Those that keep what an interrupted export had sent ([`Ingest::suspend`]), and the root of its image. They are of
    /// use until that is exported, or until they expire.
    pub kept: Vec<(String, Digest)>,
    /// How long after they were found they are to be left alone.
    pub grace: std::time::Duration,
}

/// What a plan found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Blobs, documents included, that the engine held already; they are pinned now.
    pub present: Vec<Descriptor>,
    /// Leaves that must be sent, the largest first: whoever begins with them is done soonest.
    pub missing: Vec<Descriptor>,
    /// Documents that were stored by the plan itself, because their bytes were at hand.
    pub stored: Vec<Descriptor>,
}

/// What a name must stand for when it is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// The name.
    pub name: Reference,
    /// One of these roots; `None` is that it does not exist.
    pub expected: Vec<Option<Digest>>,
}

impl Condition {
    /// Refuses what the name stands for, unless it is expected.
    ///
    /// # Errors
    /// [`EngineError::NameMoved`].
    pub(crate) fn check(&self, current: Option<&Digest>) -> Result<(), EngineError> {
        if self.expected.iter().any(|expected| expected.as_ref() == current) {
            return Ok(());
        }
        Err(EngineError::NameMoved { name: self.name.to_string(), current: current.cloned() })
    }
}

/// One export's hold on an engine.
pub trait Ingest: Debug + Send + Sync {
    /// Pins what the engine has of `graph`, stores its documents and says which leaves are missing. An engine that cannot
    /// pin (Docker's classic store) may find at the commit that something has gone.
    /// Foreign layers that are absent are not counted as missing.
    ///
    /// After [`EngineError::Vanished`] it may be called again on the same ingest, which then begins anew.
    ///
    /// # Errors
    /// When the store refuses a document or cannot be asked.
    fn plan<'a>(&'a self, graph: &'a Arc<Graph>) -> BoxFuture<'a, Result<Plan, EngineError>>;

    /// Said before the plan: the image need not be unpacked. An engine that never unpacks, or always, takes no notice.
    fn skip_unpack(&self) {}

    /// Said before the commit, any number of times: the names must then stand for what is expected, or none is set and
    /// the commit ends with [`EngineError::NameMoved`]. `layout` compares and sets under its lock, `containerd` does so
    /// for names that must not exist, `docker` and `docker-classic` look right before they ask dockerd.
    fn require(&self, _conditions: Vec<Condition>) {}

    /// Pins what the engine has of `graph`, all of it by its root, and says what is missing. Prepares nothing else: the
    /// image may never be committed.
    ///
    /// # Errors
    /// As [`Ingest::plan`].
    fn hold<'a>(&'a self, graph: &'a Arc<Graph>) -> BoxFuture<'a, Result<Plan, EngineError>> {
        self.plan(graph)
    }

    /// Opens a missing blob for writing.
    ///
    /// # Errors
    /// When the store refuses.
    fn writer<'a>(&'a self, blob: &'a Descriptor) -> BoxFuture<'a, Result<Opened, EngineError>>;

    /// Waits until all that can be done before the commit is done: layers unpacked, every digest
    /// verified to be present.
    ///
    /// # Errors
    /// When a layer cannot be unpacked or a blob is missing after all.
    fn settle(&self) -> BoxFuture<'_, Result<(), EngineError>>;

    /// Makes the image visible under `names`; with none, as a dangling image.
    ///
    /// # Errors
    /// With the engine's own words when it refuses.
    fn commit<'a>(&'a self, names: &'a [Reference]) -> BoxFuture<'a, Result<(), EngineError>>;

    /// The blobs that clients send by themselves, as part of this export.
    ///
    /// # Errors
    /// [`EngineError::NotOffered`] where the engine takes only whole images.
    fn uploads(&self) -> Result<&dyn Uploads, EngineError> {
        Err(EngineError::NotOffered { engine: "this engine", what: "taking in blobs before it knows their image" })
    }

    /// Stops what is under way for this image, such as unpacking, and keeps the lease: for an export whose blobs
    /// serve another attempt.
    fn withdraw(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    /// Ends this process' part in an export that was interrupted, and keeps as much of what it sent as the engine can for
    /// a later export of the same image, which may be another process'. What is kept belongs to a process that is gone as
    /// soon as this one is, and goes as [`Engine::abandoned`] says. An engine that can keep nothing releases it.
    ///
    /// # Errors
    /// As [`Ingest::release`].
    fn suspend(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        self.release()
    }

    /// Gives up the lease, or the connection where there is none. Before `commit` this aborts the export and removes its
    /// ingests; it is
    /// safe to call at any time, and more than once.
    ///
    /// # Errors
    /// When the engine cannot be asked; the lease then expires by itself.
    fn release(&self) -> BoxFuture<'_, Result<(), EngineError>>;
}

/// The outcome of opening a blob.
#[derive(Debug)]
pub enum Opened {
    /// The engine has it by now, and it is pinned.
    Present,
    /// It must be written.
    Writer(Box<dyn BlobWriter>),
}

/// A blob being written. Dropping it without `commit` leaves an ingest that `release` removes, or that a later
/// writer of the same blob goes on with.
pub trait BlobWriter: Debug + Send {
    /// How many bytes the store has from an earlier attempt: writing begins there.
    fn offset(&self) -> u64 {
        0
    }

    /// Sends the next bytes (any length; at most 4 MiB are buffered). Returns when there is room for more,
    /// not when they are stored.
    ///
    /// # Errors
    /// When the store has refused anything sent so far.
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), EngineError>>;

    /// Completes the blob: the store has verified size and digest when this returns. Docker's classic store verifies the
    /// digest of the content instead, when it unpacks the layer at the commit, and before it makes an image of it.
    ///
    /// # Errors
    /// [`EngineError::Corrupt`] when they do not match.
    fn commit(self: Box<Self>) -> BoxFuture<'static, Result<(), EngineError>>;
}
