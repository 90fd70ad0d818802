//! The blobs of one export: where they are kept, and who writes them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::scope::{Labels, Scope, Times};
use crate::activity::{Activities, Activity, Arrival};
use crate::engine::images::Images;
use crate::engine::ingest::IngestManager;
use crate::engine::{EngineError, Lease, OpenLeases};
use crate::export_v1::ApiError;
use crate::image::Digest;

/// The blobs of one export.
#[derive(Debug)]
pub(crate) struct ExportContent {
    /// The export's id.
    pub(crate) id: String,
    /// What keeps its blobs.
    pub(crate) lease: Arc<dyn Lease>,
    /// The engine's images and blobs, to be read.
    pub(crate) images: Arc<dyn Images>,
    /// Cancelled when the export ends.
    pub(crate) cancel: CancellationToken,
    /// The writes that are under way.
    pub(crate) writers: TaskTracker,
    /// Held for reading while blobs are taken out of the scope, and by a Commit that waits for the end of that.
    pub(crate) deleting: tokio::sync::RwLock<()>,
    scope: Mutex<Scope>,
    /// The door, for whoever counts what comes.
    door: &'static str,
    activities: Activities,
    leases: OpenLeases,
    /// Whether what the engine has already is told when it is found, for that no Commit tells of it.
    tells_found: bool,
    is_released: AtomicBool,
}

impl ExportContent {
    pub(crate) fn new(id: String, lease: Arc<dyn Lease>, images: Arc<dyn Images>) -> Self {
        let (cancel, writers) = (CancellationToken::new(), TaskTracker::new());
        let (deleting, scope, activities, leases, is_released) = Default::default();
        let (door, tells_found) = ("", false);
        Self { id, lease, images, cancel, writers, deleting, scope, door, activities, leases, tells_found, is_released }
    }

    /// Tells `activities` what comes through `door`, and removes the lease from `leases` when it is released.
    #[must_use]
    pub(crate) fn counted(self, door: &'static str, activities: &Activities, leases: &OpenLeases) -> Self {
        Self { door, activities: activities.clone(), leases: leases.clone(), ..self }
    }

    /// The same, and what is found.
    #[must_use]
    pub(crate) fn with_found(self) -> Self {
        Self { tells_found: true, ..self }
    }

    /// Takes a blob into the scope that the engine has already.
    pub(crate) fn found(&self, digest: &Digest, size: u64, labels: Labels) -> Result<(), ApiError> {
        let is_new = {
            let mut scope = self.scope();
            let is_new = scope.get(digest).is_none();
            scope.add(digest.clone(), size, labels)?;
            is_new
        };
        if is_new && self.tells_found {
            self.arrived(Arrival::Present, size);
        }
        Ok(())
    }

    /// A blob has come, `bytes` of it now.
    pub(crate) fn arrived(&self, how: Arrival, bytes: u64) {
        self.activities.emit(Activity::Blobs { door: self.door, how, blobs: 1, bytes });
    }

    /// Releases the lease.
    pub(crate) async fn release(&self) -> Result<(), EngineError> {
        self.lease.release().await?;
        self.leases.remove(&self.lease);
        self.is_released.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether [`ExportContent::release`] has succeeded.
    pub(crate) fn is_released(&self) -> bool {
        self.is_released.load(Ordering::Relaxed)
    }

    pub(crate) fn scope(&self) -> MutexGuard<'_, Scope> {
        self.scope.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ingests(&self) -> Result<&dyn IngestManager, EngineError> {
        self.lease.ingests()
    }

    /// Restores when the ingests of an earlier process were begun and last written to.
    pub(crate) async fn restore_times(&self) -> Result<(), EngineError> {
        let ingests = self.ingests()?.statuses().await?;
        let mut scope = self.scope();
        for status in ingests {
            scope.set_times(&status.reference, Times { started: status.started, updated: status.updated });
        }
        Ok(())
    }

    /// Reports that not [all](Scope::restore) blobs of an export of an earlier process are in its scope.
    pub(crate) fn warn_of_incomplete_scope(&self) {
        tracing::warn!(
            export = self.id,
            "a restored export has more blobs than an export may have: its client cannot see all of them"
        );
    }

    /// Ends what is under way and waits for it, so that the lease can be released.
    pub(crate) async fn stop(&self) {
        self.cancel.cancel();
        self.writers.close();
        self.writers.wait().await;
    }
}
