//! Setting and removing the names of a bucket. The link of a tag is the last thing that is written of an image, and the only one
//! that is written under a condition.

use std::collections::BTreeSet;

use super::bucket::Condition;
use super::keys::{self, Repository};
use super::name_index::{MAX_LINKS, NameIndex, link};
use crate::engine::{EngineError, Precondition};
use crate::image::{Descriptor, Digest, Graph, Kind, Reference};

const NO_CONDITIONS: &str = "allow tags to move (without --deny-tag-move, and without what is required of a tag), or use a store \
                             that knows If-Match and If-None-Match, as S3, R2, MinIO, Google and Azure do";

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

impl NameIndex {
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
        let refused = match self.bucket.put_if(&key, link(root).into(), condition).await {
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
                    Some(before) => self
                        .bucket
                        .put_if(&key, link(&before).into(), Condition::Version(found.version))
                        .await
                        .map(drop),
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
                self.bucket.put(&repository.revision(root), link(root).into()).await?;
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
