//! What the engine hands out as a lease of a daemon.

use std::sync::Arc;

use async_trait::async_trait;

use super::lease::RemoteLease;
use super::transaction::RemoteTransaction;
use crate::engine::error::REMOTE;
use crate::engine::ingest::IngestManager;
use crate::engine::{EngineError, ImageTransaction, Lease, Pin, TransactionOptions};
use crate::image::{Descriptor, Digest, Graph};

fn not_offered() -> EngineError {
    EngineError::NotOffered { engine: REMOTE, what: "pinning and receiving blobs before their image is known" }
}

#[async_trait]
impl Lease for RemoteLease {
    async fn pin(&self, _: &[Pin]) -> Result<Vec<Option<u64>>, EngineError> {
        Err(not_offered())
    }

    /// By an export of its own: one that was left behind is for a client that exports.
    async fn pin_graph(&self, graph: &Arc<Graph>) -> Result<Vec<Descriptor>, EngineError> {
        let export = self.opened(self.open(graph.root()).await?)?;
        let present = self.negotiate(&export.id, graph).await?;
        Ok(graph.descriptors().filter(|blob| present.contains(&blob.digest)).cloned().collect())
    }

    async fn pinned(&self) -> Result<Vec<Digest>, EngineError> {
        Err(not_offered())
    }

    async fn unpin(&self, _: &Digest) -> Result<(), EngineError> {
        Err(not_offered())
    }

    fn ingests(&self) -> Result<&dyn IngestManager, EngineError> {
        Err(not_offered())
    }

    async fn begin(
        self: Arc<Self>,
        graph: Arc<Graph>,
        options: TransactionOptions,
    ) -> Result<Box<dyn ImageTransaction>, EngineError> {
        let export = self.resume(graph.root()).await?;
        let begun = RemoteTransaction::begin(self, export, &graph, options.events).await?;
        Ok(Box::new(begun))
    }

    /// The export stays open until it expires; a process that resumes it finds all that the daemon has received.
    async fn suspend(&self, _: &Digest) -> Result<(), EngineError> {
        self.forget();
        Ok(())
    }

    async fn release(&self) -> Result<(), EngineError> {
        self.abort().await
    }
}
