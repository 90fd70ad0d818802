//! What all exports into one engine share, and the release of their leases.

use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::activity::Activities;
use crate::engine::{self, Engine, EngineError, Lease, OpenLeases};
use crate::image::{Descriptor, Limits, Reference};
use crate::net::Principal;

use super::ExportError;
use super::live::LiveExports;
use super::name_locks::{HeldNames, NameLocks};
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
    /// How many were cancelled and no longer waited for, while the engine was setting their names.
    pub(super) unfinished: AtomicUsize,
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

    /// [`Engine::already_complete`], while nobody else sets one of `names`: an engine may set them again as what they are. Dropping
    /// the future does not end that; `held` are the names if the caller has them already.
    pub(super) async fn already_complete(
        &self,
        root: &Descriptor,
        names: &[Reference],
        held: Option<Arc<HeldNames>>,
    ) -> Result<Option<usize>, ExportError> {
        if names.is_empty() {
            return Ok(None);
        }
        let held = match held {
            Some(held) => held,
            None => Arc::new(self.names.hold(names).await?),
        };
        let (engine, root, names) = (self.engine.clone(), root.clone(), names.to_vec());
        let looking = async move {
            let found = engine.already_complete(&root, &names).await;
            drop(held);
            found
        };
        let found = tokio::spawn(looking.in_current_span()).await;
        Ok(found.map_err(|error| ExportError::Broken(error.to_string()))??)
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
