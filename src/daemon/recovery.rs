//! What an earlier process may have left, at the start of a daemon.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::caches::Caches;
use crate::engine::Engine;

/// How long the doors stay closed for [`clean_up`], which then continues in the background.
const CLEAN_UP_TIMEOUT: Duration = Duration::from_secs(2);

/// Starts [`clean_up`], which usually ends at once. A slow engine, or a lock that another process holds, does not keep the
/// doors closed.
pub(super) async fn start_clean_up(engine: Arc<dyn Engine>, caches: Option<Arc<Caches>>) -> AbortOnDropHandle<()> {
    let mut clean_up = AbortOnDropHandle::new(tokio::spawn(clean_up(engine, caches)));
    let _ = tokio::time::timeout(CLEAN_UP_TIMEOUT, &mut clean_up).await;
    clean_up
}

/// Releases the leases and removes the unfinished caches of an earlier process. Failures do not stop the daemon: the
/// next start retries, and leases expire.
async fn clean_up(engine: Arc<dyn Engine>, caches: Option<Arc<Caches>>) {
    match engine.recover().await {
        Ok(0) => {}
        Ok(leases) => info!(leases, "an earlier process left something behind, which is released"),
        Err(error) => warn!(%error, "what an earlier process may have left behind stays for now"),
    }
    if let Some(caches) = caches
        && let Err(error) = caches.start().await
    {
        warn!(%error, "unfinished build caches, and those beyond the limits, stay for now");
    }
}
