//! For tests: a hold on an engine that has stopped answering, and an engine beside it that has not.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::EngineKind;
use super::select::{Selection, select};
use super::uploads::{Begun, Expected, Upload, UploadStatus, Uploads};
use super::{Engine, EngineError, Ingest, Opened, Plan};
use crate::image::{Descriptor, Digest, Graph, Reference};

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

impl Ingest for Stuck {
    fn plan<'a>(&'a self, _: &'a Arc<Graph>) -> BoxFuture<'a, Result<Plan, EngineError>> {
        never()
    }

    fn writer<'a>(&'a self, _: &'a Descriptor) -> BoxFuture<'a, Result<Opened, EngineError>> {
        never()
    }

    fn settle(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        never()
    }

    fn commit<'a>(&'a self, _: &'a [Reference]) -> BoxFuture<'a, Result<(), EngineError>> {
        never()
    }

    fn uploads(&self) -> Result<&dyn Uploads, EngineError> {
        Ok(self)
    }

    fn release(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        self.released.fetch_add(1, Ordering::Relaxed);
        never()
    }
}

impl Uploads for Stuck {
    fn pin<'a>(&'a self, _: &'a [Digest]) -> BoxFuture<'a, Result<Vec<Option<u64>>, EngineError>> {
        never()
    }

    fn pinned(&self) -> BoxFuture<'_, Result<Vec<Digest>, EngineError>> {
        never()
    }

    fn unpin<'a>(&'a self, _: &'a Digest) -> BoxFuture<'a, Result<(), EngineError>> {
        never()
    }

    fn begin<'a>(&'a self, _: &'a str, _: &'a Expected) -> BoxFuture<'a, Result<Begun, EngineError>> {
        Box::pin(async { Ok(Begun::Upload(Box::new(Self::default()))) })
    }

    fn status<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<UploadStatus>, EngineError>> {
        never()
    }

    fn statuses(&self) -> BoxFuture<'_, Result<Vec<UploadStatus>, EngineError>> {
        never()
    }

    fn abort<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), EngineError>> {
        never()
    }
}

impl Upload for Stuck {
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
