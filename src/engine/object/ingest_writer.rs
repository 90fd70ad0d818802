//! The manager of a lease's ingests, and their writers, behind the engine's traits.

use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use tokio::runtime::Handle;

use super::ingests::{Inner, ObjectIngests, WriterGuard};
use super::keys;
use super::transaction::{complete, push};
use super::upload::Upload;
use crate::engine::EngineError;
use crate::engine::ingest::{Expected, IngestManager, IngestStatus, IngestWriter, OpenedIngest, check_ref};
use crate::image::Digest;

/// The largest object that the store is asked to copy: it answers when it has, and a request has a time limit.
const MAX_COPY: u64 = 512 << 20;

/// After how many parts it is noted how far an upload is that goes on: 80 MiB or more, which one small write more does not slow.
const NOTED_PARTS: usize = 16;

#[async_trait]
impl IngestManager for ObjectIngests {
    /// A bucket shares blobs with no other store.
    async fn mountable(&self, digests: &[Digest]) -> Result<Vec<Option<u64>>, EngineError> {
        Ok(vec![None; digests.len()])
    }

    async fn open(&self, reference: &str, expected: &Expected) -> Result<OpenedIngest, EngineError> {
        check_ref(reference)?;
        if let Some(digest) = &expected.digest {
            self.0.pins.add([digest]).await?;
            let found = self.0.stores.blobs.size(digest).await?;
            if found.is_some_and(|found| expected.size.is_none_or(|size| size == found)) {
                return Ok(OpenedIngest::Present);
            }
        }
        let (guard, upload) = self.0.begin(reference, expected)?;
        Ok(OpenedIngest::Writer(Box::new(ObjectIngestWriter(Some((guard, upload))))))
    }

    async fn status(&self, reference: &str) -> Result<Option<IngestStatus>, EngineError> {
        Ok(self.statuses().await?.into_iter().find(|status| status.reference == reference))
    }

    async fn statuses(&self) -> Result<Vec<IngestStatus>, EngineError> {
        Ok(self.0.statuses())
    }

    async fn abort(&self, reference: &str) -> Result<(), EngineError> {
        self.0.abort(reference).await
    }
}

/// `None` after it was closed.
#[derive(Debug)]
struct ObjectIngestWriter(Option<(WriterGuard, Upload)>);

fn closed() -> EngineError {
    EngineError::Protocol { operation: "writing an ingest".to_owned(), reason: "it is closed".to_owned() }
}

impl ObjectIngestWriter {
    fn parts(&mut self) -> Result<&mut (WriterGuard, Upload), EngineError> {
        self.0.as_mut().ok_or_else(closed)
    }
}

impl Inner {
    /// Makes a blob of an ingest.
    async fn commit(
        &self,
        guard: WriterGuard,
        mut upload: Upload,
        expected: &Expected,
    ) -> Result<(Digest, u64), EngineError> {
        let (size, opened) = (upload.length(), &guard.ingest.expected);
        let wanted = expected.digest.clone().or_else(|| opened.digest.clone());
        if let Some(wanted) = &wanted {
            upload.rehash(wanted.algorithm())?;
        }
        let digest = upload.digest().await?;
        let reason = match (&wanted, expected.size.or(opened.size)) {
            (_, Some(expected)) if expected != size => Some(format!("{size} bytes came, expected {expected}")),
            (Some(wanted), _) if *wanted != digest => Some(format!("the bytes have the digest {digest}")),
            _ => None,
        };
        if let Some(reason) = reason {
            if let Err(error) = self.suspend(guard, upload).await {
                tracing::debug!(%error, "what came of a corrupt ingest is not kept");
            }
            return Err(EngineError::Corrupt { digest: wanted.unwrap_or(digest), reason });
        }
        // Pinned before the lookup, so that no collector removes it in between.
        self.pins.add([&digest]).await?;
        if self.stores.blobs.size(&digest).await? == Some(size) {
            if let Some(begun) = upload.restart().await {
                self.pins.abort(&begun).await?;
            }
            return Err(EngineError::Present { digest });
        }
        if upload.redirect(keys::blob(&digest)) {
            complete(&mut upload, &self.pins).await?;
        } else if self.is_unnamed(&guard.ingest, &upload) {
            complete(&mut upload, &self.pins).await?;
            if let Err(error) = self.rename(upload.key(), &digest, size).await {
                // Its client begins anew.
                if let Err(error) = self.stores.bucket().delete(upload.key()).await {
                    tracing::debug!(%error, "a blob that could not be named goes with its lease's process");
                }
                return Err(error);
            }
        } else {
            if let Some(begun) = upload.restart().await {
                self.pins.abort(&begun).await?;
            }
            let reason =
                "it was begun as another blob, and cannot become this one; write it again from its start".to_owned();
            return Err(EngineError::Corrupt { digest, reason });
        }
        Ok((digest, size))
    }

    /// Moves a complete object to where the blob `digest` belongs.
    async fn rename(&self, from: &str, digest: &Digest, size: u64) -> Result<(), EngineError> {
        let (bucket, to) = (self.stores.bucket(), keys::blob(digest));
        if size <= MAX_COPY {
            bucket.copy(from, &to).await?;
        } else {
            let failed = |error| bucket.failed("reading", from, &error);
            let mut upload = self.stores.blobs.upload(to, digest.algorithm(), Some(size));
            let mut offset = 0;
            // A response has a time limit.
            while offset < size {
                let Some(mut chunks) = bucket.open(from, offset).await.map_err(failed)? else {
                    return Err(bucket.invalid(from, "it is gone"));
                };
                let before = offset;
                loop {
                    match chunks.try_next().await {
                        Ok(Some(bytes)) => {
                            offset += bytes.len() as u64;
                            push(&mut upload, &self.pins, bytes).await?;
                        }
                        Err(error) if offset == before => return Err(failed(error)),
                        Ok(None) if offset == before => {
                            return Err(bucket.invalid(from, "it is shorter than what was written"));
                        }
                        Ok(None) | Err(_) => break,
                    }
                }
            }
            let copied = upload.digest().await?;
            if copied != *digest {
                let reason = format!("the store gave back bytes with the digest {copied}");
                return Err(EngineError::Corrupt { digest: digest.clone(), reason });
            }
            complete(&mut upload, &self.pins).await?;
        }
        bucket.delete(from).await
    }
}

#[async_trait]
impl IngestWriter for ObjectIngestWriter {
    fn offset(&self) -> u64 {
        self.0.as_ref().map_or(0, |(_, upload)| upload.length())
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), EngineError> {
        let (guard, upload) = self.parts()?;
        push(upload, &guard.ingests.pins, bytes).await?;
        guard.ingest.offset.store(upload.length(), Ordering::Relaxed);
        if upload.unnoted() >= NOTED_PARTS {
            guard.ingests.note_or_warn(&guard.ingest, upload).await;
        }
        Ok(())
    }

    async fn digest(&mut self) -> Result<Digest, EngineError> {
        let (guard, upload) = self.parts()?;
        guard.ingests.note_or_warn(&guard.ingest, upload).await;
        upload.digest().await
    }

    async fn restart(&mut self) -> Result<(), EngineError> {
        let (guard, upload) = self.parts()?;
        guard.ingest.offset.store(0, Ordering::Relaxed);
        match upload.restart().await {
            Some(begun) => guard.ingests.pins.abort(&begun).await,
            None => Ok(()),
        }
    }

    async fn suspend(mut self: Box<Self>) -> Result<(), EngineError> {
        let parts = self.0.take();
        match parts {
            Some((guard, upload)) => guard.ingests.clone().suspend(guard, upload).await,
            None => Ok(()),
        }
    }

    async fn commit(mut self: Box<Self>, expected: Expected) -> Result<(Digest, u64), EngineError> {
        let (guard, upload) = self.0.take().ok_or_else(closed)?;
        guard.ingests.clone().commit(guard, upload, &expected).await
    }
}

impl Drop for ObjectIngestWriter {
    fn drop(&mut self) {
        let Some((guard, upload)) = self.0.take() else { return };
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            if let Err(error) = guard.ingests.clone().suspend(guard, upload).await {
                tracing::debug!(%error, "an ingest that was dropped is begun anew by its next writer");
            }
        });
    }
}
