//! What takes the place of a lease: dockerd lends none. A lease that outlives its process is one of the spool.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::DockerApi;
use super::transaction::{Commits, DockerApiTransaction};
use crate::engine::ingest::IngestManager;
use crate::engine::{EngineError, EngineKind, ImageTransaction, Lease, Pin, TransactionOptions};
use crate::image::{Descriptor, Digest, Graph};

/// An export. dockerd knows nothing of it before its archive begins.
#[derive(Debug)]
pub(super) struct DockerApiLease {
    docker: Arc<DockerApi>,
    /// What has the export's own blobs, if they may come before their image is known.
    spool: Option<Arc<dyn Lease>>,
    /// Whether something went that an earlier plan relied on.
    is_whole: Arc<AtomicBool>,
    commits: Commits,
    released: CancellationToken,
}

impl DockerApiLease {
    pub(super) fn new(docker: Arc<DockerApi>, spool: Option<Arc<dyn Lease>>) -> Self {
        Self { docker, spool, is_whole: Arc::default(), commits: Commits::new(), released: CancellationToken::new() }
    }

    fn engine_name() -> &'static str {
        EngineKind::DockerApi.name()
    }

    fn spool(&self, what: &'static str) -> Result<&Arc<dyn Lease>, EngineError> {
        self.spool.as_ref().ok_or(EngineError::NotOffered { engine: Self::engine_name(), what })
    }
}

#[async_trait]
impl Lease for DockerApiLease {
    fn engine(&self) -> &'static str {
        Self::engine_name()
    }

    /// What dockerd has is looked up and stays by nobody's promise: the load looks for it again. What it lacks is pinned in
    /// the spool.
    async fn pin(&self, blobs: &[Pin]) -> Result<Vec<Option<u64>>, EngineError> {
        let found = self.docker.content.infos(blobs.iter().map(|blob| &blob.digest)).await?;
        let there = |blob: &Pin| {
            let size = found.get(&blob.digest)?.size;
            blob.size.is_none_or(|expected| expected == size).then_some(size)
        };
        let mut sizes: Vec<_> = blobs.iter().map(there).collect();
        if let Some(spool) = &self.spool {
            let (places, absent): (Vec<_>, Vec<_>) = blobs
                .iter()
                .enumerate()
                .filter(|(at, _)| sizes[*at].is_none())
                .map(|(at, pin)| (at, pin.clone()))
                .unzip();
            if !absent.is_empty() {
                for (at, size) in places.into_iter().zip(spool.pin(&absent).await?) {
                    sizes[at] = size;
                }
            }
        }
        Ok(sizes)
    }

    /// Documents that dockerd lacks are stored in the spool.
    async fn pin_graph(&self, graph: &Arc<Graph>) -> Result<Vec<Descriptor>, EngineError> {
        if let Some(spool) = &self.spool {
            spool.pin_graph(graph).await?;
        }
        let pins: Vec<_> = graph.descriptors().map(Pin::from).collect();
        let sizes = self.pin(&pins).await?;
        Ok(graph.descriptors().zip(sizes).filter(|(_, size)| size.is_some()).map(|(blob, _)| blob.clone()).collect())
    }

    async fn pinned(&self) -> Result<Vec<Digest>, EngineError> {
        match &self.spool {
            Some(spool) => spool.pinned().await,
            None => Ok(Vec::new()),
        }
    }

    async fn unpin(&self, digest: &Digest) -> Result<(), EngineError> {
        match &self.spool {
            Some(spool) => spool.unpin(digest).await,
            None => Ok(()),
        }
    }

    fn ingests(&self) -> Result<&dyn IngestManager, EngineError> {
        self.spool("receiving blobs before their image is known, except for exports of the exporter API")?.ingests()
    }

    async fn begin(
        self: Arc<Self>,
        graph: Arc<Graph>,
        options: TransactionOptions,
    ) -> Result<Box<dyn ImageTransaction>, EngineError> {
        let is_whole = self.is_whole.clone();
        let cancelled = self.released.child_token();
        let (docker, spool, commits) = (self.docker.clone(), self.spool.clone(), self.commits.clone());
        let begun = DockerApiTransaction::begin(docker, spool, graph, options, is_whole, commits, cancelled);
        Ok(Box::new(begun.await?))
    }

    /// dockerd keeps nothing of an archive that it did not get to the end of.
    async fn suspend(&self, root: &Digest) -> Result<(), EngineError> {
        self.released.cancel();
        self.commits.cancelled().await;
        match &self.spool {
            Some(spool) => spool.suspend(root).await,
            None => Ok(()),
        }
    }

    async fn release(&self) -> Result<(), EngineError> {
        self.released.cancel();
        self.commits.cancelled().await;
        match &self.spool {
            Some(spool) => spool.release().await,
            None => Ok(()),
        }
    }
}
