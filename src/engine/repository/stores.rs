//! The stores of a repository, and their collector.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::spawn_blocking;

use super::super::local::{BlobStore, Collected, GRACE, LeaseStore, NameIndex, collect};
use crate::engine::EngineError;

/// How long after the grace period of blobs the next collection runs, so that all of them are old enough then.
const MARGIN: Duration = Duration::from_secs(60);

/// The stores of one repository.
#[derive(Debug)]
pub(super) struct Stores {
    pub(super) blobs: Arc<BlobStore>,
    pub(super) names: NameIndex,
    pub(super) leases: LeaseStore,
    /// Whether a collection is scheduled.
    is_to_collect: AtomicBool,
}

impl Stores {
    pub(super) fn new((blobs, names, leases): (Arc<BlobStore>, NameIndex, LeaseStore)) -> Arc<Self> {
        Arc::new(Self { blobs, names, leases, is_to_collect: AtomicBool::default() })
    }

    /// Runs blocking work off the reactor.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Self>) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let this = self.clone();
        self.blobs.run("working on it", move || work(&this)).await
    }

    /// Runs the collector. Blocks.
    pub(super) fn collect(&self) -> Result<Collected, EngineError> {
        collect(&self.blobs, &self.names, &self.leases)
    }

    /// Schedules a collection for when the grace period of current garbage has ended, while the repository is open.
    pub(super) fn collect_later(self: &Arc<Self>) {
        if self.is_to_collect.swap(true, Ordering::AcqRel) {
            return;
        }
        let weak = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(GRACE + MARGIN).await;
                let Some(stores) = weak.upgrade() else { return };
                // Later garbage needs another collection.
                stores.is_to_collect.store(false, Ordering::Release);
                match spawn_blocking(move || stores.collect()).await {
                    Ok(Ok(Collected { is_more: false, .. })) | Err(_) => return,
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => tracing::warn!(%error, "nothing was collected"),
                }
                let Some(stores) = weak.upgrade() else { return };
                if stores.is_to_collect.swap(true, Ordering::AcqRel) {
                    return;
                }
            }
        });
    }
}
