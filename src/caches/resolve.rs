//! What a build that reads a cache is offered.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::guards::VersionGuard;
use super::{CacheError, CacheRef, Caches, Part};
use crate::engine::caches::{CacheDocument, CacheVersion};
use crate::image::cache::CacheRoot;
use crate::image::{Descriptor, Digest, Platform};
use crate::source::read_document;

/// How many look-ups are under way at once.
const LOOKUPS: usize = 64;
/// How many versions a build is offered at most.
const MAX_OFFERED: usize = 64;

/// A version of a part as a build imports it. It stays as long as this is held.
#[derive(Debug)]
pub struct ResolvedPart {
    /// The version.
    pub version: CacheVersion,
    /// What its root lists. The config's size is the true one.
    pub listed: Arc<CacheRoot>,
    /// The root to import: the stored one, or one that lists only what is there, in the form that all builders read.
    pub root: CacheDocument,
    /// The digests of its layers that the engine has.
    pub present: HashSet<Digest>,
    /// How many of its layers are not in the engine.
    pub missing: usize,
    _guard: VersionGuard,
}

impl ResolvedPart {
    /// Whether it may be of one of `platforms`: it is, or does not say. None means all.
    pub fn may_be_of(&self, platforms: &[Platform]) -> bool {
        let part = Part::read(&self.version.part, &self.version.title);
        let own = part.and_then(|part| part.platforms());
        platforms.is_empty() || own.is_none_or(|own| own.iter().any(|it| platforms.contains(it)))
    }

    /// Its layers and its config.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.listed.layers.iter().chain([&self.listed.config])
    }
}

impl Caches {
    /// The versions of a cache, the newest first, with those layers that the engine has; none if there is no such cache. A
    /// version that cannot be read is left out: a cache never fails a build.
    ///
    /// # Errors
    /// When the engine cannot be queried.
    pub async fn resolve(self: &Arc<Self>, reference: &CacheRef) -> Result<Vec<ResolvedPart>, CacheError> {
        let (parts, _) = self.resolve_all(reference).await?;
        Ok(parts)
    }

    /// The same, only of the versions that `is_meant` names by their ids.
    ///
    /// # Errors
    /// When the engine cannot be queried.
    pub async fn resolve_those(
        self: &Arc<Self>,
        reference: &CacheRef,
        is_meant: impl Fn(&str) -> bool + Send,
    ) -> Result<Vec<ResolvedPart>, CacheError> {
        let (parts, _) = self.resolve_some(reference, is_meant).await?;
        Ok(parts)
    }

    /// The same, and why each of the versions that are left out cannot be used.
    ///
    /// # Errors
    /// When the engine cannot be queried.
    pub async fn resolve_all(
        self: &Arc<Self>,
        reference: &CacheRef,
    ) -> Result<(Vec<ResolvedPart>, Vec<CacheError>), CacheError> {
        self.resolve_some(reference, |_| true).await
    }

    async fn resolve_some(
        self: &Arc<Self>,
        reference: &CacheRef,
        is_meant: impl Fn(&str) -> bool + Send,
    ) -> Result<(Vec<ResolvedPart>, Vec<CacheError>), CacheError> {
        let guarded: Vec<_> = {
            let _changes = self.changes.lock().await;
            let versions = self.versions(Some(reference)).await?.into_iter();
            let versions = versions.filter(|version| is_meant(&version.id)).take(MAX_OFFERED);
            versions.map(|version| (self.guards.guard(&version.id), version)).collect()
        };
        let (mut parts, mut unusable) = (Vec::new(), Vec::new());
        for (guard, version) in guarded {
            match self.part(guard, version).await {
                Ok(part) => parts.push(part),
                Err(error) => {
                    tracing::warn!(%error, "a build cache is left out");
                    unusable.push(error);
                }
            }
        }
        Ok((parts, unusable))
    }

    /// One version as a build imports it.
    ///
    /// # Errors
    /// [`CacheError::Unusable`] says why it cannot be used.
    pub async fn open(&self, version: CacheVersion) -> Result<ResolvedPart, CacheError> {
        let guard = {
            let _changes = self.changes.lock().await;
            self.guards.guard(&version.id)
        };
        self.part(guard, version).await
    }

    async fn part(&self, guard: VersionGuard, version: CacheVersion) -> Result<ResolvedPart, CacheError> {
        self.read_part(guard, &version).await.map_err(|error| CacheError::unusable(&version, error))
    }

    async fn read_part(&self, guard: VersionGuard, version: &CacheVersion) -> Result<ResolvedPart, CacheError> {
        let (blobs, listed) = (self.store.blobs(), self.root(&version.root).await?);
        // Without its config it is nothing.
        if blobs.size(&listed.config.digest).await? != Some(listed.config.size) {
            return Err(crate::engine::EngineError::Missing { digests: vec![listed.config.digest.clone()] }.into());
        }
        let present = self.present(&listed).await?;
        let total = listed.layers.iter().map(|layer| &layer.digest).collect::<HashSet<_>>().len();
        let root = if listed.is_importable(&present) {
            let bytes = read_document(&blobs, &listed.descriptor).await?;
            CacheDocument { descriptor: listed.descriptor.clone(), bytes }
        } else {
            let unwritable = |error: serde_json::Error| crate::engine::EngineError::Protocol {
                operation: format!("making an index of {}", listed.descriptor.digest),
                reason: error.to_string(),
            };
            let (descriptor, bytes): (_, Bytes) = listed.import(&present).map_err(unwritable)?;
            CacheDocument { descriptor, bytes }
        };
        if let Err(error) = self.store.touch(version).await {
            tracing::warn!(%error, id = version.id, "the last use of a build cache could not be noted");
        }
        let version = version.clone();
        Ok(ResolvedPart { version, missing: total - present.len(), present, listed, root, _guard: guard })
    }

    /// The digests of the layers of a root that the engine has, with the sizes that the root lists. A builder that reads
    /// another number of bytes may fail its build.
    pub(super) async fn present(&self, listed: &CacheRoot) -> Result<HashSet<Digest>, CacheError> {
        let blobs = self.store.blobs();
        let mut sizes: HashMap<&Digest, HashSet<u64>> = HashMap::new();
        for layer in &listed.layers {
            sizes.entry(&layer.digest).or_default().insert(layer.size);
        }
        let look = async |(digest, sizes): (&Digest, HashSet<u64>)| {
            let is_there = blobs.size(digest).await?.is_some_and(|size| sizes == HashSet::from([size]));
            Ok::<_, CacheError>((is_there, digest.clone()))
        };
        let lookups: Vec<_> = sizes.into_iter().map(look).collect();
        let found: Vec<_> = stream::iter(lookups).buffer_unordered(LOOKUPS).try_collect().await?;
        Ok(found.into_iter().filter(|(is_there, _)| *is_there).map(|(_, it)| it).collect())
    }

    /// Whether the engine has the root and the config.
    pub(super) async fn has_documents(&self, listed: &CacheRoot) -> Result<bool, CacheError> {
        let blobs = self.store.blobs();
        for document in [&listed.descriptor, &listed.config] {
            if blobs.size(&document.digest).await? != Some(document.size) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the engine has all that a root lists, and the root.
    pub(super) async fn is_whole(&self, listed: &CacheRoot) -> Result<bool, CacheError> {
        let layers: HashSet<_> = listed.layers.iter().map(|layer| &layer.digest).collect();
        Ok(self.has_documents(listed).await? && self.present(listed).await?.len() == layers.len())
    }
}
