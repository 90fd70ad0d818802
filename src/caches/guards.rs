//! Which versions are being read: those are deleted only when their last reader has ended.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use crate::engine::EngineError;
use crate::engine::caches::CacheStore;

/// The versions that this process reads.
#[derive(Debug)]
pub(super) struct Guards {
    store: Arc<dyn CacheStore>,
    state: Mutex<GuardState>,
    /// Versions that are being deleted, as their last reader has ended.
    deleting: TaskTracker,
}

#[derive(Debug, Default)]
struct GuardState {
    readers: HashMap<String, usize>,
    /// To be deleted when nobody reads them.
    retired: HashSet<String>,
}

impl Guards {
    pub(super) fn new(store: Arc<dyn CacheStore>) -> Arc<Self> {
        Arc::new(Self { store, state: Mutex::default(), deleting: TaskTracker::new() })
    }

    fn state(&self) -> MutexGuard<'_, GuardState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a version until the guard is dropped.
    pub(super) fn guard(self: &Arc<Self>, id: &str) -> VersionGuard {
        *self.state().readers.entry(id.to_owned()).or_default() += 1;
        VersionGuard { guards: self.clone(), id: id.to_owned() }
    }

    /// Deletes versions, those that are being read later.
    pub(super) async fn retire(&self, ids: Vec<String>) -> Result<(), EngineError> {
        let (later, now): (Vec<_>, Vec<_>) = {
            let mut state = self.state();
            let (later, now): (Vec<_>, Vec<_>) = ids.into_iter().partition(|id| state.readers.contains_key(id));
            state.retired.extend(later.iter().cloned());
            (later, now)
        };
        if !later.is_empty() {
            tracing::debug!(?later, "versions of caches are deleted when the builds that read them have ended");
        }
        if now.is_empty() { Ok(()) } else { self.store.delete(&now).await }
    }

    /// Waits until the versions are deleted that nobody reads any more.
    pub(super) async fn finish(&self) {
        self.deleting.close();
        self.deleting.wait().await;
    }

    /// Whether a version is only waiting for its readers.
    pub(super) fn is_retired(&self, id: &str) -> bool {
        self.state().retired.contains(id)
    }
}

/// Keeps a version of a cache from being deleted by this process.
#[derive(Debug)]
pub struct VersionGuard {
    guards: Arc<Guards>,
    id: String,
}

impl Drop for VersionGuard {
    fn drop(&mut self) {
        let is_due = {
            let mut state = self.guards.state();
            let left = state.readers.get_mut(&self.id).map(|readers| {
                *readers -= 1;
                *readers
            });
            if left != Some(0) {
                return;
            }
            state.readers.remove(&self.id);
            state.retired.contains(&self.id)
        };
        let (guards, id) = (self.guards.clone(), std::mem::take(&mut self.id));
        // Without a runtime the process is ending: the version is deleted when its part is exported next.
        let Some(runtime) = Handle::try_current().ok().filter(|_| is_due) else { return };
        let deleting = guards.deleting.clone();
        let delete = async move {
            if let Err(error) = guards.store.delete(std::slice::from_ref(&id)).await {
                tracing::warn!(%error, id, "a superseded version of a cache stays until its part is exported next");
            }
            // Kept among the retired until it is deleted, so that no listing has it meanwhile.
            guards.state().retired.remove(&id);
        };
        deleting.spawn_on(delete, &runtime);
    }
}
