//! An image on its way to every node.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::commit::{commit, names_left};
use super::leased_nodes::LeasedNodes;
use super::node_transaction::NodeTransaction;
use super::nodes::{NodeName, Sent, until_one_fails};
use super::writer::{ClusterWriter, NodeWriter};
use crate::engine::{EngineError, ImageTransaction, Opened, Plan, Precondition, PreparedImage, TransactionOptions};
use crate::image::{Descriptor, Digest, Graph, Reference};
use crate::progress::{Event, Events};

/// How long a commit that was cancelled is waited for. It may go on after that, for as long as the process lives.
const TAKING_BACK: Duration = Duration::from_secs(10);

/// The image on its way to all of them: a blob is missing if one of them lacks it, and read once for all that do.
#[derive(Debug)]
pub(super) struct ClusterTransaction {
    nodes: Arc<[NodeTransaction]>,
    plan: Plan,
    events: Events,
    /// Its commit, in a task of its own: one whose caller has gone still has to take names back.
    commits: TaskTracker,
    /// Cancelled when the caller of the commit has gone.
    cancelled: CancellationToken,
}

impl ClusterTransaction {
    /// Plans the image on every node.
    pub(super) async fn begin(
        leases: &LeasedNodes,
        graph: &Arc<Graph>,
        options: &TransactionOptions,
    ) -> Result<Self, EngineError> {
        let unpacks = Arc::<Mutex<HashSet<(bool, Digest)>>>::default();
        let begun = leases.each(|it| {
            let (node, sent) = (it.node.clone(), Arc::<Sent>::default());
            let events = events_of(&node, &options.events, unpacks.clone(), sent.clone());
            let options = TransactionOptions { events, ..options.clone() };
            let beginning = it.lease.transaction(graph.clone(), options);
            async move {
                let image = beginning.await?;
                let missing = image.plan().missing.iter().map(|blob| blob.digest.clone()).collect();
                Ok(NodeTransaction::new(node, image, missing, sent))
            }
        });
        let (mut nodes, mut failure) = (Vec::new(), None);
        for begun in begun.await {
            match begun {
                Ok(node) => nodes.push(node),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        if let Some(error) = failure {
            join_all(nodes.iter().map(|node| node.image.cancel())).await;
            return Err(error);
        }
        let plan = merged(nodes.iter().map(|node| node.image.plan()));
        let (events, commits) = (options.events.clone(), TaskTracker::new());
        // Tasks may be added to it all the same, and it can be waited for at any time.
        commits.close();
        Ok(Self { nodes: nodes.into(), plan, events, commits, cancelled: CancellationToken::new() })
    }

    /// What a node was sent, as an event.
    fn summary(node: &NodeTransaction) -> Event {
        let (plan, sent) = (node.image.plan(), &node.sent);
        let blobs = sent.blobs.load(Ordering::Relaxed);
        Event::Node {
            node: node.node.to_string(),
            sent_blobs: blobs + plan.stored.len(),
            sent_bytes: sent.bytes.load(Ordering::Relaxed) + plan.stored.iter().map(|it| it.size).sum::<u64>(),
            present_blobs: (plan.present.len() + plan.missing.len()).saturating_sub(blobs),
            unpacked: sent.unpacked.load(Ordering::Relaxed),
        }
    }
}

/// The plan for all nodes: what one of them must be sent, must be read.
fn merged<'p>(plans: impl Iterator<Item = &'p Plan> + Clone) -> Plan {
    let union = |of: fn(&Plan) -> &[Descriptor]| {
        let mut known = HashSet::new();
        let all = plans.clone().flat_map(of).filter(|blob| known.insert(&blob.digest));
        all.cloned().collect::<Vec<_>>()
    };
    let (mut missing, stored) = (union(|plan| &plan.missing), union(|plan| &plan.stored));
    missing.sort_by_key(|blob| std::cmp::Reverse(blob.size));
    let absent: HashSet<_> = missing.iter().chain(&stored).map(|blob| &blob.digest).collect();
    let present = union(|plan| &plan.present).into_iter().filter(|blob| !absent.contains(&blob.digest)).collect();
    Plan { present, missing, stored }
}

/// Events of one node, for those who listen to the export: each layer is unpacked once for them, and remarks say where.
fn events_of(
    node: &NodeName,
    events: &Events,
    unpacks: Arc<Mutex<HashSet<(bool, Digest)>>>,
    sent: Arc<Sent>,
) -> Events {
    let (node, events) = (node.clone(), events.clone());
    let is_first = move |is_end: bool, digest: &Digest| {
        unpacks.lock().unwrap_or_else(PoisonError::into_inner).insert((is_end, digest.clone()))
    };
    Events::new(move |event| {
        if matches!(event, Event::Unpacked { .. }) {
            sent.unpacked.fetch_add(1, Ordering::Relaxed);
        }
        match event {
            Event::Unpacking { digest } if !is_first(false, digest) => {}
            Event::Unpacked { digest } if !is_first(true, digest) => {}
            Event::Note(note) => events.emit(Event::Note(format!("{node}: {note}"))),
            Event::NotUnpacked { reason } => events.emit(Event::NotUnpacked { reason: format!("{node}: {reason}") }),
            event => events.emit(event.clone()),
        }
    })
}

#[async_trait]
impl ImageTransaction for ClusterTransaction {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    async fn writer(&self, blob: &Descriptor) -> Result<Opened, EngineError> {
        let lacking = self.nodes.iter().filter(|node| node.missing.contains(&blob.digest));
        let opened = until_one_fails(lacking.map(|node| {
            (&node.node, async move {
                Ok(match node.image.writer(blob).await? {
                    Opened::Present => None,
                    Opened::Writer(writer) => {
                        Some(NodeWriter { node: node.node.clone(), writer, sent: node.sent.clone() })
                    }
                })
            })
        }));
        let writers: Vec<_> = opened.await?.into_iter().flatten().collect();
        if writers.is_empty() {
            return Ok(Opened::Present);
        }
        Ok(Opened::Writer(Box::new(ClusterWriter::new(writers, blob.size))))
    }

    async fn prepare(&self) -> Result<&dyn PreparedImage, EngineError> {
        let preparing = self.nodes.iter().map(|node| (&node.node, async { node.image.prepare().await.map(|_| ()) }));
        until_one_fails(preparing).await?;
        Ok(self)
    }

    async fn cancel(&self) {
        if timeout(TAKING_BACK, self.commits.wait()).await.is_err() {
            tracing::debug!("a node is slow to take the names of an image back");
        }
        join_all(self.nodes.iter().map(|node| node.image.cancel())).await;
    }

    fn names_left(&self) -> Option<String> {
        let left = names_left(&self.nodes);
        // What the commit said by itself is known.
        (self.cancelled.is_cancelled() && !left.is_empty())
            .then(|| format!("names of the image may be left on {}", left.join(", ")))
    }
}

#[async_trait]
impl PreparedImage for ClusterTransaction {
    /// All nodes get the names, or none: where one refuses, those that have them already lose them again. So they do when the
    /// future is dropped: the task takes them back.
    async fn commit(&self, names: &[Reference], preconditions: &[Precondition]) -> Result<(), EngineError> {
        let (nodes, names, preconditions) = (self.nodes.clone(), names.to_vec(), preconditions.to_vec());
        let (cancelled, when_dropped) = (self.cancelled.clone(), self.cancelled.clone().drop_guard());
        let committing = async move { commit(&nodes, &names, &preconditions, &cancelled).await };
        let outcome = self.commits.spawn(committing.in_current_span()).await;
        when_dropped.disarm();
        let broken = |reason: String| EngineError::Protocol { operation: "naming the image".to_owned(), reason };
        outcome.unwrap_or_else(|error| Err(broken(error.to_string())))?;
        self.nodes.iter().for_each(|node| self.events.emit(Self::summary(node)));
        Ok(())
    }

    fn unwanted(&self) -> bool {
        self.cancelled.cancel();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(name: &str, size: u64) -> Descriptor {
        Descriptor::new("", Digest::sha256(name.as_bytes()), size)
    }

    #[test]
    fn what_one_node_lacks_is_missing() {
        let (base, top, config) = (blob("base", 9), blob("top", 1), blob("config", 5));
        let one = Plan { present: vec![base.clone()], missing: vec![top.clone()], stored: vec![config.clone()] };
        let other = Plan { present: vec![config.clone()], missing: vec![base.clone(), top.clone()], stored: vec![] };
        let expected = Plan { present: vec![], missing: vec![base.clone(), top.clone()], stored: vec![config] };
        assert_eq!(merged([&one, &other].into_iter()), expected);
        let all = Plan { present: vec![base.clone(), top.clone()], ..Plan::default() };
        assert_eq!(merged([&all, &all].into_iter()), all);
    }
}
