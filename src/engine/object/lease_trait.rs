//! The lease of a bucket, behind the engine's trait.

use std::sync::Arc;

use async_trait::async_trait;

use super::lease::ObjectLease;
use super::transaction::ObjectTransaction;
use crate::engine::ingest::IngestManager;
use crate::engine::{EngineError, EngineKind, ImageTransaction, Lease, Pin, Plan, TransactionOptions};
use crate::image::{Descriptor, Digest, Graph};

#[async_trait]
impl Lease for ObjectLease {
    fn engine(&self) -> &'static str {
        EngineKind::Object.name()
    }

    async fn pin(&self, blobs: &[Pin]) -> Result<Vec<Option<u64>>, EngineError> {
        self.pins.add(blobs.iter().map(|blob| &blob.digest)).await?;
        let sizes = self.stores.blobs.sizes(blobs).await?;
        // Clients may ask for any digest.
        let absent = blobs.iter().zip(&sizes).filter(|(_, size)| size.is_none());
        self.pins.forget(absent.map(|(blob, _)| &blob.digest));
        Ok(sizes)
    }

    async fn pin_graph(&self, graph: &Arc<Graph>) -> Result<Vec<Descriptor>, EngineError> {
        let Plan { present, stored, .. } = self.plan(graph).await?;
        Ok(present.into_iter().chain(stored).collect())
    }

    async fn pinned(&self) -> Result<Vec<Digest>, EngineError> {
        let all = self.pins.all();
        // What a transaction pins need not have come.
        let sizes = self.stores.blobs.sizes(&all.iter().map(Pin::from).collect::<Vec<_>>()).await?;
        Ok(all.into_iter().zip(sizes).filter(|(_, size)| size.is_some()).map(|(digest, _)| digest).collect())
    }

    async fn unpin(&self, digest: &Digest) -> Result<(), EngineError> {
        self.pins.forget([digest]);
        self.pins.write().await
    }

    fn ingests(&self) -> Result<&dyn IngestManager, EngineError> {
        Ok(&self.ingests)
    }

    async fn begin(
        self: Arc<Self>,
        graph: Arc<Graph>,
        options: TransactionOptions,
    ) -> Result<Box<dyn ImageTransaction>, EngineError> {
        // Before anything is sent.
        options.names.iter().try_for_each(|name| self.stores.names.repository(name).map(drop))?;
        Ok(Box::new(ObjectTransaction::begin(self, graph).await?))
    }

    /// Complete blobs stay, and nothing else can be resumed by another process.
    async fn suspend(&self, _: &Digest) -> Result<(), EngineError> {
        self.release().await
    }

    async fn release(&self) -> Result<(), EngineError> {
        self.ingests.clear();
        self.pins.release().await
    }
}
