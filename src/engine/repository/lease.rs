//! Leases of a repository.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;

use super::ingests::RepositoryIngests;
use super::pins::Pins;
use super::stores::Stores;
use super::transaction::{RepositoryTransaction, plan};
use crate::engine::ingest::IngestManager;
use crate::engine::{EngineError, ImageTransaction, Lease, Pin, Plan, TransactionOptions};
use crate::image::{Descriptor, Digest, Graph};

/// A lease. Clones are one.
#[derive(Debug, Clone)]
pub(super) struct RepositoryLease {
    pub(super) stores: Arc<Stores>,
    pub(super) pins: Arc<Pins>,
    pub(super) export: String,
    ingests: RepositoryIngests,
    done: Arc<Mutex<Done>>,
}

/// The outcome of its transactions.
#[derive(Debug, Default)]
struct Done {
    /// Whether one took a name from another image.
    has_replaced: bool,
    is_committed: bool,
}

impl RepositoryLease {
    /// Creates the lease of `export`, which ends with this process, or with a `record` is durable. Blocks.
    pub(super) fn open(stores: &Arc<Stores>, export: &str, record: Option<String>) -> Result<Self, EngineError> {
        let pins = Pins::new(stores.blobs.clone(), stores.leases.open(export, record)?, export.to_owned());
        let pins = Arc::new(pins);
        let ingests = RepositoryIngests::new(stores.blobs.clone(), pins.clone(), export);
        Ok(Self { stores: stores.clone(), pins, export: export.to_owned(), ingests, done: Arc::default() })
    }

    fn done(&self) -> MutexGuard<'_, Done> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A transaction was committed; `has_replaced` tells whether it took a name from another image.
    pub(super) fn committed(&self, has_replaced: bool) {
        let mut done = self.done();
        done.has_replaced |= has_replaced;
        done.is_committed = true;
    }

    /// Whether a pinned blob is present. Blocks.
    pub(super) fn is_there(&self, blob: &Descriptor) -> bool {
        self.stores.blobs.pin(&blob.digest, Some(blob.size), &self.export).is_some()
    }

    /// Runs file work off the reactor.
    pub(super) async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let this = self.clone();
        self.stores.blobs.run("the export", move || work(&this)).await
    }

    /// Releases the lease. Returns whether a later collection is needed.
    fn end(&self) -> Result<bool, EngineError> {
        self.ingests.clear()?;
        let marks = self.stores.blobs.release(&self.export, &self.pins.all());
        self.stores.leases.remove(&self.export)?;
        let (has_replaced, is_committed) = {
            let mut done = self.done();
            (std::mem::take(&mut done.has_replaced), std::mem::replace(&mut done.is_committed, true))
        };
        // Garbage is what a failed export stored, and images that lost their names.
        if !has_replaced && (is_committed || !marks.has_written) {
            return Ok(false);
        }
        // An error here does not change the outcome of the export.
        match self.stores.collect() {
            Ok(outcome) => {
                tracing::debug!(?outcome, "collected what nobody needs any more");
                Ok(outcome.is_more)
            }
            Err(error) => {
                tracing::warn!(%error, "nothing was collected");
                Ok(true)
            }
        }
    }
}

impl Lease for RepositoryLease {
    fn pin<'a>(&'a self, blobs: &'a [Pin]) -> BoxFuture<'a, Result<Vec<Option<u64>>, EngineError>> {
        let blobs = blobs.to_vec();
        Box::pin(self.work(move |this| this.pins.pin(&blobs)))
    }

    fn pin_graph<'a>(&'a self, graph: &'a Arc<Graph>) -> BoxFuture<'a, Result<Vec<Descriptor>, EngineError>> {
        let graph = graph.clone();
        Box::pin(self.work(move |this| {
            let Plan { present, stored, .. } = plan(this, &graph)?;
            Ok(present.into_iter().chain(stored).collect())
        }))
    }

    fn pinned(&self) -> BoxFuture<'_, Result<Vec<Digest>, EngineError>> {
        Box::pin(self.work(|this| {
            // A lease may also have blobs that were never there.
            let mut found = Vec::new();
            for digest in this.pins.all() {
                if this.pins.find(&Pin::from(&digest))?.is_some() {
                    found.push(digest);
                }
            }
            Ok(found)
        }))
    }

    fn unpin<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<(), EngineError>> {
        let digest = digest.clone();
        Box::pin(self.work(move |this| this.pins.remove(&digest)))
    }

    fn ingests(&self) -> Result<&dyn IngestManager, EngineError> {
        Ok(&self.ingests)
    }

    fn begin(
        self: Arc<Self>,
        graph: Arc<Graph>,
        _: TransactionOptions,
    ) -> BoxFuture<'static, Result<Box<dyn ImageTransaction>, EngineError>> {
        Box::pin(async move {
            let begun = self.work(move |this| RepositoryTransaction::begin(this.clone(), graph)).await?;
            Ok(Box::new(begun) as Box<dyn ImageTransaction>)
        })
    }

    /// Complete blobs get their names, where the next export finds them and the collector leaves them for an hour;
    /// the part of a large one stays as it is.
    fn suspend<'a>(&'a self, _: &'a Digest) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(async move {
            if let Err(error) = self.stores.blobs.flush().await {
                tracing::debug!(%error, "small blobs of the export are sent again");
            }
            self.release().await
        })
    }

    fn release(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            if self.work(Self::end).await? {
                self.stores.collect_later();
            }
            Ok(())
        })
    }
}
