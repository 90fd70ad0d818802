//! The caches of an engine.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::events::{Change, Events};
use super::guards::Guards;
use super::index::Indexes;
use super::{CacheError, CacheLimits, CachePolicy, CacheRef, read_root};
use crate::engine::caches::{CacheStore, CacheVersion};
use crate::engine::images::Images;
use crate::engine::{Engine, EngineError};
use crate::image::cache::CacheRoot;
use crate::image::{Descriptor, Digest};
use crate::net::Principal;

/// How many roots are remembered once they were read.
const ROOTS: usize = 256;

/// What the operator chose.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CacheSettings {
    /// Limits on all caches together.
    pub limits: CacheLimits,
    /// Which refs may be written.
    pub policy: CachePolicy,
    /// Whether the engine's images are read as caches beside a registry's of the same name.
    pub from_engine: bool,
    /// Whether builders on this host import lazily, from a registry on their own loopback.
    pub lazy_import: bool,
}

/// The build caches of an engine.
#[derive(Debug)]
pub struct Caches {
    pub(super) store: Arc<dyn CacheStore>,
    /// The images of the engine, where they can be read: they may have inline caches.
    pub(super) images: Option<Arc<dyn Images>>,
    settings: CacheSettings,
    pub(super) guards: Arc<Guards>,
    pub(super) events: Events,
    /// Held while versions are listed to be read or to be deleted.
    pub(super) changes: tokio::sync::Mutex<()>,
    roots: Mutex<HashMap<Digest, Arc<CacheRoot>>>,
    pub(super) indexes: Indexes,
    /// Exports that were dropped, and are being released.
    pub(super) aborting: TaskTracker,
    /// Cancelled when an engine that went away is no longer waited for.
    pub(super) closing: CancellationToken,
}

impl Caches {
    /// Those of `engine`.
    ///
    /// # Errors
    /// [`EngineError::NotOffered`] where none can be stored.
    pub fn new(engine: &dyn Engine, settings: CacheSettings) -> Result<Arc<Self>, EngineError> {
        let store = engine.caches()?;
        let closing = CancellationToken::new();
        let guards = Guards::new(store.clone(), closing.clone());
        let (changes, roots, indexes) = Default::default();
        Ok(Arc::new(Self {
            store,
            images: engine.images().ok(),
            settings,
            guards,
            events: Events::default(),
            changes,
            roots,
            indexes,
            aborting: TaskTracker::new(),
            closing,
        }))
    }

    /// Waits until nothing is left of exports that were dropped before they were complete, nor of versions that were deleted
    /// while they were read and are not read any more, and no lease on versions that were copied; an engine that went away is not waited for. None may be begun
    /// afterwards.
    pub async fn finish(&self) {
        self.aborting.close();
        self.closing.cancel();
        self.aborting.wait().await;
        self.guards.finish().await;
    }

    /// The limits.
    pub fn limits(&self) -> &CacheLimits {
        &self.settings.limits
    }

    /// Patterns of the refs that may be written; none allows all.
    pub fn allowed(&self) -> &[String] {
        &self.settings.policy.allowed
    }

    /// Refuses a ref that policy does not let `principal` write.
    ///
    /// # Errors
    /// [`CacheError::Denied`].
    pub fn check(&self, reference: &CacheRef, principal: &Principal) -> Result<(), CacheError> {
        self.settings.policy.check(reference, principal)
    }

    /// Whether the engine's images are read as caches beside a registry's of the same name.
    pub fn reads_engine_images(&self) -> bool {
        self.settings.from_engine
    }

    /// Whether builders on this host import lazily.
    pub fn imports_lazily(&self) -> bool {
        self.settings.lazy_import
    }

    /// The blobs of the caches, to be read.
    pub fn blobs(&self) -> Arc<dyn Images> {
        self.store.blobs()
    }

    /// The complete versions, of one cache or of all, the newest first.
    ///
    /// # Errors
    /// When the engine cannot be queried.
    pub async fn versions(&self, reference: Option<&CacheRef>) -> Result<Vec<CacheVersion>, CacheError> {
        Ok(self.store.versions(reference.map(CacheRef::as_str)).await?)
    }

    /// Deletes versions. What builds of this process read of them stays until these have ended, and what others read as far as
    /// they have leases.
    ///
    /// # Errors
    /// When the engine refuses.
    pub async fn delete(&self, ids: Vec<String>) -> Result<(), CacheError> {
        self.remove(ids, Change::Deleted).await
    }

    /// The same for the reason `change`, which is reported to those who watch.
    ///
    /// # Errors
    /// When the engine refuses.
    pub async fn remove(&self, ids: Vec<String>, change: Change) -> Result<(), CacheError> {
        let _changes = self.changes.lock().await;
        self.remove_locked(ids, change).await
    }

    /// The same while `changes` is held.
    pub(super) async fn remove_locked(&self, ids: Vec<String>, change: Change) -> Result<(), CacheError> {
        self.guards.delete(&ids).await?;
        self.events.gone(&ids, change);
        Ok(())
    }

    /// The root of a version.
    pub(super) async fn root(&self, descriptor: &Descriptor) -> Result<Arc<CacheRoot>, CacheError> {
        let known = |roots: &Mutex<HashMap<_, Arc<CacheRoot>>>| {
            roots.lock().unwrap_or_else(PoisonError::into_inner).get(&descriptor.digest).cloned()
        };
        if let Some(root) = known(&self.roots) {
            return Ok(root);
        }
        let root = Arc::new(read_root(&self.store.blobs(), descriptor).await?);
        let mut roots = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        if roots.len() >= ROOTS {
            roots.clear();
        }
        roots.insert(descriptor.digest.clone(), root.clone());
        Ok(root)
    }
}
