//! The build caches that an engine stores: BuildKit's cache documents and the layers that they list.
//!
//! A cache has a ref, and under the ref *parts*, one for each platform and target that builds write into it. Each export of a
//! part is a *version*: an OCI index or manifest as its root, which lists a cache config and layers. A version is complete or
//! not there: [`PendingVersion::commit`] ends in one write that makes it visible, and whatever was stored before that
//! belongs to a lease that [`CacheStore::recover`] releases when its process is gone.
//!
//! Names, limits and the content of the documents are for `crate::caches`; an engine stores what it is given.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;

use super::images::Images;
use super::{EngineError, Lease, Origin};
use crate::image::cache::CacheRoot;
use crate::image::{Descriptor, Digest};

/// How the ids of all versions begin.
pub const VERSION_PREFIX: &str = "linkspan-cache-";
/// The longest ref, in bytes: with the longest key it is a label that containerd accepts.
pub const MAX_REFERENCE: usize = 512;
/// The longest mode, in bytes.
const MAX_MODE: usize = 32;
/// How old the last use of a version must be to be written again.
pub const TOUCH_INTERVAL: Duration = Duration::from_secs(3600);

/// A new version of a cache's part.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewVersion {
    /// The cache's ref, of 1 to [`MAX_REFERENCE`] bytes without control characters.
    pub reference: String,
    /// The part: 32 hexadecimal digits, or empty for a cache that has no parts.
    pub part: String,
    /// What the part is of, for people (`linux/amd64 target=app`); may be empty.
    pub title: String,
    /// BuildKit's mode of the export (`min`, `max`); may be empty.
    pub mode: String,
}

/// A version that is complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheVersion {
    /// Its id in the store.
    pub id: String,
    /// The cache's ref.
    pub reference: String,
    /// The part; empty for a cache that has none.
    pub part: String,
    /// What the part is of, for people.
    pub title: String,
    /// The mode of the export, if it is known.
    pub mode: String,
    /// The builder that exported it, if it is known.
    pub builder: String,
    /// When its export began.
    pub created: SystemTime,
    /// When it was last used, to [`TOUCH_INTERVAL`].
    pub used: SystemTime,
    /// The OCI index or manifest.
    pub root: Descriptor,
    /// How many layers it has.
    pub layers: u64,
    /// The bytes of its layers and documents; versions may share them with each other and with images.
    pub bytes: u64,
}

impl CacheVersion {
    /// A version that begins now, without content yet.
    ///
    /// # Errors
    /// [`EngineError::Cache`] if no store can hold what `new` says.
    pub(super) fn begin(new: &NewVersion, origin: &Origin) -> Result<Self, EngineError> {
        check_new(new)?;
        let created = now();
        Ok(Self {
            id: new_id(&new.reference, created),
            reference: new.reference.clone(),
            part: new.part.clone(),
            title: new.title.clone(),
            mode: new.mode.clone(),
            builder: origin.builder.clone(),
            created,
            used: created,
            root: Descriptor::new("", Digest::sha256(b""), 0),
            layers: 0,
            bytes: 0,
        })
    }

    /// The id of the export that stores it: letters, digits and dashes, and short enough for a file name.
    pub(super) fn export(&self) -> String {
        self.id.strip_prefix("linkspan-").unwrap_or(&self.id).to_owned()
    }

    /// The same version with its content.
    pub(super) fn complete(&self, content: &CacheContent) -> Self {
        Self {
            root: content.root.descriptor.clone(),
            layers: u64::try_from(content.present().len()).unwrap_or(u64::MAX),
            bytes: content.bytes(),
            used: now(),
            ..self.clone()
        }
    }
}

/// A document and its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheDocument {
    /// What it is.
    pub descriptor: Descriptor,
    /// Its bytes, which whoever received them has verified.
    pub bytes: Bytes,
}

/// What makes a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheContent {
    /// The cache config.
    pub config: CacheDocument,
    /// The OCI index or manifest that lists the config and the layers.
    pub root: CacheDocument,
    /// All layers that the root lists.
    pub layers: Vec<Descriptor>,
    /// The layers that are known not to be in the engine, and stay out of it.
    pub absent: HashSet<Digest>,
}

impl CacheContent {
    /// The layers that must be in the engine, each once.
    pub fn present(&self) -> Vec<Descriptor> {
        let mut seen = HashSet::new();
        let is_included =
            |layer: &&Descriptor| !self.absent.contains(&layer.digest) && seen.insert(layer.digest.clone());
        self.layers.iter().filter(is_included).cloned().collect()
    }

    /// The bytes of documents and layers that are in the engine.
    pub fn bytes(&self) -> u64 {
        let layers = self.present();
        let sizes = layers.iter().map(|layer| layer.size);
        sizes.chain([self.config.descriptor.size, self.root.descriptor.size]).fold(0, u64::saturating_add)
    }
}

/// The caches of an engine.
#[async_trait]
pub trait CacheStore: Debug + Send + Sync {
    /// The complete versions, of one cache or of all, the newest first.
    ///
    /// # Errors
    /// When the engine cannot be queried.
    async fn versions(&self, reference: Option<&str>) -> Result<Vec<CacheVersion>, EngineError>;

    /// Begins a version: creates a lease for it, which does not expire and belongs to this process until the version is
    /// complete.
    ///
    /// # Errors
    /// [`EngineError::Cache`] if the store cannot hold what `new` says; when the engine refuses.
    async fn begin(&self, new: &NewVersion, origin: &Origin) -> Result<Arc<dyn PendingVersion>, EngineError>;

    /// A lease that keeps the blobs of versions, whoever deletes these. It ends with this process. A version that went before the
    /// lease was there may have lost some: look for it once more. `None` for a store that nothing was ever written to, which
    /// a reader does not begin. `is_deletion` says that these versions are deleted next, so that what only the lease
    /// keeps is garbage when it is released.
    ///
    /// # Errors
    /// When the engine refuses.
    async fn lease(&self, ids: &[String], is_deletion: bool) -> Result<Option<Arc<dyn Lease>>, EngineError>;

    /// Deletes versions, and with them the blobs that nothing else needs; fine if they are gone.
    ///
    /// # Errors
    /// [`EngineError::Cache`] for an id that is no version's; when the engine refuses.
    async fn delete(&self, ids: &[String]) -> Result<(), EngineError>;

    /// Notes that `version` is used now, unless it was noted less than [`TOUCH_INTERVAL`] ago; fine if it is gone.
    ///
    /// # Errors
    /// When the engine refuses.
    async fn touch(&self, version: &CacheVersion) -> Result<(), EngineError>;

    /// Releases the unfinished versions of processes that are gone, and counts them.
    ///
    /// # Errors
    /// When the engine cannot be queried.
    async fn recover(&self) -> Result<usize, EngineError>;

    /// The blobs of the store, to be read.
    fn blobs(&self) -> Arc<dyn Images>;
}

/// A version that is being stored. Dropping it releases nothing: end it by `commit` or `abort`.
#[async_trait]
pub trait PendingVersion: Debug + Send + Sync {
    /// The id that the version will have.
    fn id(&self) -> &str;

    /// The lease under which its blobs are pinned and written. It is the version's own once that is complete, so whoever
    /// began the version never releases it.
    fn lease(&self) -> Arc<dyn Lease>;

    /// Stores the documents and makes the version visible, at once and with all its layers, or not at all.
    ///
    /// # Errors
    /// [`EngineError::Missing`] if a layer is neither in the engine nor said to be absent; when the engine refuses.
    async fn commit(&self, content: &CacheContent) -> Result<CacheVersion, EngineError>;

    /// Ends it without a version; fine if it has ended.
    ///
    /// # Errors
    /// When the engine cannot be queried: [`CacheStore::recover`] of a later process releases it.
    async fn abort(&self) -> Result<(), EngineError>;
}

/// How the ids of a cache's versions begin.
pub(super) fn id_prefix(reference: &str) -> String {
    format!("{VERSION_PREFIX}{}-", &Digest::sha256(reference.as_bytes()).hex()[..32])
}

/// An id for a version of `reference`, created at `created`.
pub(super) fn new_id(reference: &str, created: SystemTime) -> String {
    // Each RandomState is seeded by the system.
    let random = RandomState::new().hash_one(created) >> 32;
    format!("{}{}-{random:08x}", id_prefix(reference), milliseconds(created))
}

/// Who has a lease on versions: this process, by an id that no other lease has.
pub(super) fn lease_origin() -> Origin {
    let now = SystemTime::now();
    // Each RandomState is seeded by the system; two make 128 bits.
    let half = || RandomState::new().hash_one(now);
    Origin::internal(format!("read-cache-{:016x}{:016x}", half(), half()), "cache", "")
}

/// Refuses what no store could keep as a label, or list.
pub(crate) fn check_new(new: &NewVersion) -> Result<(), EngineError> {
    let refused = |reason: String| {
        let shown: String = new.reference.chars().take(80).collect();
        Err(EngineError::Cache { reference: shown, reason })
    };
    let is_text = |text: &str, limit: usize| text.len() <= limit && !text.chars().any(char::is_control);
    if new.reference.is_empty() || !is_text(&new.reference, MAX_REFERENCE) {
        return refused(format!("expected a ref of 1 to {MAX_REFERENCE} bytes without control characters"));
    }
    if !matches!(new.part.len(), 0 | 32) || !new.part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return refused("expected a part of 32 hexadecimal digits".to_owned());
    }
    for (what, text, limit) in [("title", &new.title, MAX_REFERENCE), ("mode", &new.mode, MAX_MODE)] {
        if !is_text(text, limit) {
            return refused(format!("expected a {what} of at most {limit} bytes without control characters"));
        }
    }
    Ok(())
}

/// Refuses ids that no version of a store with ids of ours has.
pub(super) fn check_ids(ids: &[String]) -> Result<(), EngineError> {
    let is_ours = |id: &String| {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        id.starts_with(VERSION_PREFIX) && id.bytes().all(is_plain)
    };
    ids.iter().find(|id| !is_ours(id)).map_or(Ok(()), |other| {
        let reason = format!("its versions have ids that begin with `{VERSION_PREFIX}`");
        Err(EngineError::Cache { reference: other.clone(), reason })
    })
}

/// The blobs of a version with the root `root`, whose bytes are `document`; of one that cannot be read only the root.
pub(super) fn blobs_of(root: &Descriptor, document: Option<Bytes>) -> Vec<Digest> {
    let listed = document.and_then(|bytes| CacheRoot::parse(root.clone(), bytes).ok());
    let digests = |listed: CacheRoot| listed.blobs().into_iter().map(|blob| blob.digest.clone()).collect();
    listed.map_or_else(|| vec![root.digest.clone()], digests)
}

/// Fails unless `layers` have the `sizes` that were found, in the same order.
pub(super) fn check_sizes(layers: &[Descriptor], sizes: &[Option<u64>]) -> Result<(), EngineError> {
    let found = || layers.iter().zip(sizes);
    let missing: Vec<_> = found().filter(|(_, size)| size.is_none()).map(|(layer, _)| layer.digest.clone()).collect();
    if !missing.is_empty() {
        return Err(EngineError::Missing { digests: missing });
    }
    match found().find_map(|(layer, size)| Some((layer, (*size)?)).filter(|(layer, size)| layer.size != *size)) {
        Some((layer, size)) => {
            let reason = format!("the cache lists it with {} bytes, and it has {size}", layer.size);
            Err(EngineError::Corrupt { digest: layer.digest.clone(), reason })
        }
        None => Ok(()),
    }
}

/// Sorts versions as [`CacheStore::versions`] returns them.
pub(crate) fn sort(versions: &mut [CacheVersion]) {
    versions.sort_by(|one, other| (other.created, &other.id).cmp(&(one.created, &one.id)));
}

/// Whether the last use of `version` is to be written again at `now`.
pub(super) fn is_touch_due(version: &CacheVersion, now: SystemTime) -> bool {
    now.duration_since(version.used).is_ok_and(|since| since >= TOUCH_INTERVAL)
}

/// The time, as exactly as versions note it.
pub(super) fn now() -> SystemTime {
    time(Some(&milliseconds(SystemTime::now()).to_string()))
}

/// A time as our records have it: milliseconds since 1970.
pub(super) fn milliseconds(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// The time that [`milliseconds`] notes; 1970 for what is no time.
pub(super) fn time(milliseconds: Option<&str>) -> SystemTime {
    let since = milliseconds.and_then(|text| text.parse().ok()).map(Duration::from_millis).unwrap_or_default();
    UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(reference: &str) -> NewVersion {
        NewVersion { reference: reference.to_owned(), ..NewVersion::default() }
    }

    #[test]
    fn ids_distinguish_caches_and_are_unique() {
        let now = SystemTime::now();
        let (one, other) = (new_id("a", now), new_id("a", now));
        assert_ne!(one, other);
        assert!(one.starts_with(&id_prefix("a")) && !one.starts_with(&id_prefix("b")));
        assert!(one.len() <= 76, "containerd's longest identifier: {one}");
    }

    #[test]
    fn what_no_label_can_hold_is_refused() {
        assert!(check_new(&new("app:main")).is_ok());
        assert!(check_new(&NewVersion { part: "0123456789abcdef0123456789abcdef".to_owned(), ..new("a") }).is_ok());
        for bad in [new(""), new("a\nb"), new(&"x".repeat(MAX_REFERENCE + 1))] {
            assert!(check_new(&bad).is_err(), "{bad:?}");
        }
        assert!(check_new(&NewVersion { part: "xyz".to_owned(), ..new("a") }).is_err());
        let said = |bad: NewVersion| check_new(&bad).unwrap_err().to_string();
        let long = said(NewVersion { mode: "max".repeat(20), ..new("a") });
        assert!(long.contains("expected a mode of at most 32 bytes without control characters"), "{long}");
        let control = said(NewVersion { title: "linux\u{1b}[31m".to_owned(), ..new("a") });
        assert!(control.contains("a title of at most 512 bytes without control characters"), "{control}");
    }

    #[test]
    fn times_survive_their_note() {
        let then = UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        assert_eq!(time(Some(&milliseconds(then).to_string())), then);
        assert_eq!(time(Some("soon")), UNIX_EPOCH);
        assert_eq!(time(Some(&u64::MAX.to_string())).max(UNIX_EPOCH), time(Some(&u64::MAX.to_string())));
    }

    #[test]
    fn a_blob_that_is_listed_twice_counts_once() {
        let layer = |text: &str| Descriptor::new("", Digest::sha256(text.as_bytes()), 10);
        let document = |size| CacheDocument { descriptor: Descriptor { size, ..layer("d") }, bytes: Bytes::new() };
        let content = CacheContent {
            config: document(1),
            root: document(2),
            layers: vec![layer("a"), layer("a"), layer("b")],
            absent: HashSet::from([layer("b").digest]),
        };
        assert_eq!((content.present(), content.bytes()), (vec![layer("a")], 13));
    }
}
