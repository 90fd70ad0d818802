//! The manager of a lease's ingests, and their writers, behind the engine's traits.

use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::runtime::Handle;

use super::super::local::BlobSink;
use super::ingests::{RepositoryIngests, WriterGuard};
use crate::engine::EngineError;
use crate::engine::ingest::{Expected, IngestManager, IngestStatus, IngestWriter, OpenedIngest, check_ref};
use crate::image::Digest;

#[async_trait]
impl IngestManager for RepositoryIngests {
    /// A layout shares blobs with no other store.
    async fn mountable(&self, digests: &[Digest]) -> Result<Vec<Option<u64>>, EngineError> {
        Ok(vec![None; digests.len()])
    }

    async fn open(&self, reference: &str, expected: &Expected) -> Result<OpenedIngest, EngineError> {
        check_ref(reference)?;
        let (reference, expected) = (reference.to_owned(), expected.clone());
        let begun = self.work(move |inner| inner.begin(&reference, &expected)).await?;
        Ok(begun
            .map_or(OpenedIngest::Present, |begun| OpenedIngest::Writer(Box::new(RepositoryIngestWriter(Some(begun))))))
    }

    async fn status(&self, reference: &str) -> Result<Option<IngestStatus>, EngineError> {
        Ok(self.statuses().await?.into_iter().find(|status| status.reference == reference))
    }

    async fn statuses(&self) -> Result<Vec<IngestStatus>, EngineError> {
        self.work(|inner| inner.statuses()).await
    }

    async fn abort(&self, reference: &str) -> Result<(), EngineError> {
        let reference = reference.to_owned();
        self.work(move |inner| inner.abort(&reference)).await
    }
}

/// `None` after it was closed.
#[derive(Debug)]
struct RepositoryIngestWriter(Option<(WriterGuard, BlobSink)>);

fn closed() -> EngineError {
    EngineError::Protocol { operation: "writing an ingest".to_owned(), reason: "it is closed".to_owned() }
}

impl RepositoryIngestWriter {
    fn parts(&mut self) -> Result<&mut (WriterGuard, BlobSink), EngineError> {
        self.0.as_mut().ok_or_else(closed)
    }
}

async fn suspend(guard: WriterGuard, sink: BlobSink) -> Result<(), EngineError> {
    let (hashed, rest) = sink.finish().await?;
    let inner = guard.ingests.clone();
    let work = inner.clone();
    inner.blobs.run("an ingest", move || work.suspend(guard, hashed, rest)).await
}

#[async_trait]
impl IngestWriter for RepositoryIngestWriter {
    fn offset(&self) -> u64 {
        self.0.as_ref().map_or(0, |(_, sink)| sink.length())
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), EngineError> {
        let (guard, sink) = self.parts()?;
        sink.push(bytes).await?;
        guard.ingest.offset.store(sink.length(), Ordering::Relaxed);
        Ok(())
    }

    async fn digest(&mut self) -> Result<Digest, EngineError> {
        self.parts()?.1.digest().await
    }

    async fn restart(&mut self) -> Result<(), EngineError> {
        let (guard, sink) = self.parts()?;
        guard.ingest.offset.store(0, Ordering::Relaxed);
        sink.restart().await
    }

    async fn suspend(mut self: Box<Self>) -> Result<(), EngineError> {
        let parts = self.0.take();
        match parts {
            Some((guard, sink)) => suspend(guard, sink).await,
            None => Ok(()),
        }
    }

    async fn commit(mut self: Box<Self>, expected: Expected) -> Result<(Digest, u64), EngineError> {
        let parts = self.0.take();
        let (guard, sink) = parts.ok_or_else(closed)?;
        let (hashed, rest) = sink.finish().await?;
        let inner = guard.ingests.clone();
        let work = inner.clone();
        let done = inner.blobs.run("an ingest", move || work.commit(guard, hashed, rest, &expected)).await?;
        // If this process is killed, the client need not resend blobs that were published before.
        inner.blobs.flush_soon();
        Ok(done)
    }
}

impl Drop for RepositoryIngestWriter {
    fn drop(&mut self) {
        let Some((guard, sink)) = self.0.take() else { return };
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            if let Err(error) = suspend(guard, sink).await {
                tracing::debug!(%error, "an ingest that was dropped lost its last bytes");
            }
        });
    }
}
