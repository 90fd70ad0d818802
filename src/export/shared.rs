//! What all exports into one engine share, and the release of their leases.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::engine::{Engine, EngineError, Lease};
use crate::image::Limits;
use crate::net::Principal;

use super::live::LiveExports;
use super::policy::NamePolicy;
use super::single_flight::SingleFlight;

/// How long to wait before the release of a lease is tried again in an engine that went away: the first time, and at most.
const RELEASE_PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// How often it is tried. With the pauses this is most of a lease's life, which ends by itself after eight hours.
const RELEASE_TRIES: usize = 800;

/// What all exports into one engine share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) flights: SingleFlight,
    pub(super) limits: Limits,
    pub(super) policy: NamePolicy,
    pub(super) live: LiveExports,
    pub(super) tasks: TaskTracker,
    /// Whether what a cancelled export has sent is kept for the next one.
    pub(super) keeping: AtomicBool,
    /// Cancelled when engines that went away are no longer waited for.
    pub(super) closing: CancellationToken,
}

impl Shared {
    pub(super) fn policy(&self, principal: &Principal) -> &NamePolicy {
        self.policy.of(principal)
    }

    /// Releases `lease` in the background.
    pub(super) fn release(&self, lease: Arc<dyn Lease>) {
        self.release_by(move || {
            let lease = lease.clone();
            async move { lease.release().await }
        });
    }

    pub(super) fn release_by<F>(&self, release: impl Fn() -> F + Send + 'static)
    where
        F: Future<Output = Result<(), EngineError>> + Send,
    {
        let closing = self.closing.clone();
        self.tasks.spawn(async move { self::release(release, closing).await });
    }
}

/// Releases a lease, however long it takes the engine to come back from a restart or from a full disk. A lease that is
/// not released when the daemon ends is found by its next start, or expires by itself.
async fn release<F>(release: impl Fn() -> F, closing: CancellationToken)
where
    F: Future<Output = Result<(), EngineError>>,
{
    let (mut pause, longest) = RELEASE_PAUSES;
    for _ in 0..RELEASE_TRIES {
        let Err(error) = release().await else { return };
        tracing::debug!(%error, ?pause, "a lease could not be released");
        if closing.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            break;
        }
        pause = longest.min(pause * 2);
    }
    tracing::warn!("a lease could not be released; the next start does it, or it expires by itself");
}
