//! What of a bucket is in use: everything that tags, young manifests, images without a name and build caches reach.
//!
//! Lists are streamed, and keys of 32 bytes are kept of what is found: about 100 bytes for each blob that is in use, and 32 for
//! each reference of a document. Documents are read once, however often the survey is repeated; links of tags when they change.
//!
//! A document or link that cannot be read might refer to any blob: then the survey fails, and nothing is collected.

mod document;
mod key;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Deserialize;

use super::bucket::PARALLEL;
use super::keys::{self, Link};
use super::stores::Stores;
use crate::engine::EngineError;
use crate::image::Digest;
use document::{Document, is_document};
pub(super) use key::{Key, key};

/// The longest document that is read, in bytes: as long as registries take.
const MAX_DOCUMENT: u64 = 4 << 20;
/// The longest record of a build cache, in bytes.
const MAX_RECORD: u64 = 64 << 10;
/// The longest link of a tag, in bytes.
const MAX_LINK: u64 = 1024;
/// How many links, documents and names one survey keeps.
const MAX_KEPT: usize = 5_000_000;

const BROKEN: &str = "nothing is collected while it might refer to any blob: write or remove it";

#[derive(Deserialize)]
struct Reference {
    digest: Digest,
}

/// What tags, links and lists say.
#[derive(Default)]
struct Roots {
    documents: HashSet<Digest>,
    /// The manifests and indexes of all repositories.
    revisions: HashSet<Digest>,
    /// The keys of links of tags, and the stores' versions of them.
    tags: Vec<(String, Option<String>)>,
    in_use: HashSet<Key>,
}

/// The history of one tag: when it was set to what.
#[derive(Default)]
struct History {
    folder: String,
    links: Vec<(SystemTime, Digest)>,
}

impl History {
    /// What the tag was moved away from at `since` or later.
    fn moved_since(&mut self, since: SystemTime) -> Vec<Digest> {
        self.links.sort();
        let pairs = self.links.iter().zip(self.links.iter().skip(1));
        pairs.filter(|(_, (next, _))| *next >= since).map(|((_, digest), _)| digest.clone()).collect()
    }
}

/// A survey that can be repeated.
pub(super) struct Survey {
    stores: Arc<Stores>,
    documents: HashMap<Digest, Document>,
    links: HashMap<String, (String, Digest)>,
}

impl Survey {
    pub(super) fn new(stores: &Arc<Stores>) -> Self {
        Self { stores: stores.clone(), documents: HashMap::new(), links: HashMap::new() }
    }

    fn broken(&self, object: &str, reason: String) -> EngineError {
        let object = self.stores.bucket().object(object);
        EngineError::Object { operation: "reading", object, reason, hint: Some(BROKEN) }
    }

    fn check_count(&self, count: usize) -> Result<(), EngineError> {
        if count <= MAX_KEPT {
            return Ok(());
        }
        let reason = format!(
            "it has more than {MAX_KEPT} manifests, tags and links that are to be kept in mind; expected fewer"
        );
        Err(self.stores.bucket().invalid(keys::REPOSITORIES, reason))
    }

    /// What is in use. Links that are younger than `grace` count as uses; `now` is the time of the store. `pinned` are the blobs
    /// of leases, read before.
    pub(super) async fn in_use(
        &mut self,
        pinned: impl IntoIterator<Item = Digest>,
        now: SystemTime,
        grace: Duration,
    ) -> Result<HashSet<Key>, EngineError> {
        let mut roots = self.repositories(now.checked_sub(grace).unwrap_or(SystemTime::UNIX_EPOCH)).await?;
        self.tags(&mut roots).await?;
        self.unnamed(&mut roots).await?;
        let Roots { documents, in_use, .. } = &mut roots;
        let mut count = 0;
        let keeping = |digest: Digest| {
            in_use.insert(key(&digest));
            documents.insert(digest);
            count += 1;
        };
        self.stores.names.all_kept(keeping).await?;
        self.check_count(count)?;
        self.caches(&mut roots).await?;
        self.read(roots.revisions.iter().cloned().collect()).await?;
        for digest in pinned {
            if roots.revisions.contains(&digest) {
                roots.documents.insert(digest);
            } else {
                roots.in_use.insert(key(&digest));
            }
        }
        self.follow(roots).await
    }

    /// The links of all repositories; those that were written at `young` or later are uses.
    async fn repositories(&self, young: SystemTime) -> Result<Roots, EngineError> {
        let (mut roots, mut history) = (Roots::default(), History::default());
        let mut listed = std::pin::pin!(self.stores.bucket().listing(keys::REPOSITORIES));
        while let Some((path, meta)) = listed.try_next().await? {
            let written = SystemTime::from(meta.last_modified);
            match Link::at(&path) {
                Some(Link::Layer(digest)) if written >= young => {
                    roots.in_use.insert(key(&digest));
                }
                Some(Link::Revision(digest)) => {
                    if written >= young {
                        roots.documents.insert(digest.clone());
                    }
                    roots.revisions.insert(digest);
                }
                Some(Link::Current(_)) => roots.tags.push((path, meta.e_tag)),
                Some(Link::Index(folder, digest)) => {
                    // Lists are sorted.
                    if history.folder != folder {
                        roots.documents.extend(history.moved_since(young));
                        history = History { folder: folder.to_owned(), links: Vec::new() };
                    }
                    history.links.push((written, digest));
                }
                Some(Link::Layer(_)) | None => {}
            }
            self.check_count(roots.revisions.len() + roots.tags.len() + roots.in_use.len() + history.links.len())?;
        }
        roots.documents.extend(history.moved_since(young));
        Ok(roots)
    }

    /// What the tags point to.
    async fn tags(&mut self, roots: &mut Roots) -> Result<(), EngineError> {
        let mut changed = Vec::new();
        let mut links = HashMap::new();
        for (path, version) in std::mem::take(&mut roots.tags) {
            match self.links.remove(&path) {
                Some((known, digest)) if version.as_ref() == Some(&known) => {
                    roots.documents.insert(digest.clone());
                    links.insert(path, (known, digest));
                }
                _ => changed.push(path),
            }
        }
        let read = changed.into_iter().map(|path| {
            let bucket = self.stores.bucket();
            async move { Ok::<_, EngineError>((bucket.get(&path, MAX_LINK).await?, path)) }
        });
        let mut read = stream::iter(read).buffer_unordered(PARALLEL);
        while let Some((found, path)) = read.try_next().await? {
            // A tag that was removed meanwhile.
            let Some(found) = found else { continue };
            let text = String::from_utf8_lossy(&found.bytes).trim().to_owned();
            let digest: Digest = text.parse().map_err(|error| self.broken(&path, format!("it is no link: {error}")))?;
            roots.documents.insert(digest.clone());
            if let Some(version) = found.version.e_tag {
                links.insert(path, (version, digest));
            }
        }
        drop(read);
        self.links = links;
        Ok(())
    }

    async fn unnamed(&self, roots: &mut Roots) -> Result<(), EngineError> {
        let mut listed = std::pin::pin!(self.stores.bucket().listing(keys::UNNAMED));
        while let Some((path, _)) = listed.try_next().await? {
            let digest = path.strip_prefix(keys::UNNAMED).and_then(|path| path.strip_prefix('/'));
            let digest = digest.and_then(|path| path.replacen('/', ":", 1).parse().ok());
            let digest: Digest = digest.ok_or_else(|| self.broken(&path, "its key has no digest".to_owned()))?;
            let Some(root) = self.stores.names.unnamed(&digest).await? else { continue };
            roots.in_use.insert(key(&digest));
            if is_document(&root.media_type) {
                roots.documents.insert(digest);
            }
        }
        Ok(())
    }

    async fn caches(&self, roots: &mut Roots) -> Result<(), EngineError> {
        #[derive(Deserialize)]
        struct Version {
            root: Reference,
        }
        let mut listed = std::pin::pin!(self.stores.bucket().listing(keys::CACHES));
        while let Some((path, _)) = listed.try_next().await? {
            let Some(found) = self.stores.bucket().get(&path, MAX_RECORD).await? else { continue };
            let version: Version = serde_json::from_slice(&found.bytes)
                .map_err(|error| self.broken(&path, format!("it is no build cache: {error}")))?;
            roots.in_use.insert(key(&version.root.digest));
            roots.documents.insert(version.root.digest);
        }
        Ok(())
    }

    /// Reads documents that are not known yet. One that is not there refers to nothing.
    async fn read(&mut self, digests: Vec<Digest>) -> Result<(), EngineError> {
        let unknown = digests.into_iter().filter(|digest| !self.documents.contains_key(digest)).collect::<Vec<_>>();
        let stores = self.stores.clone();
        let read = unknown.into_iter().map(|digest| {
            let stores = stores.clone();
            async move { Ok::<_, EngineError>((stores.bucket().get(&keys::blob(&digest), MAX_DOCUMENT).await?, digest)) }
        });
        let mut read = stream::iter(read).buffer_unordered(PARALLEL);
        while let Some((found, digest)) = read.try_next().await? {
            let Some(found) = found else { continue };
            let own = Digest::of(digest.algorithm(), &found.bytes);
            if own != digest {
                return Err(
                    self.broken(&keys::blob(&digest), format!("it is damaged: its bytes have the digest {own}"))
                );
            }
            let document = Document::parse(&found.bytes)
                .map_err(|error| self.broken(&keys::blob(&digest), format!("it is no manifest or index: {error}")))?;
            self.check_count(self.documents.len())?;
            self.documents.insert(digest, document);
        }
        Ok(())
    }

    /// Everything that `roots` reach.
    async fn follow(&mut self, roots: Roots) -> Result<HashSet<Key>, EngineError> {
        let Roots { documents, revisions, mut in_use, .. } = roots;
        let mut referrers: HashMap<Key, Vec<Digest>> = HashMap::new();
        for revision in &revisions {
            if let Some(subject) = self.documents.get(revision).and_then(|document| document.subject) {
                referrers.entry(subject).or_default().push(revision.clone());
            }
        }
        let (mut seen, mut next) = (HashSet::new(), documents);
        while !next.is_empty() {
            self.read(next.iter().cloned().collect()).await?;
            let mut found = HashSet::new();
            for digest in next {
                let own = key(&digest);
                if !seen.insert(own) {
                    continue;
                }
                in_use.insert(own);
                found.extend(referrers.get(&own).into_iter().flatten().cloned());
                if let Some(document) = self.documents.get(&digest) {
                    in_use.extend(&document.blobs);
                    found.extend(document.documents.iter().cloned());
                }
            }
            found.retain(|digest| !seen.contains(&key(digest)));
            next = found;
        }
        Ok(in_use)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(text: &str) -> Digest {
        Digest::sha256(text.as_bytes())
    }

    #[test]
    fn a_tag_moved_away_from_what_is_followed_by_something_young() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let links = vec![(at(30), digest("c")), (at(10), digest("a")), (at(20), digest("b"))];
        let mut history = History { folder: String::new(), links };
        assert_eq!(history.moved_since(at(31)), []);
        assert_eq!(history.moved_since(at(25)), [digest("b")]);
        assert_eq!(history.moved_since(at(15)), [digest("a"), digest("b")]);
    }
}
