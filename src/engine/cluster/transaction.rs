//! An image on its way to every node.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::future::join_all;

use super::leased_nodes::LeasedNodes;
use super::nodes::{NodeName, Sent, of_node, on_all, until_one_fails};
use super::writer::{ClusterWriter, NodeWriter};
use crate::engine::containerd::{ContainerdTransaction, NamesBefore, NotRecorded};
use crate::engine::{EngineError, ImageTransaction, Opened, Plan, Precondition, PreparedImage, TransactionOptions};
use crate::image::{Descriptor, Digest, Graph, Reference};
use crate::progress::{Event, Events};

/// The image on its way to one node.
#[derive(Debug)]
struct NodeTransaction {
    node: NodeName,
    image: ContainerdTransaction,
    /// What this node lacked, others or not.
    missing: HashSet<Digest>,
    sent: Arc<Sent>,
}

/// The image on its way to all of them: a blob is missing if one of them lacks it, and read once for all that do.
#[derive(Debug)]
pub(super) struct ClusterTransaction {
    nodes: Vec<NodeTransaction>,
    plan: Plan,
    events: Events,
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
                Ok(NodeTransaction { node, image, missing, sent })
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
        Ok(Self { nodes, plan, events: options.events.clone() })
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

    /// Takes the names back on the nodes that set them, after another one failed with `error`. `left` are nodes that could not
    /// do so themselves.
    async fn take_back(
        &self,
        named: Vec<Option<NamesBefore>>,
        error: EngineError,
        mut left: Vec<String>,
    ) -> EngineError {
        let named = self.nodes.iter().zip(named).filter_map(|(node, before)| Some((node, before?)));
        let restored = join_all(named.map(|(node, before)| async move {
            (!node.image.restore_names(before).await).then(|| node.node.to_string())
        }));
        left.extend(restored.await.into_iter().flatten());
        if left.is_empty() { error } else { EngineError::NamedOnSome { error: Box::new(error), nodes: left } }
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
        join_all(self.nodes.iter().map(|node| node.image.cancel())).await;
    }
}

#[async_trait]
impl PreparedImage for ClusterTransaction {
    /// All nodes get the names, or none: where one refuses, those that have them already lose them again.
    async fn commit(&self, names: &[Reference], preconditions: &[Precondition]) -> Result<(), EngineError> {
        on_all(self.nodes.iter().map(|node| (&node.node, node.image.check_names(preconditions)))).await?;
        let recording = self.nodes.iter().map(|node| node.image.record(names, preconditions));
        let (mut named, mut failure, mut left) = (Vec::new(), None, Vec::new());
        for (node, outcome) in self.nodes.iter().zip(join_all(recording).await) {
            named.push(match outcome {
                Ok(before) => Some(before),
                Err(NotRecorded { error, is_restored }) => {
                    if !is_restored {
                        left.push(node.node.to_string());
                    }
                    failure = failure.or(Some(of_node(&node.node, error)));
                    None
                }
            });
        }
        if let Some(error) = failure {
            return Err(self.take_back(named, error, left).await);
        }
        self.nodes.iter().for_each(|node| self.events.emit(Self::summary(node)));
        Ok(())
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
