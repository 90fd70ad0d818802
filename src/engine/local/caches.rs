//! Build caches in an index: an entry for each version, with its metadata in annotations.
//!
//! BuildKit's own `type=local,src=DIR,tag=REF` looks for an entry of which `org.opencontainers.image.ref.name` is the
//! tag (buildkit `client/ociindex`), and takes the first: one tag is one document, and several parts cannot share a
//! document, because an import has one cache config. So the newest version of a ref has the ref as its tag, and each
//! other version has its own tag, made of the ref and the version's title (`app-linux-arm64`).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::index::{Entry, LayoutIndex, entry};
use crate::engine::EngineError;
use crate::engine::caches::{
    CacheContent, CacheVersion, NewVersion, check_new, id_prefix, milliseconds, new_id, now, sort, time,
};
use crate::image::cache::CacheRoot;
use crate::image::layout::EMPTY_INDEX;
use crate::image::{Descriptor, Limits, REF_NAME};
use crate::source::{Source, read_document};

/// How many entries of other tools are examined.
pub(crate) const MAX_FOREIGN: usize = 1000;

const ID: &str = "dev.linkspan.cache.id";
/// Marks a cache. The value is its ref.
const REFERENCE: &str = "dev.linkspan.cache.ref";
const PART: &str = "dev.linkspan.cache.part";
const TITLE: &str = "dev.linkspan.cache.title";
const MODE: &str = "dev.linkspan.cache.mode";
const BUILDER: &str = "dev.linkspan.cache.builder";
const CREATED: &str = "dev.linkspan.cache.created";
const USED: &str = "dev.linkspan.cache.used";
const LAYERS: &str = "dev.linkspan.cache.layers";
const BYTES: &str = "dev.linkspan.cache.bytes";

impl Entry {
    /// Whether it is a build cache that was stored here, and no image.
    pub(crate) fn is_cache(&self) -> bool {
        self.target.annotations.contains_key(REFERENCE)
    }

    /// The tag by which BuildKit finds a cache that it wrote itself, if this may be one: only its document can confirm
    /// that.
    pub(crate) fn foreign_cache(&self) -> Option<&str> {
        let tag = self.target.annotations.get(REF_NAME).filter(|tag| !tag.is_empty())?;
        (!self.is_cache() && CacheRoot::may_be(&self.target)).then_some(tag)
    }

    /// The id of the version that [`Self::foreign_cache`] returns.
    pub(crate) fn foreign_id(&self) -> Option<String> {
        Some(format!("{}{}", id_prefix(self.foreign_cache()?), self.target.digest.short()))
    }

    /// The version that [`Self::foreign_cache`] names, if `document`, which it refers to, is the root of a cache. `written` is when
    /// that was written.
    pub(crate) fn foreign_version(&self, document: Bytes, written: SystemTime) -> Option<CacheVersion> {
        let (reference, id, target) = (self.foreign_cache()?, self.foreign_id()?, &self.target);
        let root = Descriptor::new(target.media_type.clone(), target.digest.clone(), target.size);
        let listed = CacheRoot::parse(root.clone(), document).ok()?;
        Some(CacheVersion {
            id,
            reference: reference.to_owned(),
            part: String::new(),
            title: String::new(),
            mode: String::new(),
            builder: String::new(),
            created: written,
            used: written,
            root,
            layers: u64::try_from(listed.layers.len()).unwrap_or(u64::MAX),
            bytes: listed.blobs().iter().fold(0, |sum, blob| sum.saturating_add(blob.size)),
        })
    }

    /// The id of the version, whoever wrote it.
    fn version_id(&self) -> Option<String> {
        let id = self.target.annotations.get(ID).filter(|_| self.is_cache()).cloned();
        id.or_else(|| self.foreign_id())
    }

    fn version(&self) -> Option<CacheVersion> {
        let (target, annotations) = (&self.target, &self.target.annotations);
        let text = |key: &str| annotations.get(key).cloned().unwrap_or_default();
        let number = |key: &str| annotations.get(key).and_then(|text| text.parse().ok()).unwrap_or_default();
        Some(CacheVersion {
            id: annotations.get(ID)?.clone(),
            reference: annotations.get(REFERENCE)?.clone(),
            part: text(PART),
            title: text(TITLE),
            mode: text(MODE),
            builder: text(BUILDER),
            created: time(annotations.get(CREATED).map(String::as_str)),
            used: time(annotations.get(USED).map(String::as_str)),
            root: Descriptor::new(target.media_type.clone(), target.digest.clone(), target.size),
            layers: number(LAYERS),
            bytes: number(BYTES),
        })
    }
}

fn target(version: &CacheVersion) -> Descriptor {
    let annotations = [
        (ID, version.id.clone()),
        (REFERENCE, version.reference.clone()),
        (PART, version.part.clone()),
        (TITLE, version.title.clone()),
        (MODE, version.mode.clone()),
        (BUILDER, version.builder.clone()),
        (CREATED, milliseconds(version.created).to_string()),
        (USED, milliseconds(version.used).to_string()),
        (LAYERS, version.layers.to_string()),
        (BYTES, version.bytes.to_string()),
    ];
    let given = annotations.into_iter().filter(|(_, value)| !value.is_empty());
    let annotations: BTreeMap<_, _> = given.map(|(key, value)| (key.to_owned(), value)).collect();
    let bare = Descriptor::new(version.root.media_type.clone(), version.root.digest.clone(), version.root.size);
    Descriptor { annotations, ..bare }
}

impl LayoutIndex {
    /// The versions that were stored here, the newest first.
    pub(crate) fn caches(&self) -> Vec<CacheVersion> {
        let mut versions: Vec<_> = self.entries.iter().filter_map(Entry::version).collect();
        sort(&mut versions);
        versions
    }

    /// The roots of versions.
    pub(crate) fn cache_roots(&self, ids: &[String]) -> Vec<Descriptor> {
        let is_meant = |entry: &&Entry| entry.version_id().is_some_and(|id| ids.contains(&id));
        self.entries.iter().filter(is_meant).map(|entry| entry.target.clone()).collect()
    }

    /// Adds a version.
    pub(crate) fn insert_cache(&mut self, version: &CacheVersion) -> Result<(), serde_json::Error> {
        self.entries.push(entry(target(version))?);
        self.name_versions()
    }

    /// Removes versions. Returns their roots.
    pub(crate) fn remove_caches(&mut self, ids: &[String]) -> Result<Vec<Descriptor>, serde_json::Error> {
        let is_meant = |entry: &Entry| entry.version_id().is_some_and(|id| ids.contains(&id));
        let (gone, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.entries).into_iter().partition(is_meant);
        self.entries = kept;
        self.name_versions()?;
        Ok(gone.into_iter().map(|entry| entry.target).collect())
    }

    /// Records the time when a version was used.
    pub(crate) fn touch_cache(&mut self, id: &str, used: SystemTime) -> Result<(), serde_json::Error> {
        for at in 0..self.entries.len() {
            if self.entries[at].is_cache() && self.entries[at].target.annotations.get(ID).is_some_and(|own| own == id) {
                self.annotate(at, USED, Some(milliseconds(used).to_string()))?;
            }
        }
        Ok(())
    }

    /// Gives each version a unique tag by which BuildKit finds it.
    fn name_versions(&mut self) -> Result<(), serde_json::Error> {
        let versions = self.caches();
        let theirs = self.entries.iter().filter_map(Entry::foreign_cache).map(str::to_owned);
        let mut taken: HashSet<String> = theirs.chain(versions.iter().map(|it| it.reference.clone())).collect();
        let (mut tags, mut refs) = (HashMap::new(), HashSet::new());
        for version in versions {
            let tag = match refs.insert(version.reference.clone()) {
                true => version.reference,
                false => free_tag(&version, &mut taken),
            };
            tags.insert(version.id, tag);
        }
        for at in 0..self.entries.len() {
            if let Some(version) = self.entries[at].version() {
                self.annotate(at, REF_NAME, tags.get(&version.id).cloned())?;
            }
        }
        Ok(())
    }

    /// Sets an annotation of an entry that we wrote.
    fn annotate(&mut self, at: usize, key: &str, value: Option<String>) -> Result<(), serde_json::Error> {
        let mut target = self.entries[at].target.clone();
        if target.annotations.get(key) == value.as_ref() {
            return Ok(());
        }
        match value {
            Some(value) => target.annotations.insert(key.to_owned(), value),
            None => target.annotations.remove(key),
        };
        self.entries[at] = entry(target)?;
        Ok(())
    }
}

/// A tag for a version that is not the newest of its ref.
fn free_tag(version: &CacheVersion, taken: &mut HashSet<String>) -> String {
    let words = version.title.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let slug = std::iter::once(version.reference.as_str()).chain(words).collect::<Vec<_>>().join("-");
    let numbered = (2u64..).map(|number| format!("{slug}-{number}"));
    let mut tags = (slug != version.reference).then(|| slug.clone()).into_iter().chain(numbered);
    let tag = tags.find(|tag| !taken.contains(tag)).unwrap_or_default();
    taken.insert(tag.clone());
    tag
}

/// The versions that an index lists, the newest first. Of those that other tools wrote the roots are read from `source`.
pub(crate) async fn cache_versions(index: &[u8], source: &dyn Source) -> Result<Vec<CacheVersion>, String> {
    let index = LayoutIndex::parse(index)?;
    let (mut versions, mut tags) = (index.caches(), HashSet::new());
    for entry in index.entries.iter().filter(|entry| entry.foreign_cache().is_some()).take(MAX_FOREIGN) {
        let is_first = entry.foreign_cache().is_some_and(|tag| tags.insert(tag.to_owned()));
        if !is_first || entry.target.size > Limits::default().document_bytes {
            continue;
        }
        // Whatever cannot be read is none: there may be anything beside the caches.
        let Ok(document) = read_document(source, &entry.target).await else { continue };
        versions.extend(entry.foreign_version(document, UNIX_EPOCH));
    }
    sort(&mut versions);
    Ok(versions)
}

/// The index of a layout that has these versions alone, and the versions as it lists them; the last one is the newest.
pub(crate) fn new_cache_index(
    contents: &[(NewVersion, CacheContent)],
    builder: &str,
) -> Result<(Vec<CacheVersion>, Vec<u8>), EngineError> {
    let (now, mut versions) = (now(), Vec::with_capacity(contents.len()));
    for (at, (new, content)) in (0..).zip(contents) {
        check_new(new)?;
        let created = now + Duration::from_millis(at);
        versions.push(CacheVersion {
            id: new_id(&new.reference, created),
            reference: new.reference.clone(),
            part: new.part.clone(),
            title: new.title.clone(),
            mode: new.mode.clone(),
            builder: builder.to_owned(),
            created,
            used: created,
            root: content.root.descriptor.clone(),
            layers: u64::try_from(content.present().len()).unwrap_or(u64::MAX),
            bytes: content.bytes(),
        });
    }
    let index = || {
        let mut index = LayoutIndex::parse(EMPTY_INDEX)?;
        versions
            .iter()
            .try_for_each(|it| index.insert_cache(it))
            .and_then(|()| index.to_bytes())
            .map_err(|it| it.to_string())
    };
    let unwritable = |reason| EngineError::Protocol { operation: "making an index".to_owned(), reason };
    let bytes = index().map_err(unwritable)?;
    Ok((versions, bytes))
}

/// The versions of a cache in a folder, the newest first: the title of each, and the tag by which BuildKit finds it.
pub(crate) fn cache_tags(index: &[u8], reference: &str) -> Result<Vec<(String, String)>, String> {
    let index = LayoutIndex::parse(index)?;
    let own =
        index.entries.iter().filter_map(|entry| Some((entry.version()?, entry.target.annotations.get(REF_NAME)?)));
    let mut own: Vec<_> = own.filter(|(version, _)| version.reference == reference).collect();
    own.sort_by(|(one, _), (other, _)| (other.created, &other.id).cmp(&(one.created, &one.id)));
    Ok(own.into_iter().map(|(version, tag)| (version.title, tag.clone())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Digest;

    fn version(reference: &str, at: u64) -> CacheVersion {
        let created = UNIX_EPOCH + Duration::from_secs(at);
        let root = Digest::sha256(format!("{reference} {at}").as_bytes());
        CacheVersion {
            id: format!("{}{at}", id_prefix(reference)),
            reference: reference.to_owned(),
            part: "0123456789abcdef0123456789abcdef".to_owned(),
            title: "linux/amd64".to_owned(),
            mode: "max".to_owned(),
            builder: String::new(),
            created,
            used: created,
            root: Descriptor::new("application/vnd.oci.image.manifest.v1+json", root, 7),
            layers: 3,
            bytes: 99,
        }
    }

    fn index() -> LayoutIndex {
        LayoutIndex::parse(EMPTY_INDEX).unwrap()
    }

    fn tags(index: &LayoutIndex) -> Vec<Option<&str>> {
        index.entries.iter().map(|entry| entry.target.annotations.get(REF_NAME).map(String::as_str)).collect()
    }

    #[test]
    fn versions_come_back_as_they_were_stored() {
        let mut index = index();
        let (old, new) = (version("a", 1), version("a", 2));
        index.insert_cache(&new).unwrap();
        index.insert_cache(&old).unwrap();
        let read = LayoutIndex::parse(&index.to_bytes().unwrap()).unwrap();
        assert_eq!(read.caches(), [new, old]);
        assert_eq!(tags(&read), [Some("a"), Some("a-linux-amd64")], "BuildKit takes the first that it finds");
    }

    #[test]
    fn every_version_has_a_tag_of_its_own() {
        let mut index = index();
        for version in [version("a", 1), version("a", 2), version("a", 3), version("a-linux-amd64", 1)] {
            index.insert_cache(&version).unwrap();
        }
        let untitled = CacheVersion { title: String::new(), ..version("a", 0) };
        index.insert_cache(&untitled).unwrap();
        let expected = ["a-linux-amd64-3", "a-linux-amd64-2", "a", "a-linux-amd64", "a-2"];
        assert_eq!(tags(&index), expected.map(Some));
        let shown = cache_tags(&index.to_bytes().unwrap(), "a").unwrap();
        let shown: Vec<_> = shown.iter().map(|(title, tag)| (title.as_str(), tag.as_str())).collect();
        let of = "linux/amd64";
        assert_eq!(shown, [(of, "a"), (of, "a-linux-amd64-2"), (of, "a-linux-amd64-3"), ("", "a-2")]);
    }

    #[test]
    fn a_version_that_goes_leaves_its_tag_to_the_next() {
        let mut index = index();
        for version in [version("a", 1), version("a", 2), version("b", 1)] {
            index.insert_cache(&version).unwrap();
        }
        let gone = index.remove_caches(&[version("a", 2).id]).unwrap();
        assert_eq!(gone.iter().map(|root| &root.digest).collect::<Vec<_>>(), [&version("a", 2).root.digest]);
        assert_eq!(tags(&index), [Some("a"), Some("b")]);
        assert!(index.remove_caches(&[version("a", 2).id]).unwrap().is_empty());
    }

    #[test]
    fn a_cache_is_no_image_and_an_image_no_cache() {
        let mut index = index();
        let cache = version("docker.io/library/demo:1", 1);
        index.insert_cache(&cache).unwrap();
        let name = ["docker.io/library/demo:1".parse().unwrap()];
        assert!(index.resolve(&name[0]).is_none());
        assert!(!index.resolves_to(&cache.root, &[]));
        index.insert(&cache.root, &name).unwrap();
        assert_eq!((index.entries.len(), index.caches().len()), (2, 1));
        assert_eq!(index.remove(Some("docker.io/library/demo:1"), &cache.root.digest).len(), 1);
        index.remove(None, &cache.root.digest);
        assert_eq!(index.caches(), [cache]);
    }

    #[test]
    fn the_last_use_is_noted() {
        let mut index = index();
        index.insert_cache(&version("a", 1)).unwrap();
        let used = UNIX_EPOCH + Duration::from_secs(50);
        index.touch_cache(&version("a", 1).id, used).unwrap();
        assert_eq!(index.caches()[0].used, used);
    }

    #[test]
    fn folders_of_buildkit_list_their_tags() {
        let mut root = version("x", 1).root;
        root.annotations.insert(REF_NAME.to_owned(), "latest".to_owned());
        let theirs = entry(root).unwrap();
        assert_eq!(theirs.foreign_cache(), Some("latest"));
        let id = theirs.foreign_id().unwrap();
        let mut index = index();
        index.entries.push(theirs);
        assert!(index.caches().is_empty());
        assert_eq!(index.remove_caches(&[id]).unwrap().len(), 1);
    }
}
