//! What the engine hands out as a lease of a daemon.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::lease::RemoteLease;
use super::transaction::RemoteTransaction;
use crate::engine::error::REMOTE;
use crate::engine::ingest::IngestManager;
use crate::engine::{EngineError, ImageTransaction, Lease, Pin, TransactionOptions};
use crate::image::{Descriptor, Digest, Graph};

fn not_offered() -> EngineError {
    EngineError::NotOffered { engine: REMOTE, what: "pinning and receiving blobs before their image is known" }
}

impl Lease for RemoteLease {
    fn pin<'a>(&'a self, _: &'a [Pin]) -> BoxFuture<'a, Result<Vec<Option<u64>>, EngineError>> {
        Box::pin(async { Err(not_offered()) })
    }

    /// By an export of its own: one that was left behind is for a client that exports.
    fn pin_graph<'a>(&'a self, graph: &'a Arc<Graph>) -> BoxFuture<'a, Result<Vec<Descriptor>, EngineError>> {
        Box::pin(async move {
            let export = self.opened(self.open(graph.root()).await?)?;
            let present = self.negotiate(&export.id, graph).await?;
            Ok(graph.descriptors().filter(|blob| present.contains(&blob.digest)).cloned().collect())
        })
    }

    fn pinned(&self) -> BoxFuture<'_, Result<Vec<Digest>, EngineError>> {
        Box::pin(async { Err(not_offered()) })
    }

    fn unpin<'a>(&'a self, _: &'a Digest) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(async { Err(not_offered()) })
    }

    fn ingests(&self) -> Result<&dyn IngestManager, EngineError> {
        Err(not_offered())
    }

    fn begin(
        self: Arc<Self>,
        graph: Arc<Graph>,
        options: TransactionOptions,
    ) -> BoxFuture<'static, Result<Box<dyn ImageTransaction>, EngineError>> {
        Box::pin(async move {
            let export = self.resume(graph.root()).await?;
            let begun = RemoteTransaction::begin(self, export, &graph, options.events).await?;
            Ok(Box::new(begun) as Box<dyn ImageTransaction>)
        })
    }

    /// The export stays open until it expires; a process that resumes it finds all that the daemon has received.
    fn suspend<'a>(&'a self, _: &'a Digest) -> BoxFuture<'a, Result<(), EngineError>> {
        self.forget();
        Box::pin(async { Ok(()) })
    }

    fn release(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(self.abort())
    }
}
