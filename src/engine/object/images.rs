//! The images of a bucket, to be read.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use object_store::Error;

use super::bucket::PARALLEL;
use super::keys;
use super::name_index::Linked;
use super::name_list::Entry;
use super::stores::Stores;
use crate::engine::images::{Images, Page, Query, Record, describe};
use crate::engine::{BlobUrl, EngineError};
use crate::image::{Descriptor, Digest, Kind, Reference};
use crate::source::{Chunks, Source, SourceError};

/// The images of a bucket.
#[derive(Debug, Clone)]
pub(super) struct ObjectImages {
    stores: Arc<Stores>,
    name: Arc<str>,
}

/// A blob that is being read.
struct Reading {
    chunks: BoxStream<'static, Result<Bytes, Error>>,
    offset: u64,
    /// Whether bytes have come since it was opened: then it is opened once more where they ended.
    has_progress: bool,
}

impl ObjectImages {
    pub(super) fn new(stores: Arc<Stores>) -> Self {
        let name = format!("bucket {}", stores.bucket().address()).into();
        Self { stores, name }
    }

    fn refused(&self, digest: &Digest, reason: impl ToString) -> SourceError {
        SourceError::Read { name: self.name.to_string(), digest: digest.clone(), reason: reason.to_string() }
    }

    async fn reading(&self, digest: &Digest, offset: u64) -> Result<Reading, SourceError> {
        let (bucket, key) = (self.stores.bucket(), keys::blob(digest));
        match bucket.open(&key, offset).await {
            Ok(Some(chunks)) => Ok(Reading { chunks, offset, has_progress: false }),
            Ok(None) => Err(SourceError::NotFound { name: self.name.to_string(), digest: digest.clone() }),
            Err(error) => Err(self.refused(digest, bucket.failed("reading", &key, &error))),
        }
    }

    /// The next bytes of a blob. A response has a time limit, which a slow reader can exceed.
    async fn next(&self, digest: &Digest, reading: &mut Reading) -> Option<Result<Bytes, SourceError>> {
        loop {
            match reading.chunks.next().await? {
                Ok(bytes) => {
                    reading.offset += bytes.len() as u64;
                    reading.has_progress |= !bytes.is_empty();
                    return Some(Ok(bytes));
                }
                Err(error) if !reading.has_progress => {
                    let error = self.stores.bucket().failed("reading", &keys::blob(digest), &error);
                    return Some(Err(self.refused(digest, error)));
                }
                Err(error) => {
                    tracing::debug!(%error, %digest, offset = reading.offset, "reading goes on in another request");
                    match self.reading(digest, reading.offset).await {
                        Ok(again) => *reading = again,
                        Err(error) => return Some(Err(error)),
                    }
                }
            }
        }
    }

    /// What the root of an image is.
    async fn root(&self, digest: &Digest) -> Result<Option<Descriptor>, EngineError> {
        if let Some(known) = self.stores.blobs.recall(digest) {
            return Ok(Some(known));
        }
        let Some(size) = self.stores.blobs.size(digest).await? else { return Ok(None) };
        let found = describe(self, digest, size).await?;
        if let Some(found) = found.as_ref().filter(|found| found.kind() != Kind::Other) {
            self.stores.blobs.remember(found);
        }
        Ok(found)
    }

    async fn record(&self, entry: &Entry) -> Result<Option<Record>, EngineError> {
        match entry {
            Entry::Tag(name, reference) => {
                let digest = match self.stores.names.look_up(reference).await? {
                    Linked::To(digest, _) => digest,
                    Linked::Absent => return Ok(None),
                    // One bad object must not hide all others.
                    Linked::Unreadable(error) => {
                        tracing::warn!(%error, name, "this tag is left out of lists");
                        return Ok(None);
                    }
                };
                Ok(self.root(&digest).await?.map(|target| Record { name: Some(name.clone()), target }))
            }
            Entry::Kept(name, digest) => {
                Ok(self.root(digest).await?.map(|target| Record { name: Some(name.clone()), target }))
            }
            Entry::Unnamed(digest) => {
                Ok(self.stores.names.unnamed(digest).await?.map(|target| Record { name: None, target }))
            }
        }
    }
}

#[async_trait]
impl Source for ObjectImages {
    fn name(&self) -> &str {
        &self.name
    }

    async fn open(&self, blob: &Descriptor, offset: u64) -> Result<Chunks, SourceError> {
        if offset >= blob.size && offset > 0 {
            // No store has a range behind the end.
            return Ok(stream::empty().boxed());
        }
        let (this, digest) = (self.clone(), blob.digest.clone());
        let reading = self.reading(&digest, offset).await?;
        let chunks = stream::unfold(Some(reading), move |reading| {
            let (this, digest) = (this.clone(), digest.clone());
            async move {
                let mut reading = reading?;
                match this.next(&digest, &mut reading).await? {
                    Ok(bytes) => Some((Ok(bytes), Some(reading))),
                    // Nothing follows an error.
                    Err(error) => Some((Err(error), None)),
                }
            }
        });
        Ok(chunks.boxed())
    }
}

#[async_trait]
impl Images for ObjectImages {
    async fn resolve(&self, name: &Reference) -> Result<Option<Descriptor>, EngineError> {
        match self.stores.names.resolve(name).await? {
            Some(digest) => self.root(&digest).await,
            None => Ok(None),
        }
    }

    async fn identify(&self, digest: &Digest) -> Result<Option<Descriptor>, EngineError> {
        self.root(digest).await
    }

    /// A tag that is removed meanwhile is left out: a page can have fewer records than its limit, and others after it.
    async fn list(&self, query: &Query) -> Result<Page, EngineError> {
        let (entries, is_more) = self.stores.names.list(query).await?;
        let next = if is_more { entries.last().map(Entry::key) } else { None };
        let records = entries.iter().map(|entry| self.record(entry));
        let records: Vec<_> = stream::iter(records.collect::<Vec<_>>()).buffered(PARALLEL).try_collect().await?;
        Ok(Page { records: records.into_iter().flatten().collect(), next })
    }

    async fn size(&self, digest: &Digest) -> Result<Option<u64>, EngineError> {
        self.stores.blobs.size(digest).await
    }

    async fn url(&self, digest: &Digest) -> Result<Option<BlobUrl>, EngineError> {
        self.stores.bucket().url(&keys::blob(digest)).await
    }
}
