//! What the engine hands out: the manager of a lease's ingests, and their writers.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;

use super::super::local::BlobSink;
use super::ingests::{RepositoryIngests, WriterGuard};
use crate::engine::EngineError;
use crate::engine::ingest::{Expected, IngestManager, IngestStatus, IngestWriter, OpenedIngest, check_ref};
use crate::image::Digest;

impl IngestManager for RepositoryIngests {
    /// A layout shares its blobs with nothing.
    fn mountable<'a>(&'a self, digests: &'a [Digest]) -> BoxFuture<'a, Result<Vec<Option<u64>>, EngineError>> {
        Box::pin(async { Ok(vec![None; digests.len()]) })
    }

    fn open<'a>(
        &'a self,
        reference: &'a str,
        expected: &'a Expected,
    ) -> BoxFuture<'a, Result<OpenedIngest, EngineError>> {
        Box::pin(async move {
            check_ref(reference)?;
            let (reference, expected) = (reference.to_owned(), expected.clone());
            let begun = self.work(move |inner| inner.begin(&reference, &expected)).await?;
            Ok(begun.map_or(OpenedIngest::Present, |begun| {
                OpenedIngest::Writer(Box::new(RepositoryIngestWriter(Some(begun))))
            }))
        })
    }

    fn status<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<IngestStatus>, EngineError>> {
        Box::pin(async move { Ok(self.statuses().await?.into_iter().find(|status| status.reference == reference)) })
    }

    fn statuses(&self) -> BoxFuture<'_, Result<Vec<IngestStatus>, EngineError>> {
        Box::pin(self.work(|inner| inner.statuses()))
    }

    fn abort<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<(), EngineError>> {
        let reference = reference.to_owned();
        Box::pin(self.work(move |inner| inner.abort(&reference)))
    }
}

/// Empty once it is closed.
#[derive(Debug)]
struct RepositoryIngestWriter(Option<(WriterGuard, BlobSink)>);

fn closed() -> EngineError {
    EngineError::Protocol { operation: "writing an ingest".to_owned(), reason: "it is closed".to_owned() }
}

impl RepositoryIngestWriter {
    fn parts(&mut self) -> Result<&mut (WriterGuard, BlobSink), EngineError> {
        self.0.as_mut().ok_or_else(closed)
    }

    async fn push(&mut self, bytes: Bytes) -> Result<(), EngineError> {
        let (guard, sink) = self.parts()?;
        sink.push(bytes).await?;
        guard.ingest.offset.store(sink.length(), Ordering::Relaxed);
        Ok(())
    }
}

async fn suspend(guard: WriterGuard, sink: BlobSink) -> Result<(), EngineError> {
    let (hashed, rest) = sink.finish().await?;
    let inner = guard.ingests.clone();
    let work = inner.clone();
    inner.blobs.run("an ingest", move || work.suspend(guard, hashed, rest)).await
}

impl IngestWriter for RepositoryIngestWriter {
    fn offset(&self) -> u64 {
        self.0.as_ref().map_or(0, |(_, sink)| sink.length())
    }

    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(self.push(bytes))
    }

    fn digest(&mut self) -> BoxFuture<'_, Result<Digest, EngineError>> {
        Box::pin(async move { self.parts()?.1.digest().await })
    }

    fn restart(&mut self) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            let (guard, sink) = self.parts()?;
            guard.ingest.offset.store(0, Ordering::Relaxed);
            sink.restart().await
        })
    }

    fn suspend(mut self: Box<Self>) -> BoxFuture<'static, Result<(), EngineError>> {
        let parts = self.0.take();
        Box::pin(async move {
            match parts {
                Some((guard, sink)) => suspend(guard, sink).await,
                None => Ok(()),
            }
        })
    }

    fn commit(mut self: Box<Self>, expected: Expected) -> BoxFuture<'static, Result<(Digest, u64), EngineError>> {
        let parts = self.0.take();
        Box::pin(async move {
            let (guard, sink) = parts.ok_or_else(closed)?;
            let (hashed, rest) = sink.finish().await?;
            let inner = guard.ingests.clone();
            let work = inner.clone();
            let done = inner.blobs.run("an ingest", move || work.commit(guard, hashed, rest, &expected)).await?;
            // If this process is killed, the client need not send again what is published by then.
            inner.blobs.flush_soon();
            Ok(done)
        })
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
