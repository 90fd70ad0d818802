//! A cache that a build writes.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;

use super::guards::VersionGuard;
use super::{CacheError, CacheRef, Caches, Dropped, Part};
use crate::engine::caches::{CacheContent, CacheDocument, CacheVersion, NewVersion, PendingVersion};
use crate::engine::{self, Lease, Origin};
use crate::image::Digest;
use crate::image::cache::{CacheConfig, CacheRoot};

/// The export of a cache's part. Layers are pinned and written under its [lease](Self::lease); dropping it without a commit
/// aborts it.
#[derive(Debug)]
pub struct CacheExport {
    caches: Arc<Caches>,
    pending: Arc<dyn PendingVersion>,
    new: NewVersion,
    keep: usize,
    /// The version that the part has now.
    current: Option<CacheVersion>,
    /// Keeps it until this export has ended.
    guard: Mutex<Option<VersionGuard>>,
    has_ended: AtomicBool,
    /// The versions that went because of a limit.
    dropped: Mutex<Vec<Dropped>>,
}

impl Caches {
    /// Begins the export of a part. `keep` is how many versions of it stay, at least this one.
    ///
    /// # Errors
    /// [`CacheError::Denied`] if the policy does not allow the ref; when the engine refuses.
    pub async fn begin(
        self: &Arc<Self>,
        reference: &CacheRef,
        part: &Part,
        mode: &str,
        keep: usize,
        origin: &Origin,
    ) -> Result<CacheExport, CacheError> {
        let new = NewVersion {
            reference: reference.to_string(),
            part: part.key(),
            title: part.title(),
            mode: mode.to_owned(),
        };
        self.begin_version(reference, new, keep, origin).await
    }

    /// The same of a version that is copied, whose part is named by its key.
    ///
    /// # Errors
    /// As [`Caches::begin`].
    pub async fn begin_version(
        self: &Arc<Self>,
        reference: &CacheRef,
        new: NewVersion,
        keep: usize,
        origin: &Origin,
    ) -> Result<CacheExport, CacheError> {
        self.check(reference, &origin.principal)?;
        let current = {
            let _changes = self.changes.lock().await;
            let current = self.versions(Some(reference)).await?.into_iter().find(|version| version.part == new.part);
            current.map(|current| (self.guards.guard(&current.id), current))
        };
        let pending = self.store.begin(&new, origin).await?;
        Ok(CacheExport::new(self.clone(), pending, new, keep, current))
    }
}

impl CacheExport {
    fn new(
        caches: Arc<Caches>,
        pending: Arc<dyn PendingVersion>,
        new: NewVersion,
        keep: usize,
        current: Option<(VersionGuard, CacheVersion)>,
    ) -> Self {
        let (guard, current) = current.unzip();
        let (has_ended, dropped) = Default::default();
        Self { caches, pending, new, keep, current, guard: Mutex::new(guard), has_ended, dropped }
    }

    /// The lease for its layers.
    pub fn lease(&self) -> Arc<dyn Lease> {
        self.pending.lease()
    }

    /// The version that the part has now. Its layers need not be pinned, as it stays until this export has ended.
    pub fn current(&self) -> Option<&CacheVersion> {
        self.current.as_ref()
    }

    /// The versions that went because of a limit since the commit.
    pub fn dropped(&self) -> Vec<Dropped> {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Commits BuildKit's documents. `absent` are layers that stay out of the engine; all others of the root must be there.
    /// The part's older versions are deleted after that. If the part has this very root already, and nothing of it is lost, nothing is stored.
    ///
    /// # Errors
    /// [`CacheError::Document`] if they are none of a cache, [`CacheError::TooLarge`] if no limit would let it stay; when the
    /// engine refuses.
    pub async fn commit(
        &self,
        config: CacheDocument,
        root: CacheDocument,
        absent: HashSet<Digest>,
    ) -> Result<CacheVersion, CacheError> {
        let listed = CacheRoot::parse(root.descriptor.clone(), root.bytes.clone())?;
        if (&listed.config.digest, listed.config.size) != (&config.descriptor.digest, config.descriptor.size) {
            return Err(CacheError::Config { reference: self.new.reference.clone() });
        }
        CacheConfig::parse(&config.descriptor, &config.bytes)?;
        let same = self.current().filter(|current| current.root.digest == root.descriptor.digest);
        if let Some(current) = same
            && self.caches.is_whole(&listed).await?
        {
            self.abort().await?;
            self.caches.store.touch(current).await?;
            self.supersede().await;
            return Ok(current.clone());
        }
        let content = CacheContent { config, root, layers: listed.layers, absent };
        if let Some(limit) = self.caches.limits().max_bytes.filter(|limit| content.bytes() > *limit) {
            let reference = self.new.reference.clone();
            return Err(CacheError::TooLarge { reference, bytes: content.bytes(), limit });
        }
        let version = self.pending.commit(&content).await?;
        self.caches.events.committed(&version);
        self.has_ended.store(true, Ordering::Relaxed);
        self.guard.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.supersede().await;
        Ok(version)
    }

    /// Deletes what is no longer kept beside the version. The cache is stored, whatever becomes of those before it.
    async fn supersede(&self) {
        match self.caches.supersede(&self.new, self.keep).await {
            Ok(dropped) => self.dropped.lock().unwrap_or_else(PoisonError::into_inner).extend(dropped),
            Err(error) => {
                let cache = &self.new.reference;
                tracing::warn!(%error, cache, "older versions of a build cache stay until the next export");
            }
        }
    }

    /// Ends it without a version.
    ///
    /// # Errors
    /// When the engine cannot be queried.
    pub async fn abort(&self) -> Result<(), CacheError> {
        self.has_ended.store(true, Ordering::Relaxed);
        Ok(self.pending.abort().await?)
    }
}

impl Drop for CacheExport {
    fn drop(&mut self) {
        if self.has_ended.swap(true, Ordering::Relaxed) {
            return;
        }
        // Without a runtime the process is ending, and a later one releases it.
        let Ok(runtime) = Handle::try_current() else { return };
        let (pending, closing) = (self.pending.clone(), self.caches.closing.clone());
        // Nothing else ends its lease before this process has ended.
        let abort = async move {
            let what = format!("the unfinished build cache {}", pending.id());
            engine::release(&what, closing, || pending.abort()).await;
        };
        self.caches.aborting.spawn_on(abort, &runtime);
    }
}
