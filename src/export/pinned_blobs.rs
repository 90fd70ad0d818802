//! Blobs that stay for somebody who reads them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Exports;
use crate::engine::{EngineError, Lease, Lifetime, Origin, Pin};

/// Blobs that are leased until this is dropped, although another process deletes what they belong to.
#[derive(Debug)]
pub(crate) struct PinnedBlobs {
    exports: Arc<Exports>,
    leases: Mutex<Vec<Arc<dyn Lease>>>,
    /// How many leases there were.
    begun: AtomicUsize,
}

impl PinnedBlobs {
    /// No lease yet.
    pub(crate) fn new(exports: &Arc<Exports>) -> Arc<Self> {
        Arc::new(Self { exports: exports.clone(), leases: Mutex::default(), begun: AtomicUsize::default() })
    }

    /// Pins blobs, and returns the sizes of those that are there.
    ///
    /// # Errors
    /// When the engine refuses.
    pub(crate) async fn pin(&self, origin: &Origin, pins: &[Pin]) -> Result<Vec<Option<u64>>, EngineError> {
        let (lease, sizes) = pinned(&self.exports, &self.next(origin), pins).await?;
        self.add(lease);
        Ok(sizes)
    }

    /// Pins blobs beside the reader, so that it does not wait for synced writes of the engine. `kept` keeps them until they are
    /// pinned, or cannot be.
    pub(crate) fn keep<T: Send + 'static>(self: &Arc<Self>, origin: Origin, pins: Vec<Pin>, kept: T) {
        if pins.is_empty() {
            return;
        }
        let (exports, leases, origin) = (self.exports.clone(), Arc::downgrade(self), self.next(&origin));
        self.exports.clean_up(async move {
            let _kept = kept;
            match pinned(&exports, &origin, &pins).await {
                Ok((lease, _)) => match leases.upgrade() {
                    Some(leases) => leases.add(lease),
                    None => exports.release(lease),
                },
                // What the blobs belong to has a lease of its own all the same.
                Err(error) => tracing::debug!(%error, "what is read of caches has no lease of its own"),
            }
        });
    }

    /// The origin of another lease: no two leases have one id.
    fn next(&self, origin: &Origin) -> Origin {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        Origin { export: format!("{}-{number}", origin.export), ..origin.clone() }
    }

    fn add(&self, lease: Arc<dyn Lease>) {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner).push(lease);
    }
}

impl Drop for PinnedBlobs {
    fn drop(&mut self) {
        for lease in std::mem::take(self.leases.get_mut().unwrap_or_else(PoisonError::into_inner)) {
            self.exports.release(lease);
        }
    }
}

/// A new lease with `pins`, and the sizes of those that are there.
async fn pinned(
    exports: &Exports,
    origin: &Origin,
    pins: &[Pin],
) -> Result<(Arc<dyn Lease>, Vec<Option<u64>>), EngineError> {
    let lease = exports.lease(origin, Lifetime::Process).await?;
    match lease.pin(pins).await {
        Ok(sizes) => Ok((lease, sizes)),
        Err(error) => {
            exports.release(lease);
            Err(error)
        }
    }
}
