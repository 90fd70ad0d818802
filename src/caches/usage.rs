//! How many bytes caches take.

use std::collections::HashMap;

use crate::engine::caches::CacheVersion;
use crate::image::Digest;

/// What a version takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionUsage {
    /// The version.
    pub version: CacheVersion,
    /// Its documents and layers with their sizes, each once.
    pub blobs: Vec<(Digest, u64)>,
    /// The bytes that no other version has. They become free with it, unless an image has them.
    pub unique: u64,
    /// The bytes that other versions have as well.
    pub shared: u64,
}

/// What all versions take.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// The versions, the newest first.
    pub versions: Vec<VersionUsage>,
    /// The bytes of all blobs, each counted once.
    pub total: u64,
}

impl Usage {
    /// Counts `versions` with their blobs.
    pub(super) fn of(versions: Vec<(CacheVersion, Vec<(Digest, u64)>)>) -> Self {
        let mut counts: HashMap<Digest, (u64, usize)> = HashMap::new();
        for (digest, size) in versions.iter().flat_map(|(_, blobs)| blobs) {
            counts.entry(digest.clone()).or_insert((*size, 0)).1 += 1;
        }
        let total = counts.values().map(|(size, _)| *size).fold(0, u64::saturating_add);
        let count = |(version, blobs): (CacheVersion, Vec<(Digest, u64)>)| {
            let is_unique = |digest: &Digest| counts.get(digest).is_some_and(|(_, count)| *count == 1);
            let sum = |unique: bool| {
                let matching = blobs.iter().filter(|(digest, _)| is_unique(digest) == unique);
                matching.fold(0u64, |sum, (_, size)| sum.saturating_add(*size))
            };
            let (unique, shared) = (sum(true), sum(false));
            VersionUsage { version, blobs, unique, shared }
        };
        Self { versions: versions.into_iter().map(count).collect(), total }
    }
}
