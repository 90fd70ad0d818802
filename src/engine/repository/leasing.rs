//! What the engine hands out as a lease of a repository.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::lease::RepositoryLease;
use super::transaction::{RepositoryTransaction, plan};
use crate::engine::ingest::IngestManager;
use crate::engine::{EngineError, ImageTransaction, Lease, Pin, Plan, TransactionOptions};
use crate::image::{Descriptor, Digest, Graph};

impl Lease for RepositoryLease {
    fn pin<'a>(&'a self, blobs: &'a [Pin]) -> BoxFuture<'a, Result<Vec<Option<u64>>, EngineError>> {
        let blobs = blobs.to_vec();
        Box::pin(self.work(move |this| this.pins.pin(&blobs)))
    }

    fn pin_graph<'a>(&'a self, graph: &'a Arc<Graph>) -> BoxFuture<'a, Result<Vec<Descriptor>, EngineError>> {
        let graph = graph.clone();
        Box::pin(self.work(move |this| {
            let Plan { present, stored, .. } = plan(this, &graph)?;
            Ok(present.into_iter().chain(stored).collect())
        }))
    }

    fn pinned(&self) -> BoxFuture<'_, Result<Vec<Digest>, EngineError>> {
        Box::pin(self.work(|this| {
            // A lease may also have blobs that were never there.
            let mut found = Vec::new();
            for digest in this.pins.all() {
                if this.pins.find(&Pin::from(&digest))?.is_some() {
                    found.push(digest);
                }
            }
            Ok(found)
        }))
    }

    fn unpin<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<(), EngineError>> {
        let digest = digest.clone();
        Box::pin(self.work(move |this| this.pins.remove(&digest)))
    }

    fn ingests(&self) -> Result<&dyn IngestManager, EngineError> {
        Ok(&self.ingests)
    }

    fn begin(
        self: Arc<Self>,
        graph: Arc<Graph>,
        _: TransactionOptions,
    ) -> BoxFuture<'static, Result<Box<dyn ImageTransaction>, EngineError>> {
        Box::pin(async move {
            let begun = self.work(move |this| RepositoryTransaction::begin(this.clone(), graph)).await?;
            Ok(Box::new(begun) as Box<dyn ImageTransaction>)
        })
    }

    /// Complete blobs get their names, where the next export finds them and the collector leaves them for an hour;
    /// the part of a large one stays as it is.
    fn suspend<'a>(&'a self, _: &'a Digest) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(async move {
            if let Err(error) = self.stores.blobs.flush().await {
                tracing::debug!(%error, "small blobs of the export are sent again");
            }
            self.release().await
        })
    }

    fn release(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            if self.work(Self::end).await? {
                self.stores.collect_later();
            }
            Ok(())
        })
    }
}
