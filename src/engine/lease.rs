//! Leases: what keeps blobs from being collected before an image refers to them.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use super::ingest::IngestManager;
use super::{EngineError, ImageTransaction};
use crate::image::{Descriptor, Digest, Graph, Reference};
use crate::progress::Events;

/// The longest record of a durable lease, in bytes.
pub const MAX_RECORD: usize = 64 << 10;

/// When a lease ends that is not released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime<'a> {
    /// With the process: [`Engine::recover`](super::Engine::recover) of a later one releases it.
    Process,
    /// Eight hours after it was created, whichever process uses it meanwhile. Opening it again takes the same lease; a
    /// `record` (at most [`MAX_RECORD`] bytes) is stored with it when it is created, and must be the same or empty later.
    Durable {
        /// What [`PersistentLeases::durable`] gives back.
        record: &'a str,
    },
}

/// A lease that outlives its process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DurableLease {
    /// [`Origin::export`](super::Origin::export).
    pub export: String,
    /// What was stored with it.
    pub record: String,
    /// When it was created.
    pub created: SystemTime,
}

/// A blob to pin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes where that is known: a file of another size is then not taken for it.
    pub size: Option<u64>,
}

impl From<&Digest> for Pin {
    fn from(digest: &Digest) -> Self {
        Self { digest: digest.clone(), size: None }
    }
}

impl From<&Descriptor> for Pin {
    fn from(blob: &Descriptor) -> Self {
        Self { digest: blob.digest.clone(), size: Some(blob.size) }
    }
}

/// Whether an image is unpacked, and for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnpackFor {
    /// It is not.
    Nobody,
    /// For the commit of the transaction: files are on the disk before anybody can use them.
    Commit,
    /// The same if it can be, and what cannot is committed all the same ([`Event::NotUnpacked`](crate::progress::Event)): a
    /// registry stores what is valid, whether it runs or not.
    CommitIfPossible,
    /// For an engine that commits the image by itself, or refuses it. What keeps the snapshots is written when they are there, and
    /// files are as safe as those that the engine unpacks: a power failure within half a minute may leave them empty.
    Engine,
}

impl UnpackFor {
    /// Whether it is unpacked before the commit of the transaction.
    pub(crate) fn precedes_commit(self) -> bool {
        matches!(self, Self::Commit | Self::CommitIfPossible)
    }
}

/// What a transaction does beside storing an image.
#[derive(Debug, Clone)]
pub struct TransactionOptions {
    /// Whether the image is unpacked before it is committed, where the engine leaves the choice.
    pub unpack: UnpackFor,
    /// The names that it will be committed under, as far as they are known: what they point to until then can be pinned while
    /// blobs are on their way.
    pub names: Vec<Reference>,
    /// Gets what is unpacked, and the notes of the engine.
    pub events: Events,
}

/// A lease on an engine's blobs: what is pinned stays until the release, whatever other clients delete.
///
/// Dropping a lease releases nothing. The provided methods are the refusals of an engine that only whole images can be sent
/// to.
#[async_trait]
pub trait Lease: Debug + Send + Sync {
    /// The name of the engine's kind.
    fn engine(&self) -> &'static str;

    /// Pins those of `blobs` that the engine holds, and returns their sizes in the same order; `None` is not there, or
    /// was deleted before it was pinned. Costs a synced write or two for any number of blobs: pin many at once.
    ///
    /// # Errors
    /// When the engine cannot be queried, or the lease is gone; nothing counts as pinned then.
    /// [`EngineError::NotOffered`] where only whole images can be sent.
    async fn pin(&self, _blobs: &[Pin]) -> Result<Vec<Option<u64>>, EngineError> {
        Err(whole_images_only(self.engine()))
    }

    /// Pins all blobs of `graph` that the engine holds by their root, and returns them. Stores documents that are missing.
    ///
    /// # Errors
    /// As [`Lease::pin`], or when the store refuses a document.
    async fn pin_graph(&self, _graph: &Arc<Graph>) -> Result<Vec<Descriptor>, EngineError> {
        Err(whole_images_only(self.engine()))
    }

    /// The blobs that are pinned one by one, or were written under the lease; not what those refer to.
    ///
    /// # Errors
    /// As [`Lease::pin`].
    async fn pinned(&self) -> Result<Vec<Digest>, EngineError> {
        Err(whole_images_only(self.engine()))
    }

    /// Removes one pin; fine if there is none. The blob stays as long as anything else needs it.
    ///
    /// # Errors
    /// As [`Lease::pin`].
    async fn unpin(&self, _digest: &Digest) -> Result<(), EngineError> {
        Err(whole_images_only(self.engine()))
    }

    /// The ingests of the lease.
    ///
    /// # Errors
    /// [`EngineError::NotOffered`] where only whole images can be sent.
    fn ingests(&self) -> Result<&dyn IngestManager, EngineError> {
        Err(whole_images_only(self.engine()))
    }

    /// Begins a transaction: pins what the engine has of `graph` and stores its documents. A lease can have several, one
    /// after the other.
    ///
    /// # Errors
    /// When the store refuses a document or cannot be queried.
    async fn begin(
        self: Arc<Self>,
        graph: Arc<Graph>,
        options: TransactionOptions,
    ) -> Result<Box<dyn ImageTransaction>, EngineError>;

    /// Ends an export of the image `root` that was interrupted, and keeps as much of what it sent as the engine can for a
    /// later export of the same image. Kept are, for an hour at most, what
    /// [`PersistentLeases::abandoned`] lists. Where nothing can be kept this is a release.
    ///
    /// # Errors
    /// As [`Lease::release`].
    async fn suspend(&self, root: &Digest) -> Result<(), EngineError>;

    /// Releases the lease and removes its ingests. Waits for a pinning under way; later ones fail. Transactions must have
    /// ended. Can be called more than once.
    ///
    /// # Errors
    /// When the engine cannot be queried; the lease then expires by itself.
    async fn release(&self) -> Result<(), EngineError>;
}

/// The leases of an engine that outlive the process that created them.
#[async_trait]
pub trait PersistentLeases: Debug + Send + Sync {
    /// The durable leases that were created, in this process or before it, and have not ended.
    ///
    /// # Errors
    /// When the engine cannot be queried.
    async fn durable(&self) -> Result<Vec<DurableLease>, EngineError>;

    /// The leases that [`Engine::recover`](super::Engine::recover) would release, for a process that ends too soon for that:
    /// it looks when it begins, and releases them when what it exports no longer relies on them.
    ///
    /// # Errors
    /// When the engine cannot be queried.
    async fn abandoned(&self) -> Result<Abandoned, EngineError>;

    /// Releases leases that [`PersistentLeases::abandoned`] found. One that is gone meanwhile is no error.
    ///
    /// # Errors
    /// When the engine cannot be queried.
    async fn release_abandoned(&self, leases: &[String]) -> Result<(), EngineError>;
}

/// Leases of processes that are gone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Abandoned {
    /// Their ids.
    pub leases: Vec<String>,
    /// Those that keep what an interrupted export had sent ([`Lease::suspend`]), and the root of its image. They are of
    /// use until that is exported, or until they expire.
    pub kept: Vec<(String, Digest)>,
    /// How long after they were found they are to be left alone.
    pub grace: Duration,
}

fn whole_images_only(engine: &'static str) -> EngineError {
    EngineError::NotOffered { engine, what: "pinning and receiving blobs before their image is known" }
}
