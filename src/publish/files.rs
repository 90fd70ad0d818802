//! What a site consists of.

use std::fmt::Debug;

use async_trait::async_trait;
use bytes::Bytes;

use super::PublishError;
use crate::source::Chunks;

/// The type of blobs.
pub(super) const BLOB: &str = "application/octet-stream";
/// The type of lists of tags.
pub(super) const JSON: &str = "application/json";
/// The largest file that is read back, in bytes: no list is longer that clients read.
pub(super) const MAX_READ: u64 = 4 << 20;

/// The files of a site, by paths with slashes between their parts.
#[async_trait]
pub(super) trait Files: Debug + Send + Sync {
    /// The size of a file; `None` if there is none.
    async fn size(&self, path: &str) -> Result<Option<u64>, PublishError>;

    /// A short file; `None` if there is none.
    async fn read(&self, path: &str) -> Result<Option<Bytes>, PublishError>;

    /// Writes a short file of the media type `kind`.
    async fn write(&self, path: &str, kind: &str, bytes: Bytes) -> Result<(), PublishError>;

    /// Writes a file of `size` bytes, which appears when all of them were read.
    async fn write_blob(&self, path: &str, kind: &str, size: u64, chunks: Chunks) -> Result<(), PublishError>;

    /// The names of the files in a folder.
    async fn names(&self, folder: &str) -> Result<Vec<String>, PublishError>;

    /// Writes what servers of the site need to know, after all files.
    async fn finish(&self) -> Result<(), PublishError>;
}
