//! For tests: a lease of an engine that has stopped responding, and an engine beside it that has not.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::EngineKind;
use super::ingest::{Expected, IngestManager, IngestStatus, IngestWriter, OpenedIngest};
use super::select::{Selection, select};
use super::{Engine, EngineError, ImageTransaction, Lease, Pin, TransactionOptions};
use crate::image::{Descriptor, Digest, Graph};

/// Its calls never return, but for the opening of an ingest. Counts the calls to release.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stuck {
    pub(crate) released: Arc<AtomicUsize>,
}

/// A layout in `folder`.
pub(crate) async fn layout(folder: &Path) -> Arc<dyn Engine> {
    let selection =
        Selection { kind: Some(EngineKind::Layout), layout: Some(folder.to_owned()), ..Selection::default() };
    select(&selection).await.unwrap().engine
}

async fn never<T>() -> T {
    std::future::pending().await
}

#[async_trait]
impl Lease for Stuck {
    fn engine(&self) -> &'static str {
        "stuck"
    }

    async fn pin(&self, _: &[Pin]) -> Result<Vec<Option<u64>>, EngineError> {
        never().await
    }

    async fn pin_graph(&self, _: &Arc<Graph>) -> Result<Vec<Descriptor>, EngineError> {
        never().await
    }

    async fn pinned(&self) -> Result<Vec<Digest>, EngineError> {
        never().await
    }

    async fn unpin(&self, _: &Digest) -> Result<(), EngineError> {
        never().await
    }

    fn ingests(&self) -> Result<&dyn IngestManager, EngineError> {
        Ok(self)
    }

    async fn begin(
        self: Arc<Self>,
        _: Arc<Graph>,
        _: TransactionOptions,
    ) -> Result<Box<dyn ImageTransaction>, EngineError> {
        never().await
    }

    async fn suspend(&self, _: &Digest) -> Result<(), EngineError> {
        never().await
    }

    async fn release(&self) -> Result<(), EngineError> {
        self.released.fetch_add(1, Ordering::Relaxed);
        never().await
    }
}

#[async_trait]
impl IngestManager for Stuck {
    async fn mountable(&self, _: &[Digest]) -> Result<Vec<Option<u64>>, EngineError> {
        never().await
    }

    async fn open(&self, _: &str, _: &Expected) -> Result<OpenedIngest, EngineError> {
        Ok(OpenedIngest::Writer(Box::new(Self::default())))
    }

    async fn status(&self, _: &str) -> Result<Option<IngestStatus>, EngineError> {
        never().await
    }

    async fn statuses(&self) -> Result<Vec<IngestStatus>, EngineError> {
        never().await
    }

    async fn abort(&self, _: &str) -> Result<(), EngineError> {
        never().await
    }
}

#[async_trait]
impl IngestWriter for Stuck {
    fn offset(&self) -> u64 {
        0
    }

    async fn write(&mut self, _: Bytes) -> Result<(), EngineError> {
        never().await
    }

    async fn digest(&mut self) -> Result<Digest, EngineError> {
        never().await
    }

    async fn restart(&mut self) -> Result<(), EngineError> {
        never().await
    }

    async fn suspend(self: Box<Self>) -> Result<(), EngineError> {
        never().await
    }

    async fn commit(self: Box<Self>, _: Expected) -> Result<(Digest, u64), EngineError> {
        never().await
    }
}
