//! What processes that were killed left in an engine: every command that opens it releases that.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use crate::engine::{Abandoned, Engine};
use crate::image::Digest;

/// How long an engine is waited for at the end of a command, beside what it asks for.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was found when the command began.
#[derive(Debug)]
pub(super) struct AbandonedLeases {
    engine: Arc<dyn Engine>,
    found: Abandoned,
    at: Instant,
}

impl AbandonedLeases {
    /// Looks. What cannot be found out is left to the next command.
    pub(super) async fn of(engine: &Arc<dyn Engine>) -> Self {
        let found = engine.abandoned().await.unwrap_or_else(|error| {
            tracing::debug!(%error, "it is not known what killed processes left");
            Abandoned::default()
        });
        Self { engine: engine.clone(), found, at: Instant::now() }
    }

    /// Releases it, and what an interrupted export kept of an image of these `roots`, which is there now. Only at the end:
    /// what the command exports may be in it, and is then not sent again.
    pub(super) async fn release(self, roots: &[Digest]) {
        let of_use = self.found.kept.iter().filter(|(_, root)| roots.contains(root)).map(|(lease, _)| lease);
        let leases: Vec<_> = self.found.leases.iter().chain(of_use).cloned().collect();
        if leases.is_empty() {
            return;
        }
        if !self.found.leases.is_empty() {
            sleep_until(self.at + self.found.grace).await;
        }
        match timeout(PATIENCE, self.engine.release_abandoned(&leases)).await {
            Ok(Ok(())) => tracing::debug!(?leases, "released what killed processes left"),
            // It may be a layout that can only be read.
            Ok(Err(error)) => tracing::debug!(%error, "what killed processes left stays"),
            Err(_) => tracing::debug!("what killed processes left stays: the engine does not answer"),
        }
    }
}
