//! The blobs that archives need not hold.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;

use super::EngineError;
use crate::image::Digest;

/// The content store behind an engine that loads archives by itself: what is in it can be omitted from an archive, once
/// it is pinned by a [`Lease`](super::Lease).
#[async_trait]
pub trait StoredBlobs: Debug + Send + Sync {
    /// The blob's bytes, if the engine has it. They can be read as long as the result is kept: where the engine's files are
    /// accessible, even after the engine has deleted the blob.
    ///
    /// # Errors
    /// When the engine cannot be queried.
    async fn find(&self, digest: &Digest) -> Result<Option<Arc<dyn StoredBlob>>, EngineError>;
}

/// The engine's copy of a blob.
#[async_trait]
pub trait StoredBlob: Debug + Send + Sync {
    /// Its length in bytes.
    fn size(&self) -> u64;

    /// Fills `buffer` (at most 1 MiB) with the bytes from `offset` on and returns it.
    ///
    /// # Errors
    /// When there are fewer bytes, or they cannot be read.
    async fn read_at(self: Arc<Self>, offset: u64, buffer: Vec<u8>) -> Result<Vec<u8>, EngineError>;
}
