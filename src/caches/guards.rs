//! Which versions are being read: what is deleted of those is kept by a lease until their last reader has ended.
//!
//! A version that is deleted is gone at once, for every process, and stays so if this one is killed. What readers still need
//! of it belongs to a lease of this process, which the next start releases if nobody else does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::engine::caches::CacheStore;
use crate::engine::{self, EngineError, Lease};

/// The versions that this process reads.
#[derive(Debug)]
pub(super) struct Guards {
    store: Arc<dyn CacheStore>,
    readers: Mutex<HashMap<String, Reader>>,
    /// Leases that are being created or released.
    tasks: TaskTracker,
    /// Cancelled when an engine that went away is no longer waited for.
    closing: CancellationToken,
}

/// Who reads one version.
#[derive(Debug, Default)]
struct Reader {
    guards: usize,
    /// Keep its blobs since it was deleted.
    leases: Vec<Arc<VersionLease>>,
}

impl Guards {
    pub(super) fn new(store: Arc<dyn CacheStore>, closing: CancellationToken) -> Arc<Self> {
        Arc::new(Self { store, readers: Mutex::default(), tasks: TaskTracker::new(), closing })
    }

    fn readers(&self) -> MutexGuard<'_, HashMap<String, Reader>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what a version has until the guard is dropped, if this process deletes it.
    pub(super) fn guard(self: &Arc<Self>, id: &str) -> VersionGuard {
        self.readers().entry(id.to_owned()).or_default().guards += 1;
        VersionGuard { guards: self.clone(), id: id.to_owned() }
    }

    /// Deletes versions. The blobs of those that are being read stay until their last reader has ended.
    pub(super) async fn delete(&self, ids: &[String]) -> Result<(), EngineError> {
        let read: Vec<_> = {
            let readers = self.readers();
            ids.iter().filter(|id| readers.contains_key(*id)).cloned().collect()
        };
        // Until the end of the deletion, also if the last reader ends before it.
        let _kept = match read.is_empty() {
            true => None,
            false => self.keep(&read).await?,
        };
        self.store.delete(ids).await
    }

    /// Leases versions that are deleted next, for their readers.
    async fn keep(&self, read: &[String]) -> Result<Option<Arc<VersionLease>>, EngineError> {
        let Some(lease) = self.lease(read.to_vec(), true).await?.map(Arc::new) else { return Ok(None) };
        tracing::debug!(?read, "deleted versions of caches are kept until the builds that read them have ended");
        let mut readers = self.readers();
        for id in read {
            if let Some(reader) = readers.get_mut(id) {
                reader.leases.push(lease.clone());
            }
        }
        Ok(Some(lease))
    }

    /// A lease on versions, whoever deletes them.
    pub(super) async fn lease(&self, ids: Vec<String>, is_deletion: bool) -> Result<Option<VersionLease>, EngineError> {
        let (store, tasks, closing) = (self.store.clone(), self.tasks.clone(), self.closing.clone());
        // To its end even if nobody waits for it any more: a lease that was created must come into our hands.
        let leasing = self.tasks.spawn(async move {
            let lease = store.lease(&ids, is_deletion).await?;
            Ok(lease.map(|lease| VersionLease { lease, tasks, closing }))
        });
        let broken = |error: tokio::task::JoinError| EngineError::Protocol {
            operation: "leasing a build cache".to_owned(),
            reason: error.to_string(),
        };
        leasing.await.map_err(broken)?
    }

    /// Waits until the leases are released that nobody needs any more.
    pub(super) async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Keeps what a version of a cache has from being deleted by this process.
#[derive(Debug)]
pub struct VersionGuard {
    guards: Arc<Guards>,
    id: String,
}

impl Drop for VersionGuard {
    fn drop(&mut self) {
        let mut readers = self.guards.readers();
        let Some(reader) = readers.get_mut(&self.id) else { return };
        reader.guards -= 1;
        let ended = if reader.guards == 0 { readers.remove(&self.id) } else { None };
        drop(readers);
        // Releases its leases.
        drop(ended);
    }
}

/// Keeps what versions of a cache have from being deleted by any process, until this is dropped.
#[derive(Debug)]
pub(super) struct VersionLease {
    lease: Arc<dyn Lease>,
    tasks: TaskTracker,
    closing: CancellationToken,
}

impl Drop for VersionLease {
    fn drop(&mut self) {
        // Without a runtime the process is ending, and a later one releases it.
        let Ok(runtime) = Handle::try_current() else { return };
        let (lease, closing) = (self.lease.clone(), self.closing.clone());
        let release = async move { engine::release("the lease on a build cache", closing, || lease.release()).await };
        self.tasks.spawn_on(release, &runtime);
    }
}
