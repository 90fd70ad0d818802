//! For tests: a lease of an engine that has stopped answering, and an engine beside it that has not.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::EngineKind;
use super::ingest::{Expected, IngestManager, IngestStatus, IngestWriter, OpenedIngest};
use super::select::{Selection, select};
use super::{Engine, EngineError, ImageTransaction, Lease, Pin, TransactionOptions};
use crate::image::{Descriptor, Digest, Graph};

/// Nothing that is asked of it ever ends, except that an upload begins. Counts what it was asked to release.
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

fn never<'a, T: Send + 'a>() -> BoxFuture<'a, T> {
    Box::pin(std::future::pending())
}

impl Lease for Stuck {
    fn pin<'a>(&'a self, _: &'a [Pin]) -> BoxFuture<'a, Result<Vec<Option<u64>>, EngineError>> {
        never()
    }

    fn pin_graph<'a>(&'a self, _: &'a Arc<Graph>) -> BoxFuture<'a, Result<Vec<Descriptor>, EngineError>> {
        never()
    }

    fn pinned(&self) -> BoxFuture<'_, Result<Vec<Digest>, EngineError>> {
        never()
    }

    fn unpin<'a>(&'a self, _: &'a Digest) -> BoxFuture<'a, Result<(), EngineError>> {
        never()
    }

    fn ingests(&self) -> Result<&dyn IngestManager, EngineError> {
        Ok(self)
    }

    fn begin(
        self: Arc<Self>,
        _: Arc<Graph>,
        _: TransactionOptions,
    ) -> BoxFuture<'static, Result<Box<dyn ImageTransaction>, EngineError>> {
        never()
    }

    fn suspend<'a>(&'a self, _: &'a Digest) -> BoxFuture<'a, Result<(), EngineError>> {
        never()
    }

    fn release(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        self.released.fetch_add(1, Ordering::Relaxed);
        never()
    }
}

impl IngestManager for Stuck {
    fn mountable<'a>(&'a self, _: &'a [Digest]) -> BoxFuture<'a, Result<Vec<Option<u64>>, EngineError>> {
        never()
    }

    fn open<'a>(&'a self, _: &'a str, _: &'a Expected) -> BoxFuture<'a, Result<OpenedIngest, EngineError>> {
        Box::pin(async { Ok(OpenedIngest::Writer(Box::new(Self::default()))) })
    }

    fn status<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<IngestStatus>, EngineError>> {
        never()
    }

    fn statuses(&self) -> BoxFuture<'_, Result<Vec<IngestStatus>, EngineError>> {
        never()
    }

    fn abort<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), EngineError>> {
        never()
    }
}

impl IngestWriter for Stuck {
    fn offset(&self) -> u64 {
        0
    }

    fn write(&mut self, _: Bytes) -> BoxFuture<'_, Result<(), EngineError>> {
        never()
    }

    fn digest(&mut self) -> BoxFuture<'_, Result<Digest, EngineError>> {
        never()
    }

    fn restart(&mut self) -> BoxFuture<'_, Result<(), EngineError>> {
        never()
    }

    fn suspend(self: Box<Self>) -> BoxFuture<'static, Result<(), EngineError>> {
        never()
    }

    fn commit(self: Box<Self>, _: Expected) -> BoxFuture<'static, Result<(Digest, u64), EngineError>> {
        never()
    }
}
