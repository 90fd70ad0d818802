//! What all exports into one engine share, and the release of their leases.

use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::activity::Activities;
use crate::engine::{self, Engine, EngineError, Lease, OpenLeases};
use crate::image::Limits;
use crate::net::Principal;

use super::live::LiveExports;
use super::name_locks::NameLocks;
use super::policy::NamePolicy;
use super::rights::Rights;
use super::single_flight::SingleFlight;

/// What all exports into one engine share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) flights: SingleFlight,
    pub(super) limits: Limits,
    pub(super) policy: NamePolicy,
    /// Names that are being set.
    pub(super) names: NameLocks,
    pub(super) live: LiveExports,
    pub(super) leases: OpenLeases,
    /// Whoever counts what happens.
    pub(super) activities: Activities,
    pub(super) tasks: TaskTracker,
    /// Whether what a cancelled export has sent is kept for the next one.
    pub(super) keeping: AtomicBool,
    /// How many exports have succeeded.
    pub(super) completed: AtomicUsize,
    /// What the last export that was cancelled has left of its names, if anything.
    pub(super) names_left: Mutex<Option<String>>,
    /// Cancelled when engines that went away are no longer waited for.
    pub(super) closing: CancellationToken,
}

impl Shared {
    pub(super) fn policy(&self, principal: &Principal) -> Rights<'_> {
        self.policy.of(principal)
    }

    pub(super) fn names_left(&self) -> MutexGuard<'_, Option<String>> {
        self.names_left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note_names_left(&self, left: String) {
        *self.names_left() = Some(left);
    }

    /// Releases `lease`, which could not be released just now, in the background, unless this process ends.
    pub(super) fn release_later(&self, lease: Arc<dyn Lease>) {
        if self.closing.is_cancelled() {
            tracing::warn!("the lease of an export could not be released; the next start does it");
        } else {
            self.release(lease);
        }
    }

    /// Releases `lease` in the background.
    pub(super) fn release(&self, lease: Arc<dyn Lease>) {
        let leases = self.leases.clone();
        self.release_by(move || {
            let (lease, leases) = (lease.clone(), leases.clone());
            async move {
                lease.release().await?;
                leases.remove(&lease);
                Ok(())
            }
        });
    }

    pub(super) fn release_by<F>(&self, release: impl Fn() -> F + Send + 'static)
    where
        F: Future<Output = Result<(), EngineError>> + Send,
    {
        let closing = self.closing.clone();
        self.tasks.spawn(async move { engine::release("the lease of an export", closing, release).await });
    }
}
