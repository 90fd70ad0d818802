//! The links of images in the repositories of a bucket, without which a registry serves nothing of them.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::bucket::PARALLEL;
use super::keys::Repository;
use super::name_index::{Linked, MAX_LINKS, NameIndex, link};
use crate::engine::EngineError;
use crate::image::{Descriptor, Digest, Graph, Kind, Reference};

/// From how many links on the existing ones are listed before they are written.
const MANY: usize = 4;

/// A key, and the link that it must hold.
type Link = (String, Bytes);

fn is_manifest(blob: &&Descriptor) -> bool {
    matches!(blob.kind(), Kind::Index | Kind::Manifest)
}

/// The links to the blobs of `graph` that are no manifests, but those to `absent` ones.
fn layers(repository: &Repository, graph: &Graph, absent: &BTreeSet<Digest>) -> Vec<Link> {
    let layers = graph.descriptors().filter(|blob| !is_manifest(blob) && !absent.contains(&blob.digest));
    layers.map(|blob| (repository.layer(&blob.digest), link(&blob.digest))).collect()
}

/// The links to the manifests of `graph`.
fn revisions(repository: &Repository, graph: &Graph) -> Vec<Link> {
    graph
        .descriptors()
        .filter(is_manifest)
        .map(|blob| (repository.revision(&blob.digest), link(&blob.digest)))
        .collect()
}

impl NameIndex {
    /// Those of `links`, which are links to layers, that a list of the repository does not have; whether it has all that are there.
    async fn unlisted(&self, repository: &Repository, mut links: Vec<Link>) -> Result<(Vec<Link>, bool), EngineError> {
        let listed = self.bucket.list(&repository.layers(), MAX_LINKS).await?;
        let is_whole = listed.len() < MAX_LINKS;
        let there: BTreeSet<_> = listed.into_iter().map(|(key, meta)| (key, meta.size)).collect();
        links.retain(|(key, link)| !there.contains(&(key.clone(), link.len() as u64)));
        Ok((links, is_whole))
    }

    /// The links that a repository must have before an image is visible in it; those of many layers only where they are missing.
    pub(super) async fn missing_links(
        &self,
        repository: &Repository,
        graph: &Graph,
        absent: &BTreeSet<Digest>,
    ) -> Result<Vec<Link>, EngineError> {
        let mut links = layers(repository, graph, absent);
        if links.len() >= MANY {
            links = self.unlisted(repository, links).await?.0;
        }
        links.extend(revisions(repository, graph));
        Ok(links)
    }

    /// Whether the repositories of `names` have all links of the image `graph`, of which all blobs are there.
    pub(super) async fn has_links(&self, graph: &Graph, names: &[Reference]) -> Result<bool, EngineError> {
        let repositories: BTreeSet<_> = names.iter().map(|name| self.repository(name)).collect::<Result<_, _>>()?;
        for repository in &repositories {
            let (mut links, is_whole) = self.unlisted(repository, layers(repository, graph, &BTreeSet::new())).await?;
            if is_whole && !links.is_empty() {
                return Ok(false);
            }
            links.extend(revisions(repository, graph));
            let is_there = links.into_iter().map(|(key, link)| async move {
                Ok::<_, EngineError>(self.bucket.size(&key).await? == Some(link.len() as u64))
            });
            let found: Vec<bool> = stream::iter(is_there.collect::<Vec<_>>()).buffered(PARALLEL).try_collect().await?;
            if found.contains(&false) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What is wrong with the tag `name` if it leads to nothing; `is_there` says whether the bucket has an image.
    pub(super) async fn broken_tag(
        &self,
        name: &Reference,
        is_there: impl AsyncFnOnce(&Digest) -> Result<bool, EngineError>,
    ) -> Result<Option<EngineError>, EngineError> {
        let (Some(repository), Some(tag), None) = (Repository::of(name), name.tag(), name.digest()) else {
            return Ok(None);
        };
        Ok(match self.look_up(name).await? {
            Linked::Absent => None,
            Linked::Unreadable(error) => Some(error),
            Linked::To(digest, _) if is_there(&digest).await? => None,
            Linked::To(digest, _) => {
                let reason = format!("the tag points to {digest}, which the bucket does not hold");
                Some(self.broken(&repository.current(tag), reason))
            }
        })
    }

    /// Removes the tag `name`, whatever it leads to.
    pub(super) async fn remove_tag(&self, name: &Reference) -> Result<(), EngineError> {
        let repository = self.repository(name)?;
        let Some(tag) = name.tag() else { return Ok(()) };
        self.bucket.delete(&repository.current(tag)).await?;
        self.remove_history(&repository, tag).await
    }
}
