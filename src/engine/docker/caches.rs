//! Build caches in the containerd that dockerd uses, after it was verified to be that one.

use std::sync::Arc;

use async_trait::async_trait;

use super::VerifiedStore;
use crate::engine::caches::{CacheStore, CacheVersion, NewVersion, PendingVersion};
use crate::engine::containerd::{ContainerdCaches, ContainerdEngine};
use crate::engine::images::Images;
use crate::engine::{EngineError, Lease, Origin};

/// The caches in dockerd's containerd.
#[derive(Debug)]
pub(super) struct DockerCaches {
    store: Arc<VerifiedStore>,
    caches: ContainerdCaches,
}

impl DockerCaches {
    pub(super) fn new(containerd: &ContainerdEngine, store: Arc<VerifiedStore>) -> Self {
        Self { store, caches: ContainerdCaches::new(containerd.clone(), "docker's containerd") }
    }
}

#[async_trait]
impl CacheStore for DockerCaches {
    async fn versions(&self, reference: Option<&str>) -> Result<Vec<CacheVersion>, EngineError> {
        self.caches.versions(reference).await
    }

    async fn begin(&self, new: &NewVersion, origin: &Origin) -> Result<Arc<dyn PendingVersion>, EngineError> {
        self.store.check().await?;
        self.caches.begin(new, origin).await
    }

    async fn lease(&self, ids: &[String], is_deletion: bool) -> Result<Option<Arc<dyn Lease>>, EngineError> {
        self.caches.lease(ids, is_deletion).await
    }

    async fn delete(&self, ids: &[String]) -> Result<(), EngineError> {
        self.caches.delete(ids).await
    }

    async fn touch(&self, version: &CacheVersion) -> Result<(), EngineError> {
        self.caches.touch(version).await
    }

    async fn recover(&self) -> Result<usize, EngineError> {
        self.caches.recover().await
    }

    fn blobs(&self) -> Arc<dyn Images> {
        self.caches.blobs()
    }
}
