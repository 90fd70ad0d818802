//! Which blobs a source has.

use async_trait::async_trait;

use super::{EqualLayers, Source, SourceError};
use crate::image::{Descriptor, Digest};

/// A source that can be queried for which blobs it has: an archive, a registry, or an engine.
#[async_trait]
pub trait BlobLookup: Source {
    /// The size of a blob in bytes, if all of it is there.
    ///
    /// # Errors
    /// When the source cannot be queried.
    async fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, SourceError>;

    /// Whether all of a blob is there.
    ///
    /// # Errors
    /// When the source cannot be queried.
    async fn has(&self, blob: &Descriptor) -> Result<bool, SourceError> {
        Ok(self.blob_size(&blob.digest).await? == Some(blob.size))
    }

    /// The size of a blob in bytes, if all of it is there and an export relies on it without sending it again.
    ///
    /// # Errors
    /// When the source cannot be queried.
    async fn reliable_size(&self, digest: &Digest) -> Result<Option<u64>, SourceError> {
        self.blob_size(digest).await
    }

    /// The blobs that an engine would use in place of these uncompressed layers, if it wrote the manifest itself. None
    /// where it cannot be queried: the layers serve as well.
    async fn equal_layers(&self, _digests: &[Digest]) -> EqualLayers {
        EqualLayers::new()
    }
}
