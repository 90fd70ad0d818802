//! Holding what a command reads.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::join_all;

use super::engine;
use crate::daemon::Signals;
use crate::engine::{Engine, Lease};
use crate::image::Graph;

/// What a command holds of engines, so that nobody deletes it while it is read.
#[derive(Debug, Default)]
pub(super) struct ReadLeases(Mutex<Vec<Arc<dyn Lease>>>);

impl ReadLeases {
    /// Holds `graph` for `command`. Where that cannot be done, as on a disk that cannot be written, it is read all the
    /// same.
    pub(super) async fn add(&self, engine: &dyn Engine, graph: &Arc<Graph>, command: &str) {
        match engine.read_lease(&engine::origin(command), graph).await {
            Ok(held) => self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(held),
            Err(error) => tracing::debug!(%error, "an image is read without being held"),
        }
    }

    /// Gives up what is held; to be called however the command ends. A signal that comes then is obeyed at once: the
    /// engine may have stopped answering.
    pub(super) async fn end(&self) {
        let Ok(mut signals) = Signals::new() else { return self.end_before(std::future::pending()).await };
        self.end_before(async { _ = signals.next().await }).await;
    }

    async fn end_before(&self, stop: impl Future<Output = ()>) {
        let held = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let release = async |held: Arc<dyn Lease>| {
            if let Err(error) = held.release().await {
                tracing::debug!(%error, "what was held is released by the next start, or by itself");
            }
        };
        tokio::select! {
            _ = join_all(held.into_iter().map(release)) => {}
            () = stop => tracing::debug!("what is held is released by the next start, or by itself"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::engine::stuck::Stuck;

    #[tokio::test]
    async fn a_hold_that_an_engine_does_not_release_ends_at_a_signal() {
        let stuck = Stuck::default();
        let held = ReadLeases(Mutex::new(vec![Arc::new(stuck.clone()), Arc::new(stuck.clone())]));
        let released = stuck.released.clone();
        let all_asked = async {
            while released.load(Ordering::Relaxed) < 2 {
                tokio::task::yield_now().await;
            }
        };
        held.end_before(all_asked).await;
        assert_eq!(stuck.released.load(Ordering::Relaxed), 2);
    }
}
