//! The nodes of one lease, without those that have left.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;

use super::members::Members;
use super::nodes::{NodeName, of_node};
use crate::engine::EngineError;
use crate::engine::containerd::{ContainerdEngine, ContainerdLease};

/// The lease of one node.
#[derive(Debug)]
pub(super) struct NodeLease {
    pub(super) node: NodeName,
    pub(super) engine: ContainerdEngine,
    pub(super) lease: ContainerdLease,
    /// The id of the node's container.
    container: String,
    has_left: AtomicBool,
}

impl NodeLease {
    pub(super) fn new(node: NodeName, container: String, engine: ContainerdEngine, lease: ContainerdLease) -> Self {
        Self { node, engine, lease, container, has_left: AtomicBool::new(false) }
    }
}

/// The nodes that a lease was created on. One that was removed since has no part of it any more: nothing can be there, and the others
/// have all that it had.
#[derive(Debug)]
pub(super) struct LeasedNodes {
    nodes: Vec<NodeLease>,
    members: Arc<Members>,
}

impl LeasedNodes {
    pub(super) fn new(nodes: Vec<NodeLease>, members: Arc<Members>) -> Self {
        Self { nodes, members }
    }

    /// Does `work` on every node that is there, and waits for all of them; the outcomes are in the order of the nodes. What fails on
    /// a node that has left is left out, unless the address names it: whoever names nodes means all of these.
    pub(super) async fn each<'n, T, F>(&'n self, work: impl Fn(&'n NodeLease) -> F) -> Vec<Result<T, EngineError>>
    where
        F: Future<Output = Result<T, EngineError>>,
    {
        let (found, gone) = self.ask(work).await;
        match gone {
            Some(error) if found.is_empty() || self.members.are_named() => vec![Err(error)],
            _ => found,
        }
    }

    /// The same; the results of all.
    ///
    /// # Errors
    /// The first node's that failed.
    pub(super) async fn on_all<'n, T, F>(&'n self, work: impl Fn(&'n NodeLease) -> F) -> Result<Vec<T>, EngineError>
    where
        F: Future<Output = Result<T, EngineError>>,
    {
        self.each(work).await.into_iter().collect()
    }

    /// The same for what ends the lease: on a node that has left it has ended.
    ///
    /// # Errors
    /// The first node's that failed.
    pub(super) async fn end<'n, F>(&'n self, work: impl Fn(&'n NodeLease) -> F) -> Result<(), EngineError>
    where
        F: Future<Output = Result<(), EngineError>>,
    {
        self.ask(work).await.0.into_iter().collect()
    }

    /// The outcomes of the nodes that are there, and the error of one that has left.
    async fn ask<'n, T, F>(
        &'n self,
        work: impl Fn(&'n NodeLease) -> F,
    ) -> (Vec<Result<T, EngineError>>, Option<EngineError>)
    where
        F: Future<Output = Result<T, EngineError>>,
    {
        let is_there = |it: &&NodeLease| self.members.are_named() || !it.has_left.load(Ordering::Relaxed);
        let nodes: Vec<_> = self.nodes.iter().filter(is_there).collect();
        // None is left: what they say is why nothing can be done.
        let nodes = if nodes.is_empty() { self.nodes.iter().collect() } else { nodes };
        let outcomes = join_all(nodes.iter().map(|it| work(it))).await;
        let (mut found, mut gone) = (Vec::with_capacity(nodes.len()), None);
        for (it, outcome) in nodes.into_iter().zip(outcomes) {
            match outcome {
                Err(error) if self.has_left(it).await => gone = Some(of_node(&it.node, error)),
                outcome => found.push(outcome.map_err(|error| of_node(&it.node, error))),
            }
        }
        (found, gone)
    }

    async fn has_left(&self, it: &NodeLease) -> bool {
        let known = it.has_left.load(Ordering::Relaxed);
        let has_left = known || self.members.has_left(&it.container).await;
        if has_left && !known {
            tracing::info!(node = %it.node, lease = it.lease.id(), "a node was removed, and has no part of the export any more");
            it.has_left.store(true, Ordering::Relaxed);
        }
        has_left
    }

    /// How many there were at first.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }
}
