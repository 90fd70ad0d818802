//! An ingest that is being written: its bytes go through a pipe, and its end is a blob or a part to resume.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::ingests::Turn;
use super::pipe::Pipe;
use crate::engine::EngineError;
use crate::engine::ingest::{Expected, IngestWriter};
use crate::image::Digest;

/// Empty once it is closed.
#[derive(Debug)]
pub(super) struct LayoutIngestWriter(Option<(Turn, Pipe)>);

fn closed() -> EngineError {
    EngineError::Protocol { operation: "writing an ingest".to_owned(), reason: "it is closed".to_owned() }
}

impl LayoutIngestWriter {
    /// Goes on where `pipe` is.
    pub(super) fn new(turn: Turn, pipe: Pipe) -> Self {
        Self(Some((turn, pipe)))
    }

    fn parts(&mut self) -> Result<&mut (Turn, Pipe), EngineError> {
        self.0.as_mut().ok_or_else(closed)
    }

    async fn push(&mut self, bytes: Bytes) -> Result<(), EngineError> {
        let (turn, pipe) = self.parts()?;
        pipe.push(bytes).await?;
        turn.live.offset.store(pipe.length(), Ordering::Relaxed);
        Ok(())
    }
}

async fn suspend(turn: Turn, pipe: Pipe) -> Result<(), EngineError> {
    let (core, rest) = pipe.finish().await?;
    let inner = turn.ingests.clone();
    let parking = inner.clone();
    let parked = spawn_blocking(move || parking.park(turn, core, &rest).map_err(|error| parking.failed(&error)));
    parked.await.unwrap_or_else(|_| Err(inner.shared.place.refuse("an ingest broke off")))
}

impl IngestWriter for LayoutIngestWriter {
    fn offset(&self) -> u64 {
        self.0.as_ref().map_or(0, |(_, pipe)| pipe.length())
    }

    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(self.push(bytes))
    }

    fn digest(&mut self) -> BoxFuture<'_, Result<Digest, EngineError>> {
        Box::pin(async move { self.parts()?.1.digest().await })
    }

    fn restart(&mut self) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            let (turn, pipe) = self.parts()?;
            turn.live.offset.store(0, Ordering::Relaxed);
            pipe.restart().await
        })
    }

    fn suspend(mut self: Box<Self>) -> BoxFuture<'static, Result<(), EngineError>> {
        let parts = self.0.take();
        Box::pin(async move {
            match parts {
                Some((turn, pipe)) => suspend(turn, pipe).await,
                None => Ok(()),
            }
        })
    }

    fn commit(mut self: Box<Self>, expected: Expected) -> BoxFuture<'static, Result<(Digest, u64), EngineError>> {
        let parts = self.0.take();
        Box::pin(async move {
            let (turn, pipe) = parts.ok_or_else(closed)?;
            let (core, rest) = pipe.finish().await?;
            let inner = turn.ingests.clone();
            let work = inner.clone();
            let done = spawn_blocking(move || work.commit(turn, core, &rest, &expected)).await;
            let done = done.unwrap_or_else(|_| Err(inner.shared.place.refuse("an ingest broke off")))?;
            // Of an export that is killed the client need not send again what got its name by then.
            inner.shared.flush_soon();
            Ok(done)
        })
    }
}

impl Drop for LayoutIngestWriter {
    fn drop(&mut self) {
        let Some((turn, pipe)) = self.0.take() else { return };
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            if let Err(error) = suspend(turn, pipe).await {
                tracing::debug!(%error, "an ingest that was dropped lost its last bytes");
            }
        });
    }
}
