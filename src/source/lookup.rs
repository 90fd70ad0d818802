//! Which blobs a source has.

use futures_util::future::BoxFuture;

use super::{SameLayers, Source, SourceError};
use crate::image::{Descriptor, Digest};

/// A source that can be asked which blobs it has: an archive, a registry, or an engine.
pub trait BlobLookup: Source {
    /// The size of a blob in bytes, if all of it is there.
    ///
    /// # Errors
    /// When the source cannot be asked.
    fn blob_size<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Option<u64>, SourceError>>;

    /// Whether all of a blob is there.
    ///
    /// # Errors
    /// When the source cannot be asked.
    fn has<'a>(&'a self, blob: &'a Descriptor) -> BoxFuture<'a, Result<bool, SourceError>> {
        Box::pin(async { Ok(self.blob_size(&blob.digest).await? == Some(blob.size)) })
    }

    /// The size of a blob in bytes, if all of it is there and an export relies on it without sending it again.
    ///
    /// # Errors
    /// When the source cannot be asked.
    fn reliable_size<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Option<u64>, SourceError>> {
        self.blob_size(digest)
    }

    /// The blobs that an engine would use in place of these uncompressed layers, if it wrote the manifest itself. None
    /// where it cannot be asked: the layers serve as well.
    fn equal_layers<'a>(&'a self, digests: &'a [Digest]) -> BoxFuture<'a, SameLayers> {
        let _ = digests;
        Box::pin(async { SameLayers::new() })
    }
}
