//! Ingests: blobs that are written under a ref, before it is known which image they belong to.
//!
//! The traits have the shape of containerd's (`core/content/content.go`, `Ingester` and `IngestManager`): a client chooses
//! the ref, an ingest keeps what was written when its connection ends, and the next writer of the ref resumes it.

use std::fmt::Debug;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;

use super::EngineError;
use crate::image::Digest;

/// The longest ref of an ingest, in bytes.
pub const MAX_REF: usize = 512;

/// What is known of an ingest's blob.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expected {
    /// Its digest.
    pub digest: Option<Digest>,
    /// Its size in bytes.
    pub size: Option<u64>,
}

/// The ingests of one lease. No other lease sees them; a blob is visible to all once it is committed.
#[async_trait]
pub trait IngestManager: Debug + Send + Sync {
    /// The sizes of those of `digests` that the engine can register without being sent their bytes, as from another
    /// namespace of the same containerd; in the same order. It must hold none of them yet. An ingest that expects one
    /// begins at its end, and need only be committed. Nothing is pinned: until then the blob may go, and the ingest begins
    /// at 0.
    ///
    /// # Errors
    /// When the engine cannot be queried.
    async fn mountable(&self, digests: &[Digest]) -> Result<Vec<Option<u64>>, EngineError>;

    /// Opens the ingest `reference` for writing, where it was left if there is one. An ingest has one writer at a time.
    ///
    /// # Errors
    /// [`EngineError::Busy`] when it has a writer; otherwise when the engine refuses.
    async fn open(&self, reference: &str, expected: &Expected) -> Result<OpenedIngest, EngineError>;

    /// The status of the ingest `reference`; `None` if there is none.
    ///
    /// # Errors
    /// When the engine cannot be queried.
    async fn status(&self, reference: &str) -> Result<Option<IngestStatus>, EngineError>;

    /// All ingests that are not committed, sorted by ref.
    ///
    /// # Errors
    /// When the engine cannot be queried.
    async fn statuses(&self) -> Result<Vec<IngestStatus>, EngineError>;

    /// Removes the ingest `reference` and what was written; fine if there is none.
    ///
    /// # Errors
    /// [`EngineError::Busy`] when it has a writer; otherwise when the engine refuses.
    async fn abort(&self, reference: &str) -> Result<(), EngineError>;
}

/// The outcome of opening an ingest.
#[derive(Debug)]
pub enum OpenedIngest {
    /// The engine has the blob that was expected, and it is pinned.
    Present,
    /// It can be written.
    Writer(Box<dyn IngestWriter>),
}

/// An ingest that is being written. Dropping it closes it as [`IngestWriter::suspend`] does, without telling when, or how
/// far it came.
#[async_trait]
pub trait IngestWriter: Debug + Send {
    /// How many bytes there are: where the next write continues.
    fn offset(&self) -> u64;

    /// Sends the next bytes (any length; at most 4 MiB are buffered). Returns when there is room for more, not when
    /// they are stored.
    ///
    /// # Errors
    /// When the store has refused anything sent so far, or more comes than was expected.
    async fn write(&mut self, bytes: Bytes) -> Result<(), EngineError>;

    /// The digest of the bytes so far, by the algorithm of the digest that is expected, else sha256. Waits until the
    /// store has them.
    ///
    /// # Errors
    /// When the store has refused anything sent so far.
    async fn digest(&mut self) -> Result<Digest, EngineError>;

    /// Truncates the ingest: the next write begins at offset 0.
    ///
    /// # Errors
    /// When the store refuses.
    async fn restart(&mut self) -> Result<(), EngineError>;

    /// Stores what was written so far and closes the ingest, to be opened again. A crash of the machine may lose some of it;
    /// [`IngestWriter::offset`] tells then what there is.
    ///
    /// # Errors
    /// When the store refuses.
    async fn suspend(self: Box<Self>) -> Result<(), EngineError>;

    /// Commits the ingest: the blob is in the store, verified and pinned, when this returns its digest and size. What
    /// `expected` says replaces what was said at the opening.
    ///
    /// # Errors
    /// [`EngineError::Corrupt`] when size or digest is not what was expected: the ingest stays, and can be committed
    /// as something else, restarted or aborted. [`EngineError::Present`] when the store got the blob from elsewhere
    /// meanwhile: it is pinned, and the ingest is gone.
    async fn commit(self: Box<Self>, expected: Expected) -> Result<(Digest, u64), EngineError>;
}

/// The status of an ingest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngestStatus {
    /// Its ref.
    pub reference: String,
    /// How many bytes there are.
    pub offset: u64,
    /// What was expected when it was opened first; engines may keep less of it than was said.
    pub expected: Expected,
    /// When it was opened first.
    pub started: SystemTime,
    /// When it was last written to, as far as the engine notes that.
    pub updated: SystemTime,
}

/// Refuses what cannot be the ref of an ingest.
pub(super) fn check_ref(reference: &str) -> Result<(), EngineError> {
    if reference.is_empty() || reference.len() > MAX_REF || reference.chars().any(char::is_control) {
        let shown: String = reference.chars().take(80).collect();
        return Err(EngineError::IngestRef { reference: shown, limit: MAX_REF });
    }
    Ok(())
}
