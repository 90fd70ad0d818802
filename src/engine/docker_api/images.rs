//! Reading: names from dockerd's HTTP API, blobs from its content store, and those that exports have in the spool.

use std::sync::Arc;

use async_trait::async_trait;

use super::content::Content;
use super::names;
use crate::docker_api::Api;
use crate::engine::EngineError;
use crate::engine::images::{Images, Page, Query, describe};
use crate::image::{Descriptor, Digest, Reference};
use crate::source::{Chunks, Source, SourceError};

/// The images of a dockerd.
#[derive(Debug, Clone)]
pub(super) struct DockerApiImages {
    pub(super) api: Arc<Api>,
    pub(super) content: Content,
    /// What exports have sent that dockerd does not have yet.
    pub(super) spool: Arc<dyn Images>,
}

impl DockerApiImages {
    /// The descriptor of a root, with what an older dockerd does not say of it.
    async fn described(&self, target: Descriptor) -> Result<Option<Descriptor>, EngineError> {
        if names::is_described(&target) {
            return Ok(Some(target));
        }
        let Some(found) = self.content.info(&target.digest).await? else { return Ok(None) };
        describe(self, &target.digest, found.size).await
    }
}

#[async_trait]
impl Source for DockerApiImages {
    fn name(&self) -> &str {
        self.content.name()
    }

    async fn open(&self, blob: &Descriptor, offset: u64) -> Result<Chunks, SourceError> {
        match self.content.open(blob, offset).await {
            Err(SourceError::NotFound { name, digest }) => match self.spool.open(blob, offset).await {
                Err(SourceError::NotFound { .. }) => Err(SourceError::NotFound { name, digest }),
                outcome => outcome,
            },
            outcome => outcome,
        }
    }
}

#[async_trait]
impl Images for DockerApiImages {
    async fn resolve(&self, name: &Reference) -> Result<Option<Descriptor>, EngineError> {
        let Some(target) = names::image(&self.api, &name.to_string()).await? else { return Ok(None) };
        if !name.admits(&target.digest) {
            return Ok(None);
        }
        self.described(target).await
    }

    async fn identify(&self, digest: &Digest) -> Result<Option<Descriptor>, EngineError> {
        let Some(size) = self.size(digest).await? else { return Ok(None) };
        // dockerd finds more under a digest than roots: only what it describes in full is believed.
        match names::image(&self.api, digest.as_str()).await? {
            Some(target) if target.digest == *digest && names::is_described(&target) => Ok(Some(target)),
            _ => describe(self, digest, size).await,
        }
    }

    async fn list(&self, query: &Query) -> Result<Page, EngineError> {
        let mut page = Page::of(names::list(&self.api).await?, query);
        for record in &mut page.records {
            if let Some(target) = self.described(record.target.clone()).await? {
                record.target = target;
            }
        }
        Ok(page)
    }

    async fn size(&self, digest: &Digest) -> Result<Option<u64>, EngineError> {
        match self.content.info(digest).await? {
            Some(found) => Ok(Some(found.size)),
            None => self.spool.size(digest).await,
        }
    }

    /// The spool is not dockerd's: what is there was sent for another export.
    async fn reliable(&self, digest: &Digest) -> Result<Option<u64>, EngineError> {
        Ok(self.content.info(digest).await?.map(|found| found.size))
    }
}
