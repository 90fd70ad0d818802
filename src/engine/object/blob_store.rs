//! The blobs of a bucket.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::Semaphore;

use super::bucket::{Bucket, PARALLEL};
use super::keys;
use super::stored_lease::StoredProgress;
use super::upload::{Begun, PARTS, Upload};
use crate::engine::{EngineError, Pin};
use crate::image::{Algorithm, Descriptor, Digest, Document};

/// How many descriptors of roots are remembered.
const MAX_KNOWN: usize = 10_000;

/// The blobs of one bucket, which all exports of a process share.
#[derive(Debug)]
pub(super) struct BlobStore {
    pub(super) bucket: Bucket,
    permits: Arc<Semaphore>,
    /// Documents whose media types were read: their bytes never change.
    known: Mutex<HashMap<Digest, Descriptor>>,
}

impl BlobStore {
    pub(super) fn new(bucket: Bucket) -> Self {
        Self { bucket, permits: Arc::new(Semaphore::new(PARTS as usize)), known: Mutex::default() }
    }

    /// The size of a blob; `None` if there is none.
    pub(super) async fn size(&self, digest: &Digest) -> Result<Option<u64>, EngineError> {
        self.bucket.size(&keys::blob(digest)).await
    }

    /// The sizes of those of `blobs` that are there, in the same order.
    pub(super) async fn sizes(&self, blobs: &[Pin]) -> Result<Vec<Option<u64>>, EngineError> {
        let found = blobs.iter().map(|Pin { digest, size }| async move {
            let found = self.size(digest).await?;
            Ok(found.filter(|found| size.is_none_or(|size| size == *found)))
        });
        stream::iter(found.collect::<Vec<_>>()).buffered(PARALLEL).try_collect().await
    }

    /// Which of `documents`, of which `sizes` are those that are there, have their bytes in the bucket: these are compared, because
    /// a damaged document of the right size would make the image unreadable, and the right one is at hand.
    pub(super) async fn intact(&self, documents: &[Document], sizes: &[Option<u64>]) -> Result<Vec<bool>, EngineError> {
        let compared = documents.iter().zip(sizes).map(|(document, size)| async move {
            let Some(size) = size else { return Ok(false) };
            let found = self.bucket.get(&keys::blob(&document.descriptor.digest), *size).await?;
            let is_intact = found.as_ref().is_some_and(|found| found.bytes == document.bytes);
            if found.is_some() && !is_intact {
                tracing::warn!(digest = %document.descriptor.digest, "a document in the bucket is damaged, and is written again");
            }
            Ok::<_, EngineError>(is_intact)
        });
        stream::iter(compared.collect::<Vec<_>>()).buffered(PARALLEL).try_collect().await
    }

    /// Stores documents, whose bytes were verified.
    pub(super) async fn store(&self, documents: Vec<(Digest, Bytes)>) -> Result<(), EngineError> {
        self.bucket.put_all(documents.into_iter().map(|(digest, bytes)| (keys::blob(&digest), bytes)).collect()).await
    }

    /// An upload to the object `key`.
    pub(super) fn upload(&self, key: String, algorithm: Algorithm, size: Option<u64>) -> Upload {
        Upload::new(&self.bucket, &self.permits, key, algorithm, size)
    }

    /// The upload that another process began; `None` if this one cannot go on with it.
    pub(super) fn resumed(&self, begun: Begun, progress: &StoredProgress) -> Option<Upload> {
        Upload::resumed(&self.bucket, &self.permits, begun, progress)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Descriptor>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a document was found to be.
    pub(super) fn recall(&self, digest: &Digest) -> Option<Descriptor> {
        self.known().get(digest).cloned()
    }

    /// Remembers what a document is.
    pub(super) fn remember(&self, document: &Descriptor) {
        let mut known = self.known();
        if known.len() < MAX_KNOWN {
            known.insert(document.digest.clone(), document.clone());
        }
    }
}
