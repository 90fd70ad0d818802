//! The images of a repository. Reading needs no lock: the index is replaced as a whole.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use tokio::task::spawn_blocking;

use super::super::local::{Entry, LayoutIndex};
use super::stores::Stores;
use crate::engine::EngineError;
use crate::engine::images::{Images, Page, Query, Record, describe};
use crate::image::{Descriptor, Digest, Reference};
use crate::source::{Chunks, Source, SourceError};

/// The size of one read.
const CHUNK: usize = 1 << 20;

/// The images of a repository.
#[derive(Debug, Clone)]
pub(super) struct RepositoryImages {
    stores: Arc<Stores>,
    name: Arc<str>,
}

impl RepositoryImages {
    pub(super) fn new(stores: Arc<Stores>, address: &str) -> Self {
        Self { stores, name: format!("layout {address}").into() }
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Stores) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let stores = self.stores.clone();
        self.stores.blobs.run("reading it", move || work(&stores)).await
    }

    fn refused(&self, digest: &Digest, error: &io::Error) -> SourceError {
        let (name, digest) = (self.name.to_string(), digest.clone());
        match error.kind() {
            io::ErrorKind::NotFound => SourceError::NotFound { name, digest },
            _ => SourceError::Read { name, digest, reason: error.to_string() },
        }
    }
}

#[async_trait]
impl Source for RepositoryImages {
    fn name(&self) -> &str {
        &self.name
    }

    async fn open(&self, blob: &Descriptor, offset: u64) -> Result<Chunks, SourceError> {
        let (blobs, digest) = (self.stores.blobs.clone(), blob.digest.clone());
        let opened = spawn_blocking(move || blobs.open(&digest)).await.map_err(io::Error::other);
        let reader = opened.and_then(|opened| opened).map_err(|error| self.refused(&blob.digest, &error))?;
        let (this, digest) = (self.clone(), blob.digest.clone());
        let chunks = stream::unfold(Some((Arc::new(reader), offset)), move |state| {
            let (this, digest) = (this.clone(), digest.clone());
            async move {
                let (reader, offset) = state?;
                let at = reader.clone();
                let read = spawn_blocking(move || at.read_at(offset, CHUNK)).await.map_err(io::Error::other);
                match read.and_then(|read| read) {
                    Ok(bytes) if bytes.is_empty() => None,
                    Ok(bytes) => {
                        let next = offset + bytes.len() as u64;
                        Some((Ok(bytes), Some((reader, next))))
                    }
                    Err(error) => Some((Err(this.refused(&digest, &error)), None)),
                }
            }
        });
        Ok(chunks.boxed())
    }
}

#[async_trait]
impl Images for RepositoryImages {
    async fn resolve(&self, name: &Reference) -> Result<Option<Descriptor>, EngineError> {
        let name = name.clone();
        self.work(move |stores| stores.names.resolve(&name)).await
    }

    async fn identify(&self, digest: &Digest) -> Result<Option<Descriptor>, EngineError> {
        let of = digest.clone();
        let found = self.work(move |stores| {
            let size = stores.blobs.readable(&of);
            Ok((size, if size.is_some() { stores.names.root(&of)? } else { None }))
        });
        match found.await? {
            (None, _) => Ok(None),
            (_, Some(root)) => Ok(Some(root)),
            (Some(size), None) => describe(self, digest, size).await,
        }
    }

    async fn list(&self, query: &Query) -> Result<Page, EngineError> {
        let query = query.clone();
        self.work(move |stores| {
            let index = stores.names.read()?;
            let entries = index.as_ref().map(LayoutIndex::entries).unwrap_or_default();
            let record = |entry: &Entry| Record { name: entry.name().map(str::to_owned), target: entry.target.clone() };
            Ok(Page::of(entries.iter().filter(|entry| !entry.is_cache()).map(record), &query))
        })
        .await
    }

    async fn size(&self, digest: &Digest) -> Result<Option<u64>, EngineError> {
        let digest = digest.clone();
        self.work(move |stores| Ok(stores.blobs.readable(&digest))).await
    }

    async fn reliable(&self, digest: &Digest) -> Result<Option<u64>, EngineError> {
        let digest = digest.clone();
        self.work(move |stores| Ok(stores.blobs.present(&digest, None))).await
    }

    async fn intact(&self, digest: &Digest) -> Result<Option<u64>, EngineError> {
        self.reliable(digest).await
    }
}
