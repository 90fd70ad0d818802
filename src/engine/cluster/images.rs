//! The images of a cluster.

use async_trait::async_trait;

use super::nodes::{NodeName, on_all};
use crate::engine::EngineError;
use crate::engine::containerd::ContainerdImages;
use crate::engine::images::{Images, Page, Query, Record};
use crate::image::{Descriptor, Digest, Reference};
use crate::source::{Chunks, Source, SourceError};

/// The images that any node has. A blob can be read if one node has it, and counts as there, so that it need not be sent, if all
/// have it.
#[derive(Debug)]
pub(super) struct ClusterImages {
    name: String,
    nodes: Vec<(NodeName, ContainerdImages)>,
}

impl ClusterImages {
    pub(super) fn new(name: String, nodes: Vec<(NodeName, ContainerdImages)>) -> Self {
        Self { name, nodes }
    }
}

#[async_trait]
impl Source for ClusterImages {
    fn name(&self) -> &str {
        &self.name
    }

    /// From the first node that has it.
    async fn open(&self, blob: &Descriptor, offset: u64) -> Result<Chunks, SourceError> {
        let mut failure = None;
        for (_, images) in &self.nodes {
            match images.open(blob, offset).await {
                Ok(chunks) => return Ok(chunks),
                // What a node says that has the blob is worth more than that others lack it.
                Err(error @ SourceError::NotFound { .. }) => failure = failure.or(Some(error)),
                Err(error) => failure = Some(error),
            }
        }
        let (name, digest) = (self.name.clone(), blob.digest.clone());
        Err(failure.unwrap_or(SourceError::NotFound { name, digest }))
    }
}

#[async_trait]
impl Images for ClusterImages {
    async fn resolve(&self, name: &Reference) -> Result<Option<Descriptor>, EngineError> {
        let found = on_all(self.nodes.iter().map(|(node, images)| (node, images.resolve(name)))).await?;
        Ok(found.into_iter().flatten().next())
    }

    async fn identify(&self, digest: &Digest) -> Result<Option<Descriptor>, EngineError> {
        let found = on_all(self.nodes.iter().map(|(node, images)| (node, images.identify(digest)))).await?;
        Ok(found.into_iter().flatten().next())
    }

    async fn list(&self, query: &Query) -> Result<Page, EngineError> {
        let pages = on_all(self.nodes.iter().map(|(node, images)| (node, images.list(query)))).await?;
        Ok(Page::merged(pages, query))
    }

    async fn readable_size(&self, digest: &Digest) -> Result<Option<u64>, EngineError> {
        let found = on_all(self.nodes.iter().map(|(node, images)| (node, images.size(digest)))).await?;
        Ok(found.into_iter().flatten().next())
    }

    async fn spread(&self, record: &Record) -> Result<Option<(usize, usize)>, EngineError> {
        let Some(Ok(name)) = record.name.as_deref().map(str::parse::<Reference>) else { return Ok(None) };
        let found = on_all(self.nodes.iter().map(|(node, images)| (node, images.resolve(&name)))).await?;
        let with = found.iter().flatten().filter(|found| found.digest == record.target.digest).count();
        Ok(Some((with, self.nodes.len())))
    }

    async fn size(&self, digest: &Digest) -> Result<Option<u64>, EngineError> {
        let found = on_all(self.nodes.iter().map(|(node, images)| (node, images.size(digest)))).await?;
        Ok(found.into_iter().collect::<Option<Vec<_>>>().and_then(|sizes| sizes.first().copied()))
    }
}
