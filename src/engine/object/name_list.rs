//! Lists of the names of a bucket.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::bucket::PARALLEL;
use super::keys::{self, Repository};
use super::name_index::NameIndex;
use crate::engine::EngineError;
use crate::engine::images::{MAX_PAGE, Query};
use crate::image::{Digest, Reference};

/// How many folders a walk over the repositories visits.
const MAX_FOLDERS: usize = 20_000;
/// How many tags and images without names are listed.
pub(super) const MAX_NAMES: usize = 200_000;

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

impl NameIndex {
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
}
