//! The images of a cluster.

use std::sync::Arc;

use async_trait::async_trait;

use super::Node;
use super::members::Members;
use super::nodes::on_all;
use crate::engine::EngineError;
use crate::engine::images::{Images, Page, Query};
use crate::image::{Descriptor, Digest, Reference};
use crate::source::{Chunks, Source, SourceError};

/// The images that any node has. A blob can be read if one node has it, and counts as there, so that it need not be sent, if all
/// have it.
#[derive(Debug)]
pub(super) struct ClusterImages {
    name: String,
    members: Arc<Members>,
}

impl ClusterImages {
    pub(super) fn new(name: String, members: Arc<Members>) -> Self {
        Self { name, members }
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
        for node in self.members.known().iter() {
            match node.images.open(blob, offset).await {
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
        let found = self.members.ask(|node| async move { node.images.resolve(name).await }).await?;
        Ok(found.into_iter().flatten().next())
    }

    async fn identify(&self, digest: &Digest) -> Result<Option<Descriptor>, EngineError> {
        let found = self.members.ask(|node| async move { node.images.identify(digest).await }).await?;
        Ok(found.into_iter().flatten().next())
    }

    async fn list(&self, query: &Query) -> Result<Page, EngineError> {
        let nodes = self.members.current().await?;
        let pages = on_all(nodes.iter().map(|node| (&node.name, node.images.list(query)))).await?;
        Ok(Page::merged(pages, query))
    }

    async fn readable_size(&self, digest: &Digest) -> Result<Option<u64>, EngineError> {
        let found = self.members.ask(|node| async move { node.images.size(digest).await }).await?;
        Ok(found.into_iter().flatten().next())
    }

    async fn places(&self, name: &Reference) -> Result<Vec<(String, Option<Descriptor>)>, EngineError> {
        let place = |node: Arc<Node>| async move { Ok((node.name.to_string(), node.images.resolve(name).await?)) };
        self.members.ask(place).await
    }

    async fn size(&self, digest: &Digest) -> Result<Option<u64>, EngineError> {
        let found = self.members.ask(|node| async move { node.images.size(digest).await }).await?;
        Ok(found.into_iter().collect::<Option<Vec<_>>>().and_then(|sizes| sizes.first().copied()))
    }
}
