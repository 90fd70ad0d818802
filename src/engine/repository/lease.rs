//! Leases of a repository.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ingests::RepositoryIngests;
use super::pins::Pins;
use super::stores::Stores;
use crate::engine::EngineError;
use crate::image::Descriptor;

/// A lease. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct RepositoryLease {
    pub(super) stores: Arc<Stores>,
    pub(super) pins: Arc<Pins>,
    pub(super) export: String,
    pub(super) ingests: RepositoryIngests,
    done: Arc<Mutex<Done>>,
}

/// The outcome of the lease's transactions.
#[derive(Debug, Default)]
struct Done {
    /// Whether a transaction took a name from another image.
    has_replaced: bool,
    is_committed: bool,
}

impl RepositoryLease {
    /// Creates the lease of `export`, which ends with this process, or is durable if there is a `record`. Blocks.
    pub(super) fn open(stores: &Arc<Stores>, export: &str, record: Option<String>) -> Result<Self, EngineError> {
        let pins = Pins::new(stores.blobs.clone(), stores.leases.open(export, record)?, export.to_owned());
        let pins = Arc::new(pins);
        let ingests = RepositoryIngests::new(stores.blobs.clone(), pins.clone(), export);
        Ok(Self { stores: stores.clone(), pins, export: export.to_owned(), ingests, done: Arc::default() })
    }

    fn done(&self) -> MutexGuard<'_, Done> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that what the lease has is complete; `has_replaced` tells whether a root lost its place for it, so that there is
    /// garbage when it ends.
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
    pub(super) fn end(&self) -> Result<bool, EngineError> {
        self.ingests.clear()?;
        let marks = self.stores.blobs.release(&self.export, &self.pins.all());
        self.stores.leases.remove(&self.export)?;
        self.pins.close();
        let (has_replaced, is_committed) = {
            let mut done = self.done();
            (std::mem::take(&mut done.has_replaced), std::mem::replace(&mut done.is_committed, true))
        };
        // Garbage comes from failed exports and from images that lost their names.
        if !has_replaced && (is_committed || !marks.has_written) {
            return Ok(false);
        }
        // An error here does not change the outcome of the export.
        match self.stores.collect() {
            Ok(outcome) => {
                tracing::debug!(?outcome, "collected unreachable blobs");
                Ok(outcome.is_more)
            }
            Err(error) => {
                tracing::warn!(%error, "nothing was collected");
                Ok(true)
            }
        }
    }
}
