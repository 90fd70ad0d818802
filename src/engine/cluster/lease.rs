//! A lease on every node.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;

use super::ingests::ClusterIngests;
use super::nodes::{NodeLease, common, on_all};
use super::transaction::ClusterTransaction;
use crate::engine::ingest::IngestManager;
use crate::engine::{EngineError, EngineKind, ImageTransaction, Lease, Pin, TransactionOptions};
use crate::image::{Descriptor, Digest, Graph};

/// Leases of all nodes, which have the same id. A blob counts as pinned if it is on every node.
#[derive(Debug)]
pub(super) struct ClusterLease {
    nodes: Arc<[NodeLease]>,
    ingests: ClusterIngests,
}

impl ClusterLease {
    pub(super) fn new(nodes: Vec<NodeLease>) -> Self {
        let nodes: Arc<[_]> = nodes.into();
        Self { ingests: ClusterIngests::new(nodes.clone()), nodes }
    }
}

#[async_trait]
impl Lease for ClusterLease {
    fn engine(&self) -> &'static str {
        EngineKind::Cluster.name()
    }

    async fn pin(&self, blobs: &[Pin]) -> Result<Vec<Option<u64>>, EngineError> {
        Ok(common(on_all(self.nodes.iter().map(|it| (&it.node, it.lease.pin(blobs)))).await?))
    }

    async fn pin_graph(&self, graph: &Arc<Graph>) -> Result<Vec<Descriptor>, EngineError> {
        let found = on_all(self.nodes.iter().map(|it| (&it.node, it.lease.pin_graph(graph)))).await?;
        Ok(on_every_node(found, |blob| &blob.digest))
    }

    async fn pinned(&self) -> Result<Vec<Digest>, EngineError> {
        let found = on_all(self.nodes.iter().map(|it| (&it.node, it.lease.pinned()))).await?;
        Ok(on_every_node(found, |digest| digest))
    }

    async fn unpin(&self, digest: &Digest) -> Result<(), EngineError> {
        on_all(self.nodes.iter().map(|it| (&it.node, it.lease.unpin(digest)))).await.map(drop)
    }

    fn ingests(&self) -> Result<&dyn IngestManager, EngineError> {
        Ok(&self.ingests)
    }

    async fn begin(
        self: Arc<Self>,
        graph: Arc<Graph>,
        options: TransactionOptions,
    ) -> Result<Box<dyn ImageTransaction>, EngineError> {
        Ok(Box::new(ClusterTransaction::begin(&self.nodes, &graph, &options).await?))
    }

    async fn suspend(&self, root: &Digest) -> Result<(), EngineError> {
        on_all(self.nodes.iter().map(|it| (&it.node, it.lease.suspend(root)))).await.map(drop)
    }

    async fn release(&self) -> Result<(), EngineError> {
        on_all(self.nodes.iter().map(|it| (&it.node, it.lease.release()))).await.map(drop)
    }
}

/// What all nodes have of what each has, in the order of the first.
fn on_every_node<T>(found: Vec<Vec<T>>, digest: impl Fn(&T) -> &Digest) -> Vec<T> {
    let mut found = found.into_iter();
    let mut common = found.next().unwrap_or_default();
    for other in found {
        let other: HashSet<_> = other.iter().map(&digest).collect();
        common.retain(|it| other.contains(digest(it)));
    }
    common
}
