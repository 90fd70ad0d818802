//! What is read through a [`CacheReader`], for the Content service.

use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;

use super::{CacheError, CacheReader};
use crate::content_server::Blobs;
use crate::export_v1::ApiError;
use crate::image::Digest;

/// Blobs of caches that a call can read.
pub(crate) trait CacheBlobs: Debug + Send + Sync + 'static {
    /// What reads them.
    fn reader(&self) -> &Arc<CacheReader>;

    /// The error of a call that cannot read them.
    fn error(error: CacheError) -> ApiError;
}

#[async_trait::async_trait]
impl<T: CacheBlobs> Blobs for T {
    fn size(&self, digest: &Digest) -> Option<u64> {
        self.reader().size(digest)
    }

    async fn read(
        &self,
        digest: &Digest,
        offset: u64,
        size: u64,
    ) -> Result<BoxStream<'static, Result<Bytes, ApiError>>, ApiError> {
        let chunks = self.reader().read(digest, offset, size).await.map_err(T::error)?;
        Ok(chunks.map(|chunk| chunk.map_err(T::error)).boxed())
    }
}
