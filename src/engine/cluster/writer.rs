//! One blob on its way to the nodes that lack it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::nodes::{NodeName, Sent, on_all, until_one_fails};
use crate::engine::{BlobWriter, EngineError};

/// The blob on its way to one node. What is sent is counted when it is there.
#[derive(Debug)]
pub(super) struct NodeWriter {
    pub(super) node: NodeName,
    pub(super) writer: Box<dyn BlobWriter>,
    pub(super) sent: Arc<Sent>,
}

/// Writes what comes to several nodes. The slowest one says how fast.
#[derive(Debug)]
pub(super) struct ClusterWriter {
    nodes: Vec<NodeWriter>,
    size: u64,
}

impl ClusterWriter {
    /// `nodes` write from the beginning of the blob on, which has `size` bytes.
    pub(super) fn new(nodes: Vec<NodeWriter>, size: u64) -> Self {
        Self { nodes, size }
    }
}

#[async_trait]
impl BlobWriter for ClusterWriter {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            let writing = self.nodes.iter_mut().map(|it| (&it.node, it.writer.write(bytes.clone())));
            until_one_fails(writing).await.map(drop)
        })
    }

    async fn commit(self: Box<Self>) -> Result<(), EngineError> {
        let Self { nodes, size } = *self;
        let names: Vec<_> = nodes.iter().map(|it| it.node.clone()).collect();
        let commit = |it: NodeWriter| async move {
            it.writer.commit().await?;
            it.sent.blobs.fetch_add(1, Ordering::Relaxed);
            it.sent.bytes.fetch_add(size, Ordering::Relaxed);
            Ok(())
        };
        on_all(names.iter().zip(nodes.into_iter().map(commit))).await.map(drop)
    }
}
