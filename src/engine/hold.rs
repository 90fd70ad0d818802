//! Blobs that an engine has and must not lose for a while.

use std::fmt::Debug;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::EngineError;
use crate::image::Digest;

/// A hold on blobs of an engine: what is pinned stays until [`Hold::release`], whatever other clients delete.
///
/// Whoever finds a blob, pins it and is told that it is still there may rely on it. Looking writes nothing; pinning
/// costs one synced write for any number of blobs, so that callers do well to pin many at once.
pub trait Hold: Debug + Send + Sync {
    /// The blob's bytes, if the engine has it. They can be read as long as the result is kept: wherever the engine's
    /// files are within reach, even after the engine has deleted the blob.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    fn find<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Option<Arc<dyn StoredBlob>>, EngineError>>;

    /// Pins `digests`, then looks again. The result are those that were gone by then.
    ///
    /// # Errors
    /// When the engine cannot be asked, or the hold is released. Nothing counts as pinned then.
    fn pin<'a>(&'a self, digests: &'a [Digest]) -> BoxFuture<'a, Result<Vec<Digest>, EngineError>>;

    /// Gives everything up. Waits for a pinning under way; later ones fail. Safe to call more than once.
    ///
    /// # Errors
    /// When the engine cannot be asked; the hold then ends by itself after some hours.
    fn release(&self) -> BoxFuture<'_, Result<(), EngineError>>;
}

/// The engine's copy of a blob.
pub trait StoredBlob: Debug + Send + Sync {
    /// Its length in bytes.
    fn size(&self) -> u64;

    /// Fills `buffer` (at most 1 MiB) with the bytes from `offset` on and gives it back.
    ///
    /// # Errors
    /// When there are fewer bytes, or they cannot be read.
    fn read_at(self: Arc<Self>, offset: u64, buffer: Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, EngineError>>;
}
