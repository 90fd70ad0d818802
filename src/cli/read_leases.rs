//! Leases on the images that a command reads.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::join_all;

use super::engine;
use crate::daemon::Signals;
use crate::engine::{Engine, Lease};
use crate::image::Graph;

/// The leases of a command, which keep images while it reads them.
#[derive(Debug, Default)]
pub(super) struct ReadLeases(Mutex<Vec<Arc<dyn Lease>>>);

impl ReadLeases {
    /// Leases `graph` for `command`. If that fails, as on a read-only disk, the image is read without a lease.
    pub(super) async fn add(&self, engine: &dyn Engine, graph: &Arc<Graph>, command: &str) {
        match engine.read_lease(&engine::origin(command), graph).await {
            Ok(held) => self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(held),
            Err(error) => tracing::debug!(%error, "an image is read without a lease"),
        }
    }

    /// Releases the leases; to be called on every exit path. A signal ends the wait at once, because the engine may have
    /// stopped responding.
    pub(super) async fn end(&self) {
        let Ok(mut signals) = Signals::new() else { return self.end_before(std::future::pending()).await };
        self.end_before(async { _ = signals.next().await }).await;
    }

    async fn end_before(&self, stop: impl Future<Output = ()>) {
        let held = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let release = async |held: Arc<dyn Lease>| {
            if let Err(error) = held.release().await {
                tracing::debug!(%error, "a lease is released at the next start, or expires");
            }
        };
        tokio::select! {
            _ = join_all(held.into_iter().map(release)) => {}
            () = stop => tracing::debug!("the leases are released at the next start, or expire"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::engine::fixture::Stuck;

    #[tokio::test]
    async fn a_lease_that_an_engine_does_not_release_ends_at_a_signal() {
        let stuck = Stuck::default();
        let held = ReadLeases(Mutex::new(vec![Arc::new(stuck.clone()), Arc::new(stuck.clone())]));
        let released = stuck.released.clone();
        let all_requested = async {
            while released.load(Ordering::Relaxed) < 2 {
                tokio::task::yield_now().await;
            }
        };
        held.end_before(all_requested).await;
        assert_eq!(stuck.released.load(Ordering::Relaxed), 2);
    }
}
