//! The names of a bucket: the tags of its repositories. The link of a tag is the last thing that is written of an image, and the
//! only one that is written under a condition.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::OnceCell;

use super::bucket::{Bucket, Condition, Found, PARALLEL};
use super::keys::{self, Repository};
use super::probe;
use crate::engine::images::{MAX_PAGE, Query};
use crate::engine::{EngineError, Precondition};
use crate::image::{Descriptor, Digest, Graph, Kind, Reference};

/// The longest link, in bytes: a digest, and what an editor may have added.
const MAX_LINK: u64 = 1024;
/// The longest descriptor of an image without a name, in bytes.
const MAX_DESCRIPTOR: u64 = 64 << 10;
/// How many folders a walk over the repositories visits.
const MAX_FOLDERS: usize = 20_000;
/// How many tags and images without names are listed.
pub(super) const MAX_NAMES: usize = 200_000;
/// How many links of a repository are listed at once.
pub(super) const MAX_LINKS: usize = 3_000;

const BROKEN: &str = "load or push an image of this name again, or remove the name with `linkspan rm`";

const NO_CONDITIONS: &str = "allow tags to move (without --deny-tag-move, and without what is required of a tag), or use a store \
                             that knows If-Match and If-None-Match, as S3, R2, MinIO, Google and Azure do";

/// An entry of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// A tag, by its full name.
    Tag(String, Reference),
    /// An image that a repository has by its digest alone, by its full name.
    Kept(String, Digest),
    /// An image without a name.
    Unnamed(Digest),
}

impl Entry {
    /// What lists are sorted by, as in [`crate::engine::images::Page`].
    pub(super) fn key(&self) -> String {
        match self {
            Self::Tag(name, _) | Self::Kept(name, _) => name.clone(),
            Self::Unnamed(digest) => format!("@{digest}"),
        }
    }
}

/// The names of one bucket.
#[derive(Debug)]
pub(super) struct NameIndex {
    pub(super) bucket: Bucket,
    /// Whether the store has preconditions.
    is_conditional: Arc<OnceCell<bool>>,
}

/// A tag that is to be set.
struct Tag<'a> {
    name: &'a Reference,
    repository: Repository,
    tag: &'a str,
}

/// What was there before a tag was set.
struct Replaced {
    key: String,
    before: Option<Digest>,
}

/// What is in the place of a link.
#[derive(Debug)]
pub(super) enum Linked {
    /// Nothing.
    Absent,
    /// A link.
    To(Digest, Found),
    /// Something that is no link, which others wrote.
    Unreadable(EngineError),
}

pub(super) fn link(digest: &Digest) -> Bytes {
    Bytes::copy_from_slice(digest.as_str().as_bytes())
}

impl NameIndex {
    pub(super) fn new(bucket: Bucket) -> Self {
        Self { bucket, is_conditional: Arc::default() }
    }

    /// Whether the store compares and sets. Finds it out at the first call, with two small writes.
    pub(super) async fn is_conditional(&self) -> Result<bool, EngineError> {
        self.is_conditional.get_or_try_init(|| probe::is_conditional(&self.bucket)).await.copied()
    }

    /// The repository of a name.
    pub(super) fn repository(&self, name: &Reference) -> Result<Repository, EngineError> {
        Repository::of(name).ok_or_else(|| EngineError::Object {
            operation: "naming an image in",
            object: self.bucket.address().to_owned(),
            reason: format!("`{name}` is of a registry with a port, and no path of a registry can hold one"),
            hint: Some("give the image a name without a port"),
        })
    }

    /// The error that the name which the link `key` belongs to leads to no image.
    pub(super) fn broken(&self, key: &str, reason: String) -> EngineError {
        EngineError::Object { operation: "reading", object: self.bucket.object(key), reason, hint: Some(BROKEN) }
    }

    async fn look_at(&self, key: &str) -> Result<Linked, EngineError> {
        let found = match self.bucket.get(key, MAX_LINK).await {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(Linked::Absent),
            // Most refusals of a store have a hint; that an object is too long has none.
            Err(error) if error.hint().is_some() => return Err(error),
            Err(error) => match self.bucket.size(key).await? {
                Some(size) if size > MAX_LINK => {
                    let reason = format!("it is no link: it has {size} bytes; expected a digest");
                    return Ok(Linked::Unreadable(self.broken(key, reason)));
                }
                _ => return Err(error),
            },
        };
        let text = std::str::from_utf8(&found.bytes).unwrap_or_default().trim();
        Ok(match text.parse() {
            Ok(digest) => Linked::To(digest, found),
            Err(error) => Linked::Unreadable(self.broken(key, format!("it is no link: {error}"))),
        })
    }

    async fn linked(&self, key: &str) -> Result<Option<(Digest, Found)>, EngineError> {
        match self.look_at(key).await? {
            Linked::Absent => Ok(None),
            Linked::To(digest, found) => Ok(Some((digest, found))),
            Linked::Unreadable(error) => Err(error),
        }
    }

    /// What is in the place of the link of `name`: a tag's, or with a digest that of the revision, whatever tag it has.
    pub(super) async fn look_up(&self, name: &Reference) -> Result<Linked, EngineError> {
        let Some(repository) = Repository::of(name) else { return Ok(Linked::Absent) };
        match (name.digest(), name.tag()) {
            (Some(digest), _) => self.look_at(&repository.revision(digest)).await,
            (None, Some(tag)) => self.look_at(&repository.current(tag)).await,
            (None, None) => Ok(Linked::Absent),
        }
    }

    /// The root that `name` resolves to.
    pub(super) async fn resolve(&self, name: &Reference) -> Result<Option<Digest>, EngineError> {
        match self.look_up(name).await? {
            Linked::Absent => Ok(None),
            Linked::To(digest, _) => Ok(Some(digest)),
            Linked::Unreadable(error) => Err(error),
        }
    }

    /// Whether all of `names` resolve to `root`.
    pub(super) async fn resolves_to(&self, root: &Digest, names: &[Reference]) -> Result<bool, EngineError> {
        let is_root = async |name: &Reference| {
            Ok::<_, EngineError>(matches!(self.look_up(name).await?, Linked::To(digest, _) if digest == *root))
        };
        let resolved = names.iter().map(is_root);
        let resolved: Vec<bool> = stream::iter(resolved.collect::<Vec<_>>()).buffered(PARALLEL).try_collect().await?;
        Ok(resolved.into_iter().all(|is_root| is_root))
    }

    /// The descriptor of an image without a name. An unreadable one is an error: a collector that took it for absent would delete
    /// the image.
    pub(super) async fn unnamed(&self, root: &Digest) -> Result<Option<Descriptor>, EngineError> {
        let key = keys::unnamed(root);
        let Some(found) = self.bucket.get(&key, MAX_DESCRIPTOR).await? else { return Ok(None) };
        let parsed = serde_json::from_slice(&found.bytes);
        parsed.map(Some).map_err(|error| self.bucket.invalid(&key, format!("it is no descriptor: {error}")))
    }

    /// The entries that `query` selects, sorted, and whether more follow.
    pub(super) async fn list(&self, query: &Query) -> Result<(Vec<Entry>, bool), EngineError> {
        let mut entries = Vec::new();
        match Self::repository_before_digest(&query.prefix) {
            Some(Some(repository)) => entries = self.kept(Some(&repository)).await?,
            Some(None) => {}
            None => {
                for (full, repository) in self.repositories(&query.prefix).await? {
                    entries.extend(self.tags(&full, &repository).await?);
                    self.check_count(entries.len())?;
                }
                // A colon is in front of a tag.
                if !query.prefix.contains(':') {
                    entries.extend(self.kept(None).await?);
                }
            }
        }
        if query.prefix.is_empty() {
            let unnamed = self.bucket.list(keys::UNNAMED, MAX_NAMES).await?;
            let digest =
                |key: &str| key.strip_prefix(keys::UNNAMED)?.strip_prefix('/')?.replacen('/', ":", 1).parse().ok();
            entries.extend(unnamed.iter().filter_map(|(key, _)| digest(key)).map(Entry::Unnamed));
            self.check_count(entries.len())?;
        }
        let is_match =
            |key: &str| (key.starts_with(&query.prefix)) && query.after.as_deref().is_none_or(|after| key > after);
        let mut keyed: Vec<_> = entries.into_iter().map(|entry| (entry.key(), entry)).collect();
        keyed.retain(|(key, _)| is_match(key));
        keyed.sort_by(|(one, _), (other, _)| one.cmp(other));
        let limit = query.limit.clamp(1, MAX_PAGE);
        let is_more = keyed.len() > limit;
        Ok((keyed.into_iter().take(limit).map(|(_, entry)| entry).collect(), is_more))
    }

    pub(super) fn check_count(&self, count: usize) -> Result<(), EngineError> {
        if count <= MAX_NAMES {
            return Ok(());
        }
        Err(self
            .bucket
            .invalid(keys::REPOSITORIES, format!("it has more than {MAX_NAMES} tags; expected fewer below one prefix")))
    }

    /// The tags of a repository.
    async fn tags(&self, full: &str, repository: &Repository) -> Result<Vec<Entry>, EngineError> {
        let tags = self.bucket.folders(&repository.tags()).await?;
        let entry = |tag: String| {
            let name = format!("{full}:{tag}");
            name.parse().ok().map(|reference| Entry::Tag(name, reference))
        };
        Ok(tags.into_iter().filter_map(entry).collect())
    }

    /// The repositories whose full names, with a colon, may begin with `prefix`.
    async fn repositories(&self, prefix: &str) -> Result<Vec<(String, Repository)>, EngineError> {
        // A list of one repository's tags.
        if let Some(name) = prefix.rsplit_once(':').and_then(|(name, tag)| {
            (!tag.contains('/')).then(|| format!("{name}:x").parse::<Reference>().ok()).flatten()
        }) {
            let found = Repository::of(&name).filter(|_| prefix.starts_with(&name.name()));
            return Ok(found.map(|found| (name.name(), found)).into_iter().collect());
        }
        let (mut found, mut visited, mut level) = (Vec::new(), 0, vec![String::new()]);
        while !level.is_empty() {
            visited += level.len();
            if visited > MAX_FOLDERS {
                let reason = format!("it has more than {MAX_FOLDERS} folders; expected fewer below one prefix");
                return Err(self.bucket.invalid(keys::REPOSITORIES, reason));
            }
            let below = level.into_iter().map(|path| async move {
                let folder = if path.is_empty() { String::new() } else { format!("/{path}") };
                let folders = self.bucket.folders(&format!("{}{folder}", keys::REPOSITORIES)).await?;
                Ok::<_, EngineError>((path, folders))
            });
            let listed: Vec<_> = stream::iter(below.collect::<Vec<_>>()).buffered(PARALLEL).try_collect().await?;
            level = Vec::new();
            for (path, folders) in listed {
                for folder in folders {
                    if folder == keys::MANIFESTS {
                        let repository = Repository::found(&path);
                        found.extend(repository.and_then(|found| Some((found.full()?, found))));
                    } else if !folder.starts_with('_') {
                        level.push(if path.is_empty() { folder } else { format!("{path}/{folder}") });
                    }
                }
            }
        }
        found.retain(|(full, _)| format!("{full}:").starts_with(prefix) || prefix.starts_with(&format!("{full}:")));
        Ok(found)
    }

    /// Makes the image `graph`, of which all blobs are there, visible under `names`; `absent` are foreign layers that are not.
    pub(super) async fn publish(
        &self,
        graph: &Graph,
        absent: &BTreeSet<Digest>,
        names: &[Reference],
        preconditions: &[Precondition],
    ) -> Result<(), EngineError> {
        let root = graph.root();
        if !preconditions.is_empty() && !self.is_conditional().await? {
            return Err(EngineError::Object {
                operation: "setting a name in",
                object: self.bucket.address().to_owned(),
                reason:
                    "the store has no conditional writes, and a name that another writer moves meanwhile would be lost"
                        .to_owned(),
                hint: Some(NO_CONDITIONS),
            });
        }
        if names.is_empty() {
            return self.put_unnamed(root).await;
        }
        if !matches!(root.kind(), Kind::Index | Kind::Manifest) {
            let reason = format!(
                "its media type is `{}`, and a registry has names for manifests and indexes only; expected one of these",
                root.media_type
            );
            return Err(EngineError::Unsuitable { root: root.digest.clone(), reason });
        }
        let mut tags = Vec::new();
        let repositories: BTreeSet<_> = names.iter().map(|name| self.repository(name)).collect::<Result<_, _>>()?;
        for name in names {
            let repository = self.repository(name)?;
            tags.extend(name.tag().map(|tag| Tag { name, repository, tag }));
        }
        let mut links = Vec::new();
        for repository in &repositories {
            links.extend(self.missing_links(repository, graph, absent).await?);
        }
        let index = tags.iter().map(|tag| (tag.repository.tag_index(tag.tag, &root.digest), link(&root.digest)));
        links.extend(index);
        self.bucket.put_all(links).await?;
        self.keep(names, &root.digest).await?;
        self.set(&tags, &root.digest, preconditions).await
    }

    /// Lists an image without a name, and keeps it from the collector.
    async fn put_unnamed(&self, root: &Descriptor) -> Result<(), EngineError> {
        let key = keys::unnamed(&root.digest);
        let bytes = serde_json::to_vec(root).map_err(|error| self.bucket.invalid(&key, error.to_string()))?;
        self.bucket.put(&key, bytes.into()).await
    }

    /// Sets all tags, those with preconditions first. If one of these does not hold, the others are as they were.
    async fn set(&self, tags: &[Tag<'_>], root: &Digest, preconditions: &[Precondition]) -> Result<(), EngineError> {
        let condition = |tag: &Tag<'_>| preconditions.iter().find(|condition| condition.name == *tag.name);
        let mut replaced = Vec::new();
        for (tag, condition) in tags.iter().filter_map(|tag| Some((tag, condition(tag)?))) {
            match self.compare_and_set(tag, root, condition).await {
                Ok(before) => replaced.extend(before),
                Err(error) => {
                    self.restore(replaced, root).await;
                    return Err(error);
                }
            }
        }
        let rest = tags.iter().filter(|tag| condition(tag).is_none());
        self.bucket.put_all(rest.map(|tag| (tag.repository.current(tag.tag), link(root))).collect()).await
    }

    /// Sets one tag if its precondition holds. Returns what is to be done to undo it.
    async fn compare_and_set(
        &self,
        tag: &Tag<'_>,
        root: &Digest,
        precondition: &Precondition,
    ) -> Result<Option<Replaced>, EngineError> {
        let key = tag.repository.current(tag.tag);
        let found = self.linked(&key).await?;
        let before = found.as_ref().map(|(digest, _)| digest.clone());
        precondition.check(before.as_ref())?;
        let condition = found.map_or(Condition::Absent, |(_, found)| Condition::Version(found.version));
        let refused = match self.bucket.put_if(&key, link(root), condition).await {
            Ok(true) => return Ok(Some(Replaced { key, before })),
            Ok(false) => None,
            Err(error) => Some(error),
        };
        // Another writer was quicker, or it was this write, whose answer was lost.
        let current = self.linked(&key).await?.map(|(digest, _)| digest);
        match refused {
            _ if current.as_ref() == Some(root) => Ok(Some(Replaced { key, before })),
            Some(error) => Err(error),
            None => Err(EngineError::NameMoved { name: tag.name.to_string(), current }),
        }
    }

    /// Gives tags back what they had, unless somebody else has set them meanwhile.
    async fn restore(&self, replaced: Vec<Replaced>, root: &Digest) {
        for Replaced { key, before } in replaced {
            let restored = async {
                let Some((digest, found)) = self.linked(&key).await? else { return Ok(()) };
                match before {
                    _ if digest != *root => Ok(()),
                    Some(before) => {
                        self.bucket.put_if(&key, link(&before), Condition::Version(found.version)).await.map(drop)
                    }
                    None => self.bucket.delete(&key).await,
                }
            };
            if let Err(error) = restored.await {
                tracing::warn!(%error, "a name that was set before another one could not be set stays");
            }
        }
    }

    /// Removes the name `name` of the image `root`, or with `None` its entry without a name.
    pub(super) async fn remove(&self, name: Option<&Reference>, root: &Digest) -> Result<(), EngineError> {
        let Some(name) = name else { return self.bucket.delete(&keys::unnamed(root)).await };
        let repository = self.repository(name)?;
        let Some(tag) = name.tag() else { return self.unkeep(&repository, root).await };
        let key = repository.current(tag);
        match self.linked(&key).await? {
            Some((current, _)) if current != *root => {
                return Err(EngineError::NameMoved { name: name.to_string(), current: Some(current) });
            }
            // Written now, so that who is reading the image can go on for the grace of the collector.
            Some(_) => {
                self.bucket.put(&repository.revision(root), link(root)).await?;
                self.bucket.delete(&key).await?;
            }
            None => {}
        }
        self.remove_history(&repository, tag).await
    }

    /// Removes what a tag pointed to before; the registry lists no tag without its link.
    pub(super) async fn remove_history(&self, repository: &Repository, tag: &str) -> Result<(), EngineError> {
        for (key, _) in self.bucket.list(&format!("{}/{tag}", repository.tags()), MAX_LINKS).await? {
            self.bucket.delete(&key).await?;
        }
        Ok(())
    }
}
