//! What takes the place of a lease: a classic store has none.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::Classic;
use super::transaction::{Attempts, ClassicTransaction};
use crate::engine::docker::Info;
use crate::engine::{EngineError, EngineKind, ImageTransaction, Lease, TransactionOptions};
use crate::image::{Digest, Graph};

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

#[async_trait]
impl Lease for ClassicLease {
    fn engine(&self) -> &'static str {
        EngineKind::DockerClassic.name()
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
