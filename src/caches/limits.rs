//! How much room caches may take.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use super::Part;
use super::usage::VersionUsage;
use crate::engine::caches::{CacheVersion, NewVersion};
use crate::image::Digest;

/// How many parts a ref has at most; beyond that, those that were not used for longest go.
pub(crate) const MAX_PARTS: usize = 64;

/// A version that went although nothing replaced it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// The version.
    pub version: CacheVersion,
    /// The limit that was exceeded.
    pub limit: Limit,
}

/// What limits caches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// How many parts a ref may have.
    Parts,
    /// What the operator chose: [`CacheLimits`].
    Settings,
}

/// Limits on all caches of an engine together. Those that were not used for longest go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheLimits {
    /// The bytes of their blobs, each blob counted once.
    pub max_bytes: Option<u64>,
    /// For how long one is kept that is not used.
    pub max_age: Option<Duration>,
    /// How many versions there may be.
    pub max_count: Option<usize>,
}

impl CacheLimits {
    /// Whether there is any limit.
    pub fn is_any(&self) -> bool {
        *self != Self::default()
    }

    /// Which of `versions` exceed the limits.
    pub(super) fn exceeding(&self, versions: &[VersionUsage], now: SystemTime) -> Vec<String> {
        let mut left: Vec<_> = versions.iter().collect();
        // The one that was used last comes first.
        left.sort_by(|one, other| last_use(&other.version).cmp(&last_use(&one.version)));
        let mut counts: HashMap<&Digest, (u64, usize)> = HashMap::new();
        for (digest, size) in left.iter().flat_map(|usage| &usage.blobs) {
            counts.entry(digest).or_insert((*size, 0)).1 += 1;
        }
        let mut total: u64 = counts.values().map(|(size, _)| *size).fold(0, u64::saturating_add);
        let mut exceeding = Vec::new();
        while let Some(oldest) = left.last() {
            let age = now.duration_since(oldest.version.used).unwrap_or_default();
            let is_over = self.max_age.is_some_and(|limit| age > limit)
                || self.max_count.is_some_and(|limit| left.len() > limit)
                || self.max_bytes.is_some_and(|limit| total > limit);
            if !is_over {
                break;
            }
            for (digest, _) in &oldest.blobs {
                if let Some((size, count)) = counts.get_mut(digest) {
                    *count -= 1;
                    total -= if *count == 0 { *size } else { 0 };
                }
            }
            exceeding.push(oldest.version.id.clone());
            left.pop();
        }
        exceeding
    }
}

/// What versions are sorted by; one that was written last was used last.
fn last_use(version: &CacheVersion) -> (SystemTime, SystemTime, &str) {
    (version.used, version.created, &version.id)
}

/// Which of a ref's `versions`, the newest first, are superseded by `new`: all but `keep` of its part, and those of parts that
/// it covers.
pub(super) fn superseded(versions: &[CacheVersion], new: &NewVersion, keep: usize) -> Vec<String> {
    let part = new.part.as_str();
    let own = versions.iter().filter(|version| version.part == part).skip(keep.max(1));
    let covering = Part::read(part, &new.title);
    let is_covered = |version: &&CacheVersion| {
        let other = || Part::read(&version.part, &version.title);
        version.part != part && covering.as_ref().is_some_and(|it| other().is_some_and(|other| it.covers(&other)))
    };
    own.chain(versions.iter().filter(is_covered)).map(|version| version.id.clone()).collect()
}

/// Which of a ref's `versions` are of parts beyond [`MAX_PARTS`]: those that were not used for longest, but never of `part`,
/// which was just written.
pub(super) fn beyond_parts<'a>(versions: &[&'a CacheVersion], part: &str) -> Vec<&'a CacheVersion> {
    let mut parts: HashMap<&str, SystemTime> = HashMap::new();
    for version in versions {
        let used = parts.entry(&version.part).or_insert(version.used);
        *used = (*used).max(version.used);
    }
    let mut parts: Vec<_> = parts.into_iter().collect();
    // The part that was just written is the one that was used last, whatever clocks say.
    parts.sort_by_key(|(name, used)| (std::cmp::Reverse(*name == part), std::cmp::Reverse(*used)));
    let beyond: Vec<_> = parts.into_iter().skip(MAX_PARTS).map(|(name, _)| name).collect();
    versions.iter().filter(|version| beyond.contains(&version.part.as_str())).copied().collect()
}
