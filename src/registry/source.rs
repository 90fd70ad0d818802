//! A registry as a source of blobs.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use oci_client::client::BlobResponse;
use oci_client::errors::OciDistributionError;

use super::error::is_absent;
use super::{Registry, RegistryError};
use crate::image::{Descriptor, Digest, Kind};
use crate::source::{BlobLookup, Chunks, Source, SourceError};

impl Registry {
    fn failed(&self, digest: &Digest, error: &OciDistributionError) -> SourceError {
        let (name, digest) = (self.name.clone(), digest.clone());
        match is_absent(error) {
            true => SourceError::NotFound { name, digest },
            false => SourceError::Read { name, digest, reason: error.to_string() },
        }
    }
}

#[async_trait]
impl Source for Registry {
    fn name(&self) -> &str {
        &self.name
    }

    async fn open(&self, blob: &Descriptor, offset: u64) -> Result<Chunks, SourceError> {
        let digest = &blob.digest;
        if matches!(blob.kind(), Kind::Index | Kind::Manifest) {
            // Manifests have an endpoint of their own.
            let of = self.image.clone_with_digest(digest.to_string());
            let (name, digest) = (self.name.clone(), digest.clone());
            let (bytes, _) = self.manifest(&of).await.map_err(|error| match error {
                RegistryError::Absent { .. } | RegistryError::Refused { is_absent: true, .. } => {
                    SourceError::NotFound { name, digest }
                }
                error => SourceError::Read { name, digest, reason: error.to_string() },
            })?;
            let rest = bytes.slice(bytes.len().min(usize::try_from(offset).unwrap_or(usize::MAX))..);
            return Ok(stream::iter([Ok(rest)]).boxed());
        }
        // A range request even from the start: of a whole blob the client would compute the hash, which the engine does.
        let response = self.client.pull_blob_stream_partial(&self.image, digest.as_str(), offset, None).await;
        let (skip, bytes) = match response.map_err(|error| self.failed(digest, &error))? {
            BlobResponse::Partial(bytes) => (0, bytes),
            BlobResponse::Full(bytes) => (offset, bytes),
        };
        let (this, digest) = (self.clone(), digest.clone());
        let chunks = bytes.map(move |chunk| chunk.map_err(|error| this.failed(&digest, &error.into())));
        Ok(skipped(chunks, skip).boxed())
    }
}

#[async_trait]
impl BlobLookup for Registry {
    /// Registries are not queried for sizes.
    async fn blob_size(&self, _: &Digest) -> Result<Option<u64>, SourceError> {
        Ok(None)
    }

    /// A registry accepts a manifest only when it has the blobs that it names, so a blob of a manifest is there.
    async fn has(&self, _: &Descriptor) -> Result<bool, SourceError> {
        Ok(true)
    }
}

/// The stream without its first `skip` bytes.
fn skipped(
    chunks: impl stream::Stream<Item = Result<Bytes, SourceError>> + Send + 'static,
    mut skip: u64,
) -> impl stream::Stream<Item = Result<Bytes, SourceError>> + Send + 'static {
    chunks.map(move |chunk| {
        chunk.map(|mut bytes| {
            let gone = bytes.len().min(usize::try_from(skip).unwrap_or(usize::MAX));
            skip -= gone as u64;
            bytes.split_off(gone)
        })
    })
}
