//! What takes the place of a lease: a classic store has none.

use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
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

impl Lease for ClassicLease {
    fn pin<'a>(&'a self, _: &'a [Pin]) -> BoxFuture<'a, Result<Vec<Option<u64>>, EngineError>> {
        Box::pin(async { Err(not_offered()) })
    }

    fn pin_graph<'a>(&'a self, _: &'a Arc<Graph>) -> BoxFuture<'a, Result<Vec<Descriptor>, EngineError>> {
        Box::pin(async { Err(not_offered()) })
    }

    fn pinned(&self) -> BoxFuture<'_, Result<Vec<Digest>, EngineError>> {
        Box::pin(async { Err(not_offered()) })
    }

    fn unpin<'a>(&'a self, _: &'a Digest) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(async { Err(not_offered()) })
    }

    fn ingests(&self) -> Result<&dyn IngestManager, EngineError> {
        Err(not_offered())
    }

    fn begin(
        self: Arc<Self>,
        graph: Arc<Graph>,
        options: TransactionOptions,
    ) -> BoxFuture<'static, Result<Box<dyn ImageTransaction>, EngineError>> {
        Box::pin(async move {
            let (docker, attempts) = (self.docker.clone(), self.attempts.clone());
            let cancelled = self.released.child_token();
            let begun = ClassicTransaction::begin(docker, &self.info, attempts, cancelled, &graph, options).await?;
            Ok(Box::new(begun) as Box<dyn ImageTransaction>)
        })
    }

    /// dockerd keeps nothing of an archive that it did not get to the end of.
    fn suspend<'a>(&'a self, _: &'a Digest) -> BoxFuture<'a, Result<(), EngineError>> {
        self.release()
    }

    fn release(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        self.released.cancel();
        Box::pin(async { Ok(()) })
    }
}
