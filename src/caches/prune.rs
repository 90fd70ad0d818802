//! Removing caches: by a selection, by limits, and what newer versions supersede.

use std::time::{Duration, SystemTime};

use super::limits::{CacheLimits, Dropped, Limit, MAX_PARTS, beyond_parts, superseded};
use super::usage::{Usage, VersionUsage};
use super::{CacheError, Caches, Change};
use crate::engine::caches::{CacheVersion, NewVersion};
use crate::pattern;

/// Which versions are meant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    /// Patterns of refs, in which `*` matches any run of characters; none means all.
    pub references: Vec<String>,
    /// Only what was not used for this long.
    pub unused_for: Option<Duration>,
    /// Only so many that what stays has at most these bytes; those that were not used for longest go.
    pub keep_bytes: Option<u64>,
}

/// What was removed, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pruned {
    /// The versions.
    pub versions: Vec<VersionUsage>,
    /// The bytes that no other version has: the most that becomes free, as images may have some of them.
    pub bytes: u64,
}

impl Selection {
    /// Whether `version` is meant, whatever the others take.
    pub fn includes(&self, version: &CacheVersion, now: SystemTime) -> bool {
        let is_named =
            self.references.is_empty() || self.references.iter().any(|it| pattern::matches(it, &version.reference));
        is_named && self.unused_for.is_none_or(|limit| now.duration_since(version.used).unwrap_or_default() >= limit)
    }

    /// The versions of `usage` that are meant.
    fn of(&self, usage: &Usage, now: SystemTime) -> Pruned {
        let meant = usage.versions.iter().filter(|usage| self.includes(&usage.version, now));
        let meant: Vec<_> = meant.cloned().collect();
        let meant = match self.keep_bytes {
            None => meant,
            Some(bytes) => {
                let fixed = total(usage, |it| !meant.iter().any(|meant| meant.version.id == it.version.id));
                let limits = CacheLimits { max_bytes: Some(bytes.saturating_sub(fixed)), ..CacheLimits::default() };
                let over = limits.exceeding(&meant, now);
                meant.into_iter().filter(|usage| over.contains(&usage.version.id)).collect()
            }
        };
        let is_left = |usage: &VersionUsage| !meant.iter().any(|gone| gone.version.id == usage.version.id);
        let bytes = usage.total.saturating_sub(total(usage, is_left));
        Pruned { versions: meant, bytes }
    }
}

/// The bytes of the versions of which `is_counted` holds.
fn total(usage: &Usage, is_counted: impl Fn(&VersionUsage) -> bool) -> u64 {
    let counted = usage.versions.iter().filter(|usage| is_counted(usage));
    Usage::of(counted.map(|usage| (usage.version.clone(), usage.blobs.clone())).collect()).total
}

impl Caches {
    /// Releases what earlier processes left unfinished, and applies the limits. To be called once at the start.
    ///
    /// # Errors
    /// When the engine cannot be queried.
    pub async fn start(&self) -> Result<(), CacheError> {
        self.recover().await?;
        self.apply_limits().await.map(drop)
    }

    /// Releases what processes that are gone left unfinished.
    ///
    /// # Errors
    /// When the engine cannot be queried.
    pub async fn recover(&self) -> Result<(), CacheError> {
        let left = self.store.recover().await?;
        if left > 0 {
            tracing::info!(left, "released unfinished build caches of former processes");
        }
        Ok(())
    }

    /// Deletes the versions that `selection` means, or only says which they are. What builds of this process read of them stays
    /// until these have ended.
    ///
    /// # Errors
    /// When the engine refuses.
    pub async fn prune(&self, selection: &Selection, is_dry: bool) -> Result<Pruned, CacheError> {
        let pruned = selection.of(&self.usage().await?, SystemTime::now());
        if !is_dry {
            self.remove(pruned.versions.iter().map(|usage| usage.version.id.clone()).collect(), Change::Pruned).await?;
        }
        Ok(pruned)
    }

    /// What the limits would remove.
    ///
    /// # Errors
    /// When the engine cannot be queried.
    pub async fn exceeding(&self) -> Result<Pruned, CacheError> {
        Ok(self.exceeding_in(&self.usage().await?))
    }

    /// What the limits would remove of what `usage` counts.
    pub fn exceeding_in(&self, usage: &Usage) -> Pruned {
        let over = self.limits().exceeding(&usage.versions, SystemTime::now());
        let left = total(usage, |it| !over.contains(&it.version.id));
        let bytes = usage.total.saturating_sub(left);
        let versions = usage.versions.iter().filter(|it| over.contains(&it.version.id)).cloned().collect();
        Pruned { versions, bytes }
    }

    /// Deletes what a new version of a part supersedes, and what exceeds the limits. Returns the latter.
    pub(super) async fn supersede(&self, new: &NewVersion, keep: usize) -> Result<Vec<Dropped>, CacheError> {
        let mut dropped = Vec::new();
        {
            let _changes = self.changes.lock().await;
            let versions = self.store.versions(Some(&new.reference)).await?;
            let mut gone = superseded(&versions, new, keep);
            let left: Vec<_> = versions.iter().filter(|version| !gone.contains(&version.id)).collect();
            for version in beyond_parts(&left, &new.part) {
                let (cache, part) = (&new.reference, &version.title);
                tracing::info!(
                    cache,
                    part,
                    "a cache has at most {MAX_PARTS} parts; the one that was not used for longest goes"
                );
                gone.push(version.id.clone());
                dropped.push(Dropped { version: version.clone(), limit: Limit::Parts });
            }
            self.remove_locked(gone, Change::Replaced).await?;
        }
        let exceeding = self.apply_limits().await?;
        dropped.extend(exceeding.into_iter().map(|version| Dropped { version, limit: Limit::Settings }));
        Ok(dropped)
    }

    /// Deletes what exceeds the limits, and returns it.
    pub(super) async fn apply_limits(&self) -> Result<Vec<CacheVersion>, CacheError> {
        if !self.limits().is_any() {
            return Ok(Vec::new());
        }
        let exceeding = self.exceeding().await?;
        for usage in &exceeding.versions {
            let version = &usage.version;
            tracing::info!(
                cache = version.reference,
                part = version.title,
                "a build cache exceeds the limits, and goes"
            );
        }
        let gone: Vec<_> = exceeding.versions.into_iter().map(|usage| usage.version).collect();
        self.remove(gone.iter().map(|version| version.id.clone()).collect(), Change::Pruned).await?;
        Ok(gone)
    }
}
