//! Image transactions of a repository.

use std::sync::Arc;

use async_trait::async_trait;

use super::lease::RepositoryLease;
use crate::engine::{EngineError, ImageTransaction, Opened, Plan, Precondition, PreparedImage};
use crate::image::{Descriptor, Graph, Kind, Reference};

/// A transaction of one image under a lease.
#[derive(Debug, Clone)]
pub(super) struct RepositoryTransaction {
    lease: RepositoryLease,
    graph: Arc<Graph>,
    plan: Arc<Plan>,
}

/// Pins `graph`, stores its documents and finds its missing leaves. Blocks.
pub(super) fn plan(lease: &RepositoryLease, graph: &Graph) -> Result<Plan, EngineError> {
    lease.pins.add(graph.descriptors().map(|blob| &blob.digest))?;
    let is_there = |blob: &Descriptor| lease.is_there(blob);
    let mut plan = Plan::default();
    for document in graph.documents() {
        // A document with other bytes is replaced: what other tools wrote may not have survived a power loss.
        if is_there(&document.descriptor) && lease.stores.blobs.is_same(&document.descriptor.digest, &document.bytes) {
            plan.present.push(document.descriptor.clone());
        } else {
            // The reader of the graph has verified the bytes.
            let bytes = std::slice::from_ref(&document.bytes);
            lease.stores.blobs.store(&document.descriptor.digest, bytes, &lease.export)?;
            plan.stored.push(document.descriptor.clone());
        }
    }
    plan.add_leaves(graph.leaves().iter().map(|leaf| (leaf, is_there(leaf))));
    Ok(plan)
}

impl RepositoryTransaction {
    /// Plans `graph`. Blocks.
    pub(super) fn begin(lease: RepositoryLease, graph: Arc<Graph>) -> Result<Self, EngineError> {
        let plan = Arc::new(plan(&lease, &graph)?);
        Ok(Self { lease, graph, plan })
    }

    /// Runs file work off the reactor.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let this = self.clone();
        self.lease.work(move |_| work(&this)).await
    }

    /// Fails unless every blob has its name, except for foreign layers.
    fn verify(&self) -> Result<(), EngineError> {
        let missing = self.graph.descriptors().filter(|blob| blob.kind() != Kind::ForeignLayer);
        let missing = missing.filter(|blob| self.lease.stores.blobs.present(&blob.digest, Some(blob.size)).is_none());
        let digests: Vec<_> = missing.map(|blob| blob.digest.clone()).collect();
        if digests.is_empty() { Ok(()) } else { Err(EngineError::Missing { digests }) }
    }

    fn publish(&self, names: &[Reference], preconditions: &[Precondition]) -> Result<(), EngineError> {
        let has_replaced = self.lease.stores.names.publish(self.graph.root(), names, preconditions)?;
        self.lease.committed(has_replaced);
        Ok(())
    }
}

#[async_trait]
impl ImageTransaction for RepositoryTransaction {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    async fn writer(&self, blob: &Descriptor) -> Result<Opened, EngineError> {
        let blob = blob.clone();
        let writer = self.lease.work(move |lease| {
            lease.pins.add([&blob.digest])?;
            lease.stores.blobs.writer(&blob, &lease.export)
        });
        Ok(writer.await?.map_or(Opened::Present, |writer| Opened::Writer(Box::new(writer))))
    }

    async fn prepare(&self) -> Result<&dyn PreparedImage, EngineError> {
        self.lease.stores.blobs.flush().await?;
        self.work(Self::verify).await?;
        Ok(self)
    }

    /// Nothing to cancel: the caller has dropped all writers.
    async fn cancel(&self) {}
}

#[async_trait]
impl PreparedImage for RepositoryTransaction {
    async fn commit(&self, names: &[Reference], preconditions: &[Precondition]) -> Result<(), EngineError> {
        let (names, preconditions) = (names.to_vec(), preconditions.to_vec());
        self.work(move |this| this.publish(&names, &preconditions)).await
    }
}
