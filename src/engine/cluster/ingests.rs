//! Ingests on every node, under the same refs.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::leased_nodes::LeasedNodes;
use super::nodes::{NodeName, common, each, of_node, on_all, until_one_fails};
use crate::engine::ingest::{Expected, IngestManager, IngestStatus, IngestWriter, OpenedIngest};
use crate::engine::{EngineError, Lease as _};
use crate::image::Digest;

/// The ingests of the leases of all nodes. Clients see one: it is as long as the shortest.
#[derive(Debug)]
pub(super) struct ClusterIngests {
    nodes: Arc<LeasedNodes>,
}

impl ClusterIngests {
    pub(super) fn new(nodes: Arc<LeasedNodes>) -> Self {
        Self { nodes }
    }
}

#[async_trait]
impl IngestManager for ClusterIngests {
    async fn mountable(&self, digests: &[Digest]) -> Result<Vec<Option<u64>>, EngineError> {
        Ok(common(self.nodes.on_all(|it| async { it.lease.ingests()?.mountable(digests).await }).await?))
    }

    async fn open(&self, reference: &str, expected: &Expected) -> Result<OpenedIngest, EngineError> {
        let opened = self.nodes.on_all(|it| async {
            Ok(match it.lease.ingests()?.open(reference, expected).await? {
                OpenedIngest::Present => None,
                OpenedIngest::Writer(writer) => Some(NodeIngest { node: it.node.clone(), writer }),
            })
        });
        let nodes: Vec<_> = opened.await?.into_iter().flatten().collect();
        if nodes.is_empty() {
            return Ok(OpenedIngest::Present);
        }
        Ok(OpenedIngest::Writer(Box::new(ClusterIngest::new(nodes))))
    }

    async fn status(&self, reference: &str) -> Result<Option<IngestStatus>, EngineError> {
        Ok(self.statuses().await?.into_iter().find(|status| status.reference == reference))
    }

    async fn statuses(&self) -> Result<Vec<IngestStatus>, EngineError> {
        Ok(shortest(self.nodes.on_all(|it| async { it.lease.ingests()?.statuses().await }).await?))
    }

    async fn abort(&self, reference: &str) -> Result<(), EngineError> {
        self.nodes.on_all(|it| async { it.lease.ingests()?.abort(reference).await }).await.map(drop)
    }
}

/// Of each ref the ingest that has least: one that a node lacks has nothing there.
fn shortest(found: Vec<Vec<IngestStatus>>) -> Vec<IngestStatus> {
    let nodes = found.len();
    let mut ingests = BTreeMap::<String, (usize, IngestStatus)>::new();
    for status in found.into_iter().flatten() {
        match ingests.get_mut(&status.reference) {
            Some((count, least)) => {
                *count += 1;
                least.offset = least.offset.min(status.offset);
                least.started = least.started.min(status.started);
                least.updated = least.updated.max(status.updated);
            }
            None => {
                ingests.insert(status.reference.clone(), (1, status));
            }
        }
    }
    let complete = |(count, status): (usize, IngestStatus)| {
        let offset = if count == nodes { status.offset } else { 0 };
        IngestStatus { offset, ..status }
    };
    ingests.into_values().map(complete).collect()
}

#[derive(Debug)]
struct NodeIngest {
    node: NodeName,
    writer: Box<dyn IngestWriter>,
}

/// An ingest that is being written on the nodes that lack its blob. A node whose ingest is longer, after an interruption, is
/// not sent again what it has.
#[derive(Debug)]
struct ClusterIngest {
    nodes: Vec<NodeIngest>,
    offset: u64,
}

impl ClusterIngest {
    fn new(nodes: Vec<NodeIngest>) -> Self {
        let offset = nodes.iter().map(|it| it.writer.offset()).min().unwrap_or_default();
        Self { nodes, offset }
    }
}

impl NodeIngest {
    /// Writes what the node lacks of `bytes`, which begin at `offset`.
    async fn write(&mut self, offset: u64, mut bytes: Bytes) -> Result<(), EngineError> {
        let ahead = usize::try_from(self.writer.offset().saturating_sub(offset)).unwrap_or(usize::MAX);
        let missing = bytes.split_off(ahead.min(bytes.len()));
        if missing.is_empty() { Ok(()) } else { self.writer.write(missing).await }
    }
}

#[async_trait]
impl IngestWriter for ClusterIngest {
    fn offset(&self) -> u64 {
        self.offset
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), EngineError> {
        let (offset, length) = (self.offset, bytes.len() as u64);
        let writing = self.nodes.iter_mut().map(|it| {
            let node = it.node.clone();
            let write = it.write(offset, bytes.clone());
            async move { write.await.map_err(|error| of_node(&node, error)) }
        });
        futures_util::future::try_join_all(writing).await?;
        self.offset += length;
        Ok(())
    }

    /// That of a node that has so much and no more.
    async fn digest(&mut self) -> Result<Digest, EngineError> {
        let offset = self.offset;
        let Some(it) = self.nodes.iter_mut().find(|it| it.writer.offset() == offset) else {
            let operation = "asking for the digest of an ingest".to_owned();
            let reason = "every node has more of it than was written".to_owned();
            return Err(EngineError::Protocol { operation, reason });
        };
        it.writer.digest().await.map_err(|error| of_node(&it.node, error))
    }

    async fn restart(&mut self) -> Result<(), EngineError> {
        until_one_fails(self.nodes.iter_mut().map(|it| (&it.node, it.writer.restart()))).await?;
        self.offset = 0;
        Ok(())
    }

    async fn suspend(self: Box<Self>) -> Result<(), EngineError> {
        let names: Vec<_> = self.nodes.iter().map(|it| it.node.clone()).collect();
        on_all(names.iter().zip(self.nodes.into_iter().map(|it| it.writer.suspend()))).await.map(drop)
    }

    /// Present only if every node got it from elsewhere: else it was sent.
    async fn commit(self: Box<Self>, expected: Expected) -> Result<(Digest, u64), EngineError> {
        let names: Vec<_> = self.nodes.iter().map(|it| it.node.clone()).collect();
        let committing = self.nodes.into_iter().map(|it| it.writer.commit(expected.clone()));
        let (mut committed, mut present) = (None, None);
        for outcome in each(names.iter().zip(committing)).await {
            match outcome {
                Ok(blob) => committed = Some(blob),
                Err(error @ EngineError::Present { .. }) => present = Some(error),
                Err(error) => return Err(error),
            }
        }
        match (committed, present) {
            (Some(blob), _) => Ok(blob),
            (None, Some(error)) => Err(error),
            (None, None) => {
                let reason = "no node was written to".to_owned();
                Err(EngineError::Protocol { operation: "committing an ingest".to_owned(), reason })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn an_ingest_is_as_long_as_the_shortest() {
        let status = |reference: &str, offset, seconds| IngestStatus {
            reference: reference.to_owned(),
            offset,
            expected: Expected::default(),
            started: SystemTime::UNIX_EPOCH,
            updated: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
        };
        let found = vec![vec![status("b", 7, 1), status("a", 5, 3)], vec![status("b", 3, 2)]];
        assert_eq!(shortest(found), [status("a", 0, 3), status("b", 3, 2)]);
    }
}
