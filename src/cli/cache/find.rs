//! The versions that refs, ids and beginnings of ids mean.

use crate::caches::{CacheError, CacheRef};
use crate::engine::caches::{CacheVersion, VERSION_PREFIX};

/// How many characters of an id are needed, without what all ids begin with.
const SHORTEST: usize = 4;

/// The versions that `given` means: of the cache of this ref, else those whose id it is or begins with.
pub(super) fn matching(all: &[CacheVersion], given: &CacheRef) -> Vec<CacheVersion> {
    let given = given.as_str();
    let of_ref: Vec<_> = all.iter().filter(|version| version.reference == given).cloned().collect();
    if !of_ref.is_empty() {
        return of_ref;
    }
    if let Some(exact) = all.iter().find(|version| version.id == given) {
        return vec![exact.clone()];
    }
    let begin = given.strip_prefix(VERSION_PREFIX).unwrap_or(given);
    if begin.len() < SHORTEST {
        return Vec::new();
    }
    let is_meant =
        |version: &&CacheVersion| version.id.strip_prefix(VERSION_PREFIX).unwrap_or(&version.id).starts_with(begin);
    all.iter().filter(is_meant).cloned().collect()
}

/// The versions of one cache, or the one whose id begins so.
///
/// # Errors
/// [`CacheError::Unknown`] if there is none, [`CacheError::Ambiguous`] if several ids begin so.
pub(super) fn required(all: &[CacheVersion], given: &CacheRef) -> Result<Vec<CacheVersion>, CacheError> {
    let found = matching(all, given);
    match found.first() {
        None => Err(CacheError::Unknown { reference: given.to_string() }),
        Some(first) if found.len() > 1 && first.reference != given.as_str() => {
            Err(CacheError::Ambiguous { id: given.to_string() })
        }
        Some(_) => Ok(found),
    }
}
