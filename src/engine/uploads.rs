//! Blobs that come from a client in pieces, before anybody knows which image they belong to.
//!
//! The shape is that of containerd's content store (`core/content/content.go`, `Ingester`), so that an engine can be
//! offered to its clients as they know it: an upload has a name of the client's choice, keeps what was written when its
//! connection ends, and goes on from there.

use std::fmt::Debug;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::EngineError;
use crate::image::{Descriptor, Digest};

/// The longest name of an upload, in bytes.
pub const MAX_UPLOAD_NAME: usize = 512;

/// What is known of an upload's blob.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expected {
    /// Its digest.
    pub digest: Option<Digest>,
    /// Its size in bytes.
    pub size: Option<u64>,
}

/// The uploads of one export. None is visible to another export; a blob is, once it is committed.
pub trait Uploads: Debug + Send + Sync {
    /// Which of `digests` the engine holds, and how large they are; in the same order. What is there is pinned: it stays
    /// until the export is released.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    fn pin<'a>(&'a self, digests: &'a [Digest]) -> BoxFuture<'a, Result<Vec<Option<u64>>, EngineError>>;

    /// The same of blobs of which the sizes are known: a part of one is not taken for it, and need not be looked at.
    ///
    /// # Errors
    /// As [`Uploads::pin`].
    fn pin_sized<'a>(&'a self, blobs: &'a [Descriptor]) -> BoxFuture<'a, Result<Vec<Option<u64>>, EngineError>> {
        Box::pin(async move {
            let digests: Vec<_> = blobs.iter().map(|blob| blob.digest.clone()).collect();
            self.pin(&digests).await
        })
    }

    /// Which of `digests`, none of which the engine holds, it can take without being sent their bytes, and how large they
    /// are; in the same order. An upload that expects one begins with all of it there, and need only be committed.
    /// Nothing is pinned: until then it may go, and the upload begins with nothing.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    fn adoptable<'a>(&'a self, digests: &'a [Digest]) -> BoxFuture<'a, Result<Vec<Option<u64>>, EngineError>> {
        Box::pin(async { Ok(vec![None; digests.len()]) })
    }

    /// Everything that this export pins by name: what [`Uploads::pin`] found, and the blobs that were written. What those
    /// name in turn is not listed.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    fn pinned(&self) -> BoxFuture<'_, Result<Vec<Digest>, EngineError>>;

    /// Gives up one pin; fine if there is none. The blob stays as long as anything else needs it.
    ///
    /// # Errors
    /// When the engine refuses.
    fn unpin<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<(), EngineError>>;

    /// Opens the upload `name`, where it was left if there is one already. An upload has one writer at a time.
    ///
    /// # Errors
    /// [`EngineError::Busy`] when it is open already; otherwise when the engine refuses.
    fn begin<'a>(&'a self, name: &'a str, expected: &'a Expected) -> BoxFuture<'a, Result<Begun, EngineError>>;

    /// What is known of the upload `name`; `None` if there is none.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    fn status<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<UploadStatus>, EngineError>>;

    /// All uploads that are not committed, sorted by name.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    fn statuses(&self) -> BoxFuture<'_, Result<Vec<UploadStatus>, EngineError>>;

    /// Removes the upload `name` and what was written; fine if there is none.
    ///
    /// # Errors
    /// When the engine refuses.
    fn abort<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), EngineError>>;
}

/// What opening an upload came to.
#[derive(Debug)]
pub enum Begun {
    /// The engine has the blob that was expected, and it is pinned.
    Present,
    /// It can be written.
    Upload(Box<dyn Upload>),
}

/// An upload that is open. Dropping it closes it as [`Upload::suspend`] does, but nobody learns when, or how far it came.
pub trait Upload: Debug + Send {
    /// How many bytes there are: where the next write goes on.
    fn offset(&self) -> u64;

    /// Sends the next bytes (any length; at most 4 MiB are buffered). Returns when there is room for more, not when
    /// they are stored.
    ///
    /// # Errors
    /// When the store has refused anything sent so far, or more comes than was expected.
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), EngineError>>;

    /// The digest of the bytes that there are so far, by the algorithm of the digest that is expected, else sha256.
    /// Waits until the store has them.
    ///
    /// # Errors
    /// When the store has refused anything sent so far.
    fn digest(&mut self) -> BoxFuture<'_, Result<Digest, EngineError>>;

    /// Forgets what was written: the next write begins at offset 0.
    ///
    /// # Errors
    /// When the store refuses.
    fn restart(&mut self) -> BoxFuture<'_, Result<(), EngineError>>;

    /// Stores what was written so far and closes the upload, to be opened again. A crash of the machine may cost it all
    /// the same; [`Upload::offset`] says then what there is.
    ///
    /// # Errors
    /// When the store refuses.
    fn suspend(self: Box<Self>) -> BoxFuture<'static, Result<(), EngineError>>;

    /// Completes the upload: the blob is in the store, verified and pinned, when this returns its digest and size.
    /// `expected` replaces what was said at the opening where it says something.
    ///
    /// # Errors
    /// [`EngineError::Corrupt`] when size or digest is not what was expected: the upload stays, and can be committed
    /// as something else, restarted or aborted. [`EngineError::Present`] when the store got the blob from elsewhere
    /// meanwhile: it is pinned, and the upload is gone.
    fn commit(self: Box<Self>, expected: Expected) -> BoxFuture<'static, Result<(Digest, u64), EngineError>>;
}

/// What is known of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadStatus {
    /// Its name.
    pub name: String,
    /// How many bytes there are.
    pub offset: u64,
    /// What was expected when it was opened first; engines may keep less of it than was said.
    pub expected: Expected,
    /// When it was opened first.
    pub started: SystemTime,
    /// When it was last written to, as far as the engine notes that.
    pub updated: SystemTime,
}

/// Whether a name can be one of an upload.
pub(super) fn check_name(name: &str) -> Result<(), EngineError> {
    if name.is_empty() || name.len() > MAX_UPLOAD_NAME || name.chars().any(char::is_control) {
        let shown: String = name.chars().take(80).collect();
        return Err(EngineError::UploadName { name: shown });
    }
    Ok(())
}
