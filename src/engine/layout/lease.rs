//! A lease of a layout, as the engine hands it out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use tokio::task::spawn_blocking;

use super::blob_store::BlobStore;
use super::gc::{collect, collect_later};
use super::ingests::LayoutIngests;
use super::lease_file::{LeaseFile, Owner};
use super::lock;
use super::pins::Pins;
use super::transaction::{LayoutTransaction, plan};
use crate::engine::ingest::IngestManager;
use crate::engine::{EngineError, ImageTransaction, Lease, Pin, Plan, TransactionOptions};
use crate::image::{Descriptor, Digest, Graph};

/// A lease. Clones are one.
#[derive(Debug, Clone)]
pub(super) struct LayoutLease {
    pub(super) blobs: Arc<BlobStore>,
    pub(super) pins: Arc<Pins>,
    pub(super) export: String,
    ingests: LayoutIngests,
    done: Arc<Mutex<Done>>,
}

/// What its transactions came to.
#[derive(Debug, Default)]
struct Done {
    /// Whether images lost their names to one of them.
    has_replaced: bool,
    is_committed: bool,
}

impl LayoutLease {
    /// Creates the lease of `export`, which belongs to `owner`, or opens a durable one again. Blocks.
    pub(super) fn open(blobs: &Arc<BlobStore>, export: &str, owner: &Owner) -> Result<Self, EngineError> {
        let _lock = lock::shared(&blobs.paths)?;
        let file = LeaseFile::open(&blobs.disk, &blobs.paths.lease(export), owner);
        let file = file.map_err(|error| blobs.paths.failed("making a lease", &error))?;
        let pins = Arc::new(Pins::new(blobs.clone(), file, export.to_owned()));
        let ingests = LayoutIngests::new(blobs.clone(), pins.clone(), export.to_owned());
        Ok(Self { blobs: blobs.clone(), pins, export: export.to_owned(), ingests, done: Arc::default() })
    }

    fn done(&self) -> MutexGuard<'_, Done> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A transaction was committed; `has_replaced` tells whether images lost their names to it.
    pub(super) fn committed(&self, has_replaced: bool) {
        let mut done = self.done();
        done.has_replaced |= has_replaced;
        done.is_committed = true;
    }

    /// Whether a blob that is pinned is there. Blocks.
    pub(super) fn is_there(&self, blob: &Descriptor) -> bool {
        self.blobs.pin(&blob.digest, Some(blob.size), &self.export).is_some()
    }

    /// Runs file work off the reactor.
    pub(super) async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let this = self.clone();
        let done = spawn_blocking(move || work(&this)).await;
        done.unwrap_or_else(|_| Err(self.blobs.paths.refuse("the export broke off")))
    }

    /// Whether something is left that will be collected later.
    fn end(&self) -> Result<bool, EngineError> {
        let failed = |error: std::io::Error| self.blobs.paths.failed("releasing an export", &error);
        self.ingests.clear().map_err(failed)?;
        let marks = self.blobs.release(&self.export, &self.pins.all());
        self.blobs.disk.remove(&self.blobs.paths.lease(&self.export)).map_err(failed)?;
        let (has_replaced, is_committed) = {
            let mut done = self.done();
            (std::mem::take(&mut done.has_replaced), std::mem::replace(&mut done.is_committed, true))
        };
        // What an export brought that failed is needed by nothing from now on, as is what lost its name.
        if !has_replaced && (is_committed || !marks.has_written) {
            return Ok(false);
        }
        // The image is there whatever comes of this.
        match collect(&self.blobs) {
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

impl Lease for LayoutLease {
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
            let begun = self.work(move |this| LayoutTransaction::begin(this.clone(), graph)).await?;
            Ok(Box::new(begun) as Box<dyn ImageTransaction>)
        })
    }

    /// Complete blobs get their names, where the next export finds them and the collector leaves them for an hour;
    /// the part of a large one stays as it is.
    fn suspend<'a>(&'a self, _: &'a Digest) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(async move {
            if let Err(error) = self.blobs.flush().await {
                tracing::debug!(%error, "small blobs of the export are sent again");
            }
            self.release().await
        })
    }

    fn release(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            if self.work(Self::end).await? {
                collect_later(&self.blobs);
            }
            Ok(())
        })
    }
}
