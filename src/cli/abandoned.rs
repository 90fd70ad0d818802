//! Leases that killed processes left in an engine. Every command that opens the engine releases them.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use crate::engine::{Abandoned, Engine};
use crate::image::Digest;

/// How long to wait for the engine at the end of a command, beside the grace it asks for.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The leases found when the command began.
#[derive(Debug)]
pub(super) struct AbandonedLeases {
    engine: Arc<dyn Engine>,
    found: Abandoned,
    at: Instant,
}

impl AbandonedLeases {
    /// Finds them. If the engine cannot be asked, that is left to the next command.
    pub(super) async fn of(engine: &Arc<dyn Engine>) -> Self {
        let found = match engine.persistent_leases() {
            Some(leases) => leases.abandoned().await.unwrap_or_else(|error| {
                tracing::debug!(%error, "leases of killed processes are unknown");
                Abandoned::default()
            }),
            None => Abandoned::default(),
        };
        Self { engine: engine.clone(), found, at: Instant::now() }
    }

    /// Releases them, and the leases that interrupted exports of these `roots` kept. To be called at the end of the command:
    /// until then the leases keep blobs that the command need not send again.
    pub(super) async fn release(self, roots: &[Digest]) {
        let of_use = self.found.kept.iter().filter(|(_, root)| roots.contains(root)).map(|(lease, _)| lease);
        let leases: Vec<_> = self.found.leases.iter().chain(of_use).cloned().collect();
        let Some(engine) = self.engine.persistent_leases().filter(|_| !leases.is_empty()) else { return };
        if !self.found.leases.is_empty() {
            sleep_until(self.at + self.found.grace).await;
        }
        match timeout(TIMEOUT, engine.release_abandoned(&leases)).await {
            Ok(Ok(())) => tracing::debug!(?leases, "released leases of killed processes"),
            // A layout may be read-only.
            Ok(Err(error)) => tracing::debug!(%error, "leases of killed processes stay"),
            Err(_) => tracing::debug!("leases of killed processes stay: the engine does not respond"),
        }
    }
}
