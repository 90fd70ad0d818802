//! What takes the place of a lease: a classic store has none.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::Classic;
use super::transaction::{Attempts, ClassicTransaction};
use crate::engine::docker::Info;
use crate::engine::ingest::IngestManager;
use crate::engine::{EngineError, ImageTransaction, Lease, Pin, TransactionOptions};
use crate::image::{Descriptor, Digest, Graph};

/// An export, of which dockerd knows nothing before its archive begins.
#[derive(Debug)]
pub(super) struct ClassicLease {
    docker: Arc<Classic>,
    info: Info,
    attempts: Arc<Mutex<Attempts>>,
    released: CancellationToken,
}

impl ClassicLease {
    pub(super) fn new(docker: Arc<Classic>, info: Info) -> Self {
        Self { docker, info, attempts: Arc::default(), released: CancellationToken::new() }
    }
}

fn not_offered() -> EngineError {
    EngineError::NotOffered {
        engine: "docker-classic",
        what: "pinning and receiving blobs before their image is known",
    }
}

#[async_trait]
impl Lease for ClassicLease {
    async fn pin(&self, _: &[Pin]) -> Result<Vec<Option<u64>>, EngineError> {
        Err(not_offered())
    }

    async fn pin_graph(&self, _: &Arc<Graph>) -> Result<Vec<Descriptor>, EngineError> {
        Err(not_offered())
    }

    async fn pinned(&self) -> Result<Vec<Digest>, EngineError> {
        Err(not_offered())
    }

    async fn unpin(&self, _: &Digest) -> Result<(), EngineError> {
        Err(not_offered())
    }

    fn ingests(&self) -> Result<&dyn IngestManager, EngineError> {
        Err(not_offered())
    }

    async fn begin(
        self: Arc<Self>,
        graph: Arc<Graph>,
        options: TransactionOptions,
    ) -> Result<Box<dyn ImageTransaction>, EngineError> {
        let (docker, attempts) = (self.docker.clone(), self.attempts.clone());
        let cancelled = self.released.child_token();
        let begun = ClassicTransaction::begin(docker, &self.info, attempts, cancelled, &graph, options).await?;
        Ok(Box::new(begun))
    }

    /// dockerd keeps nothing of an archive that it did not get to the end of.
    async fn suspend(&self, _: &Digest) -> Result<(), EngineError> {
        self.release().await
    }

    async fn release(&self) -> Result<(), EngineError> {
        self.released.cancel();
        Ok(())
    }
}
