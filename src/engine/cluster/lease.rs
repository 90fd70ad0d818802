//! A lease on every node.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

use super::ingests::ClusterIngests;
use super::leased_nodes::LeasedNodes;
use super::nodes::common;
use super::transaction::ClusterTransaction;
use crate::engine::ingest::IngestManager;
use crate::engine::{EngineError, EngineKind, ImageTransaction, Lease, Pin, TransactionOptions};
use crate::image::{Descriptor, Digest, Graph};

/// Leases of all nodes, which have the same id. A blob counts as pinned if it is on every node.
#[derive(Debug)]
pub(super) struct ClusterLease {
    nodes: Arc<LeasedNodes>,
    ingests: ClusterIngests,
    is_durable: bool,
    /// Whether a release has begun, and some node got a mark of it.
    was_marked: AtomicBool,
}

impl ClusterLease {
    pub(super) fn new(nodes: LeasedNodes, is_durable: bool) -> Self {
        let nodes = Arc::new(nodes);
        Self { ingests: ClusterIngests::new(nodes.clone()), nodes, is_durable, was_marked: AtomicBool::new(false) }
    }

    /// Whether the lease is still to be released. Marks say that of a lease that outlives its process: where a release was begun,
    /// and no node has its mark any more, another process has ended it, and the id may be that of another export.
    async fn is_to_be_released(&self) -> bool {
        if !self.was_marked.load(Ordering::Relaxed) {
            return true;
        }
        let marks = self.nodes.each(|it| it.engine.has_ended(it.lease.id())).await;
        !marks.iter().all(|mark| matches!(mark, Ok(false)))
    }

    /// Marks the lease as ended on the nodes that respond, before any of them loses it: while one does not respond, the others say
    /// that what is there is no open export.
    async fn mark(&self) {
        for outcome in self.nodes.each(|it| it.engine.mark_ended(it.lease.id())).await {
            match outcome {
                Ok(()) => self.was_marked.store(true, Ordering::Relaxed),
                Err(error) => tracing::debug!(%error, "a lease is not marked as ended on a node"),
            }
        }
    }
}

#[async_trait]
impl Lease for ClusterLease {
    fn engine(&self) -> &'static str {
        EngineKind::Cluster.name()
    }

    async fn pin(&self, blobs: &[Pin]) -> Result<Vec<Option<u64>>, EngineError> {
        Ok(common(self.nodes.on_all(|it| it.lease.pin(blobs)).await?))
    }

    async fn pin_graph(&self, graph: &Arc<Graph>) -> Result<Vec<Descriptor>, EngineError> {
        Ok(on_every_node(self.nodes.on_all(|it| it.lease.pin_graph(graph)).await?, |blob| &blob.digest))
    }

    async fn pinned(&self) -> Result<Vec<Digest>, EngineError> {
        Ok(on_every_node(self.nodes.on_all(|it| it.lease.pinned()).await?, |digest| digest))
    }

    async fn unpin(&self, digest: &Digest) -> Result<(), EngineError> {
        self.nodes.on_all(|it| it.lease.unpin(digest)).await.map(drop)
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
        self.nodes.end(|it| it.lease.suspend(root)).await
    }

    /// Where one node does not respond, the others lose theirs all the same. A lease that outlives this process is marked, so
    /// that a later one does not take what is left of it on that node for an open export.
    async fn release(&self) -> Result<(), EngineError> {
        if !self.is_to_be_released().await {
            return Ok(());
        }
        let needs_marks = self.is_durable && self.nodes.len() > 1;
        if needs_marks {
            self.mark().await;
        }
        self.nodes.end(|it| it.lease.release()).await?;
        if needs_marks {
            self.nodes.end(|it| it.engine.unmark_ended(it.lease.id())).await?;
        }
        Ok(())
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
