//! Watching the versions of caches.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::time::{MissedTickBehavior, interval};

use super::{CacheError, CacheEvent, Caches};

/// How often the store is listed while somebody watches.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

impl Caches {
    /// What happens to versions from now on. A watcher that reads slowly misses the oldest events, and gets their number.
    ///
    /// # Errors
    /// When the engine cannot be queried.
    pub async fn watch(self: &Arc<Self>) -> Result<broadcast::Receiver<CacheEvent>, CacheError> {
        let _beginning = self.events.beginning.lock().await;
        if let Some(receiver) = self.events.joined() {
            return Ok(receiver);
        }
        let _changes = self.changes.lock().await;
        let receiver = self.events.begun(self.versions(None).await?);
        tokio::spawn(list_regularly(Arc::downgrade(self)));
        Ok(receiver)
    }
}

/// Lists the store until nobody watches.
async fn list_regularly(caches: Weak<Caches>) {
    let mut ticks = interval(POLL_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let Some(caches) = caches.upgrade() else { return };
        if caches.events.is_over() {
            return;
        }
        // Nothing is deleted by this process meanwhile.
        let _changes = caches.changes.lock().await;
        match caches.versions(None).await {
            Ok(versions) => caches.events.listed(versions),
            Err(error) => {
                tracing::debug!(%error, "build caches cannot be listed: changes by other processes are reported later")
            }
        }
    }
}
