//! What a cache has before an export.

use std::collections::HashSet;

use super::guards::VersionGuard;
use super::{CacheError, CacheRef, Caches, Part};
use crate::engine::caches::CacheVersion;
use crate::image::Digest;

/// The newest version of a part, which stays as long as this is held.
#[derive(Debug)]
pub struct CurrentVersion {
    /// The version.
    pub version: CacheVersion,
    /// The digest of its config.
    pub config: Digest,
    /// The digests of its layers that the engine has.
    pub layers: HashSet<Digest>,
    _guard: VersionGuard,
}

impl Caches {
    /// The newest version of the part `part` of the cache `reference`, whose layers an export need not look up. `None` if
    /// there is none that can be read.
    ///
    /// # Errors
    /// When the engine cannot be queried.
    pub async fn current(&self, reference: &CacheRef, part: &Part) -> Result<Option<CurrentVersion>, CacheError> {
        let key = part.key();
        let (guard, version) = {
            let _changes = self.changes.lock().await;
            let found = self.versions(Some(reference)).await?.into_iter().find(|version| version.part == key);
            let Some(version) = found else { return Ok(None) };
            (self.guards.guard(&version.id), version)
        };
        let listed = match self.root(&version.root).await {
            Ok(listed) => listed,
            Err(error) => {
                tracing::warn!(%error, id = version.id, "the current version of a cache cannot be read");
                return Ok(None);
            }
        };
        if !self.has_documents(&listed).await? {
            tracing::warn!(id = version.id, "the current version of a cache has lost a document, and is replaced");
            return Ok(None);
        }
        let layers = self.present(&listed).await?;
        Ok(Some(CurrentVersion { config: listed.config.digest.clone(), version, layers, _guard: guard }))
    }

    /// Notes that a version is used.
    ///
    /// # Errors
    /// When the engine refuses.
    pub async fn touch(&self, version: &CacheVersion) -> Result<(), CacheError> {
        Ok(self.store.touch(version).await?)
    }
}
