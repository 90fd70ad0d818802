//! The writer of a blob whose digest and size are known.

use std::fs::TryLockError;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::task::spawn_blocking;

use super::blob_sink::BlobSink;
use super::blob_store::BlobStore;
use super::hashed_file::{BATCH, HashedFile};
use crate::engine::transaction::{check_length, check_room};
use crate::engine::{BlobWriter, EngineError};
use crate::image::Descriptor;

impl BlobStore {
    /// Opens a writer of `blob` under `lease`; `None` if it turns out to be complete. Blocks.
    pub(crate) fn writer(self: &Arc<Self>, blob: &Descriptor, lease: &str) -> Result<Option<Writer>, EngineError> {
        begin(self, lease, blob)
    }
}

/// Resumes `blob` where an earlier export of this boot stopped; `None` if it turns out to be complete. Blocks.
fn begin(blobs: &Arc<BlobStore>, lease: &str, blob: &Descriptor) -> Result<Option<Writer>, EngineError> {
    if blobs.pin(&blob.digest, Some(blob.size), lease).is_some() {
        return Ok(None);
    }
    let hashed = open(blobs, blob)?;
    let failed = |error: std::io::Error| blobs.paths.failed("reading the part of a blob", &error);
    if hashed.file.is_some() && hashed.length == blob.size {
        let (algorithm, mut hashed) = (blob.digest.algorithm(), hashed);
        if hashed.digest(algorithm, &[]).map_err(failed)? == blob.digest {
            blobs.complete(&blob.digest, hashed, &[], lease)?;
            return Ok(None);
        }
        hashed.clear().map_err(failed)?;
        return Ok(Some(Writer::new(blobs, lease, blob, hashed)));
    }
    Ok(Some(Writer::new(blobs, lease, blob, hashed)))
}

/// Opens the file of a blob. A small one fits in one batch and has no file until it is complete.
fn open(blobs: &Arc<BlobStore>, blob: &Descriptor) -> Result<HashedFile, EngineError> {
    let algorithm = blob.digest.algorithm();
    let own = || Ok(HashedFile::new(blobs.disk.clone(), algorithm, blobs.paths.temp_path(&blobs.process.name()?)));
    if blob.size <= BATCH as u64 || blobs.boot.is_empty() {
        return own();
    }
    let path = blobs.paths.partial(&blobs.boot, &blob.digest);
    let failed = |error: std::io::Error| blobs.paths.failed("opening the part of a blob", &error);
    let mut file = blobs.disk.append(&path).map_err(failed)?;
    match file.file().try_lock() {
        Ok(()) => {}
        // Another writer has it open.
        Err(TryLockError::WouldBlock) => return own(),
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    // The writer that held the lock may have completed and renamed it.
    use std::os::unix::fs::MetadataExt as _;
    let (mine, named) = (file.file().metadata().map_err(failed)?, path.metadata());
    if !named.is_ok_and(|named| named.ino() == mine.ino()) {
        return own();
    }
    if mine.len() > blob.size {
        file.clear().map_err(failed)?;
    }
    HashedFile::resume(blobs.disk.clone(), algorithm, path, file).map_err(failed)
}

/// A blob being written.
#[derive(Debug)]
pub(crate) struct Writer {
    blobs: Arc<BlobStore>,
    lease: String,
    blob: Descriptor,
    sink: BlobSink,
    offset: u64,
}

impl Writer {
    fn new(blobs: &Arc<BlobStore>, lease: &str, blob: &Descriptor, hashed: HashedFile) -> Self {
        let offset = hashed.length;
        let sink = blobs.sink(hashed);
        Self { blobs: blobs.clone(), lease: lease.to_owned(), blob: blob.clone(), sink, offset }
    }
}

#[async_trait]
impl BlobWriter for Writer {
    fn offset(&self) -> u64 {
        self.offset
    }

    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            check_room(&self.blob, self.sink.length(), &bytes)?;
            let pushed = self.sink.push(bytes).await;
            pushed.inspect_err(|error| self.blobs.note_space(&self.lease, error))
        })
    }

    async fn commit(self: Box<Self>) -> Result<(), EngineError> {
        let Self { blobs, lease, blob, sink, .. } = *self;
        check_length(&blob, sink.length())?;
        let (hashed, rest) = sink.finish().await.inspect_err(|error| blobs.note_space(&lease, error))?;
        let is_large = hashed.file.is_some();
        let work = blobs.clone();
        let done = spawn_blocking(move || {
            let failed = |error: std::io::Error| work.paths.failed("reading a blob", &error);
            let actual = hashed.digest(blob.digest.algorithm(), &rest).map_err(failed)?;
            if actual == blob.digest {
                return work.complete(&blob.digest, hashed, &rest, &lease);
            }
            if hashed.file.is_some() {
                // A writer that resumes this file would fail, too.
                if let Err(error) = work.disk.remove(&hashed.path) {
                    tracing::debug!(%error, path = %hashed.path.display(), "a corrupt part stays for the collector");
                }
            }
            Err(EngineError::Corrupt { digest: blob.digest, reason: format!("the bytes have the digest {actual}") })
        });
        done.await.unwrap_or_else(|_| Err(blobs.paths.invalid("writing a blob broke off")))?;
        if is_large { blobs.flush_if_many().await } else { Ok(()) }
    }
}
