//! The lease of a repository, behind the engine's trait.

use std::sync::Arc;

use async_trait::async_trait;

use super::lease::RepositoryLease;
use super::transaction::{RepositoryTransaction, plan};
use crate::engine::ingest::IngestManager;
use crate::engine::{EngineError, EngineKind, ImageTransaction, Lease, Pin, Plan, TransactionOptions};
use crate::image::{Descriptor, Digest, Graph};

#[async_trait]
impl Lease for RepositoryLease {
    fn engine(&self) -> &'static str {
        EngineKind::Layout.name()
    }

    async fn pin(&self, blobs: &[Pin]) -> Result<Vec<Option<u64>>, EngineError> {
        let blobs = blobs.to_vec();
        self.work(move |this| this.pins.pin(&blobs)).await
    }

    async fn pin_graph(&self, graph: &Arc<Graph>) -> Result<Vec<Descriptor>, EngineError> {
        let graph = graph.clone();
        self.work(move |this| {
            let Plan { present, stored, .. } = plan(this, &graph)?;
            Ok(present.into_iter().chain(stored).collect())
        })
        .await
    }

    async fn pinned(&self) -> Result<Vec<Digest>, EngineError> {
        self.work(|this| {
            // A lease may also pin blobs that were never stored.
            let mut found = Vec::new();
            for digest in this.pins.all() {
                if this.pins.find(&Pin::from(&digest))?.is_some() {
                    found.push(digest);
                }
            }
            Ok(found)
        })
        .await
    }

    async fn unpin(&self, digest: &Digest) -> Result<(), EngineError> {
        let digest = digest.clone();
        self.work(move |this| this.pins.remove(&digest)).await
    }

    fn ingests(&self) -> Result<&dyn IngestManager, EngineError> {
        Ok(&self.ingests)
    }

    async fn begin(
        self: Arc<Self>,
        graph: Arc<Graph>,
        _: TransactionOptions,
    ) -> Result<Box<dyn ImageTransaction>, EngineError> {
        let begun = self.work(move |this| RepositoryTransaction::begin(this.clone(), graph)).await?;
        Ok(Box::new(begun))
    }

    /// Complete blobs are published, so that the next export finds them and the collector keeps them for an hour; the
    /// part of a large one stays as it is.
    async fn suspend(&self, _: &Digest) -> Result<(), EngineError> {
        if let Err(error) = self.stores.blobs.flush().await {
            tracing::debug!(%error, "small blobs of the export are sent again");
        }
        self.release().await
    }

    async fn release(&self) -> Result<(), EngineError> {
        if self.work(Self::end).await? {
            self.stores.collect_later();
        }
        Ok(())
    }
}
