//! The versions that refs, patterns of refs, ids and beginnings of ids mean.

use std::str::FromStr;

use crate::caches::{CacheError, CacheRef};
use crate::engine::caches::{CacheVersion, VERSION_PREFIX};
use crate::image::Digest;
use crate::pattern;

/// How many characters of an id are needed, without what all ids begin with: fewer may be a ref that was mistyped.
const SHORTEST: usize = 4;

/// The id of a version that tables show, 12 characters. Whole ids begin alike: with the ref's digest and the time.
pub(super) fn short_id(version: &CacheVersion) -> String {
    Digest::sha256(version.id.as_bytes()).short().to_owned()
}

/// What is listed: one cache or version, or all caches whose refs match a pattern.
#[derive(Debug, Clone)]
pub(super) enum Selector {
    One(CacheRef),
    Pattern(String),
}

impl FromStr for Selector {
    type Err = CacheError;

    fn from_str(text: &str) -> Result<Self, CacheError> {
        match text.contains('*') {
            false => Ok(Self::One(text.parse()?)),
            true => Ok(Self::Pattern(text.to_owned())),
        }
    }
}

/// The cache or version that a command takes which takes no patterns.
///
/// # Errors
/// When it is no ref: a pattern gets the commands that take one.
pub(super) fn exact(text: &str) -> Result<CacheRef, String> {
    if text.contains('*') {
        return Err(format!(
            "patterns are not taken here; `linkspan cache ls '{text}'` lists what matches, and `linkspan cache prune --filter \
             'ref={text}'` removes it"
        ));
    }
    text.parse().map_err(|error: CacheError| error.to_string())
}

impl Selector {
    /// The versions that it means.
    pub(super) fn matching(&self, all: &[CacheVersion]) -> Vec<CacheVersion> {
        match self {
            Self::One(given) => matching(all, given),
            Self::Pattern(refs) => all.iter().filter(|it| pattern::matches(refs, &it.reference)).cloned().collect(),
        }
    }
}

/// The versions that `given` means: of the cache of this ref, else those whose id it is or begins with.
fn matching(all: &[CacheVersion], given: &CacheRef) -> Vec<CacheVersion> {
    let given = given.as_str();
    let those = |is_meant: &dyn Fn(&CacheVersion) -> bool| -> Vec<CacheVersion> {
        all.iter().filter(|version| is_meant(version)).cloned().collect()
    };
    let (of_ref, exact) = (those(&|it| it.reference == given), those(&|it| it.id == given || short_id(it) == given));
    if let Some(found) = [of_ref, exact].into_iter().find(|found| !found.is_empty()) {
        return found;
    }
    match given.strip_prefix(VERSION_PREFIX) {
        Some("") => Vec::new(),
        Some(_) => those(&|it| it.id.starts_with(given)),
        None if given.len() < SHORTEST => Vec::new(),
        None => those(&|it| {
            it.id.strip_prefix(VERSION_PREFIX).is_some_and(|id| id.starts_with(given))
                || short_id(it).starts_with(given)
        }),
    }
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
            Err(CacheError::Ambiguous { id: given.to_string(), ids: found.iter().map(short_id).collect() })
        }
        Some(_) => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::image::Descriptor;

    fn version(reference: &str, id: &str) -> CacheVersion {
        let [part, title, mode, builder] = Default::default();
        CacheVersion {
            id: format!("{VERSION_PREFIX}{id}"),
            reference: reference.to_owned(),
            root: Descriptor::new("", Digest::sha256(b""), 0),
            created: UNIX_EPOCH,
            used: UNIX_EPOCH,
            layers: 0,
            bytes: 0,
            part,
            title,
            mode,
            builder,
        }
    }

    #[test]
    fn refs_ids_short_ids_and_beginnings_of_both_are_found() {
        let all = [
            version("app", "a17284-1795984830115-92f7f8b1"),
            version("app", "a17284-1795984830115-02f7f8b1"),
            version("2a97", "2a9744-1795984830115-12345678"),
        ];
        let ids: Vec<_> = all.iter().map(short_id).collect();
        let found = |given: &str| -> Vec<usize> {
            let found = matching(&all, &given.parse().unwrap());
            found.iter().map(|it| all.iter().position(|version| version.id == it.id).unwrap()).collect()
        };
        assert_eq!(found("app"), [0, 1]);
        assert_eq!(found("2a97"), [2], "a ref is one before it is the beginning of an id");
        for (at, id) in ids.iter().enumerate() {
            assert_eq!((id.len(), found(id), found(&id[..5])), (12, vec![at], vec![at]));
            assert_eq!(found(&id[..3]), [0; 0], "that is too short");
        }
        assert_eq!(found("a172"), [0, 1]);
        assert_eq!(found("a17284-1795984830115-9"), [0]);
        assert_eq!(found("linkspan-cache-2"), [2], "the beginning of a whole id may be as short as it is one");
        assert_eq!((found("linkspan-cache-"), found("linkspan")), (vec![], vec![]), "all ids begin so");
        let Err(CacheError::Ambiguous { ids: named, .. }) = required(&all, &"a172".parse().unwrap()) else { panic!() };
        assert_eq!(named, ids[..2]);
    }

    #[test]
    fn a_pattern_where_none_is_taken_gets_the_commands_that_take_one() {
        assert_eq!(exact("ci/a").unwrap(), "ci/a".parse().unwrap());
        let error = exact("ci/*").unwrap_err();
        for command in ["`linkspan cache ls 'ci/*'`", "`linkspan cache prune --filter 'ref=ci/*'`"] {
            assert!(error.contains(command), "{error}");
        }
        assert!(exact("a b").unwrap_err().contains("a b"));
    }

    #[test]
    fn a_pattern_means_the_refs_that_match() {
        let all = [version("ci/a", "1"), version("ci/b", "2"), version("app", "3")];
        let found = |text: &str| text.parse::<Selector>().unwrap().matching(&all).len();
        assert_eq!((found("ci/*"), found("*a*"), found("app"), found("x*")), (2, 2, 1, 0));
    }
}
