//! Images that a repository has by their digest alone, such as what refers to another image. Their links are those of any manifest;
//! an entry of ours lists them, and keeps them from the collector.

use futures_util::TryStreamExt as _;

use super::keys::{self, Repository};
use super::name_index::{NameIndex, link};
use super::name_list::{Entry, MAX_NAMES};
use crate::engine::EngineError;
use crate::image::{Digest, Reference};

impl NameIndex {
    /// Keeps the image `root` in the repositories of those of `names` that have no tag.
    pub(super) async fn keep(&self, names: &[Reference], root: &Digest) -> Result<(), EngineError> {
        for name in names.iter().filter(|name| name.tag().is_none()) {
            self.bucket.put(&self.repository(name)?.kept(root), link(root).into()).await?;
        }
        Ok(())
    }

    /// Whether the image `root` is kept in the repositories of those of `names` that have no tag.
    pub(super) async fn keeps(&self, names: &[Reference], root: &Digest) -> Result<bool, EngineError> {
        for name in names.iter().filter(|name| name.tag().is_none()) {
            if self.bucket.size(&self.repository(name)?.kept(root)).await?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The entries of one repository, or of all.
    pub(super) async fn kept(&self, repository: Option<&Repository>) -> Result<Vec<Entry>, EngineError> {
        let folder = repository.map_or_else(|| keys::KEPT.to_owned(), Repository::all_kept);
        let listed = self.bucket.list(&folder, MAX_NAMES + 1).await?;
        self.check_count(listed.len())?;
        let entry = |key: &str| {
            let (repository, digest) = keys::kept_at(key)?;
            Some(Entry::Kept(format!("{}@{digest}", repository.full()?), digest))
        };
        Ok(listed.iter().filter_map(|(key, _)| entry(key)).collect())
    }

    /// The repository whose images with a digest alone `prefix` selects, if it selects no others.
    pub(super) fn repository_before_digest(prefix: &str) -> Option<Option<Repository>> {
        let (name, _) = prefix.split_once('@')?;
        Some(format!("{name}:x").parse::<Reference>().ok().and_then(|name| Repository::of(&name)))
    }

    /// Removes the entry of the image `root`. Its link is written now, so that who is reading it can go on for the grace of the
    /// collector.
    pub(super) async fn unkeep(&self, repository: &Repository, root: &Digest) -> Result<(), EngineError> {
        let key = repository.kept(root);
        if self.bucket.size(&key).await?.is_some() {
            self.bucket.put(&repository.revision(root), link(root).into()).await?;
            self.bucket.delete(&key).await?;
        }
        Ok(())
    }

    /// All images that are kept so, for the collector.
    pub(super) async fn all_kept(&self, mut each: impl FnMut(Digest)) -> Result<(), EngineError> {
        let mut listed = std::pin::pin!(self.bucket.listing(keys::KEPT));
        while let Some((key, _)) = listed.try_next().await? {
            if let Some((_, digest)) = keys::kept_at(&key) {
                each(digest);
            }
        }
        Ok(())
    }
}
