//! Reading: image records and blobs of one namespace.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use containerd_client::services::v1::{Image, ListImagesRequest, ReadContentRequest, ReadContentResponse};
use futures_util::{StreamExt as _, stream};
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

use super::client::{Client, SILENCE, UNARY};
use super::{content, equal_layers, images};
use crate::engine::EngineError;
use crate::engine::images::{Images, Page, Query, Record, describe};
use crate::image::{Descriptor, Digest, Reference};
use crate::source::{Chunks, EqualLayers, Source, SourceError};

/// How records of images without a name are called, each followed by `@` and a digest: ours, and dockerd's (moby
/// `daemon/containerd/soft_delete.go`).
const UNNAMED: [&str; 2] = [images::DANGLING, "moby-dangling"];

/// Up to how many bytes are read at once, over the connection that everybody shares.
const SMALL_BYTES: u64 = 64 << 10;

/// The images of one namespace.
#[derive(Debug, Clone)]
pub(crate) struct ContainerdImages {
    client: Client,
    name: Arc<str>,
}

impl ContainerdImages {
    /// Reads by `client`. `kind` is what the engine is called.
    pub(crate) fn new(client: Client, kind: &str) -> Self {
        let name = format!("{kind} at {}", client.address()).into();
        Self { client, name }
    }

    async fn records(&self, filters: Vec<String>) -> Result<Vec<Record>, EngineError> {
        let mut images = self.client.images();
        let call = images.list(self.client.request(ListImagesRequest { filters }));
        let found = self.client.unary("listing images", call).await?.images;
        Ok(found.into_iter().filter_map(record).collect())
    }

    /// The records of images whose root is `digest`.
    async fn records_of(&self, digest: &Digest) -> Result<Vec<Record>, EngineError> {
        // Letters, digits and a colon need no quotes (containerd `pkg/filters/parser.go`).
        self.records(vec![format!("target.digest=={digest}")]).await
    }

    /// Removes a record as [`Images::list`] shows it.
    ///
    /// # Errors
    /// [`EngineError::NameMoved`] if it points to another image by now.
    pub(crate) async fn remove(&self, record: &Record) -> Result<(), EngineError> {
        let target = &record.target.digest;
        if let Some(name) = &record.name {
            return images::delete(&self.client, name, target).await;
        }
        for prefix in UNNAMED {
            images::delete(&self.client, &format!("{prefix}@{target}"), target).await?;
        }
        Ok(())
    }

    /// Makes sure that a record is as [`Images::list`] showed it, or gone.
    ///
    /// # Errors
    /// [`EngineError::NameMoved`] if it points to another image by now.
    pub(crate) async fn check(&self, record: &Record) -> Result<(), EngineError> {
        match &record.name {
            Some(name) => images::resolves_to(&self.client, name, &record.target.digest).await.map(|_| ()),
            None => Ok(()),
        }
    }

    /// Reads what `length` says is left of a blob, or one byte more: that it is longer is for the caller to find.
    async fn read_small(&self, digest: &Digest, offset: u64, length: u64) -> Result<Chunks, SourceError> {
        let reading = timeout(UNARY, async {
            let mut messages = read(&self.client, digest, offset, length + 1).await?;
            let mut chunks = Vec::new();
            while let Some(message) = messages.message().await? {
                chunks.push(Ok(Bytes::from(message.data)));
            }
            Ok(chunks)
        });
        let chunks = reading.await.map_err(|_| self.silent(digest, UNARY))?;
        Ok(stream::iter(chunks.map_err(|status| self.refused(digest, status))?).boxed())
    }

    fn failed(&self, digest: &Digest, error: &EngineError) -> SourceError {
        SourceError::Read { name: self.name.to_string(), digest: digest.clone(), reason: error.reason() }
    }

    fn silent(&self, digest: &Digest, after: Duration) -> SourceError {
        let reason = format!("no response within {} s", after.as_secs());
        SourceError::Read { name: self.name.to_string(), digest: digest.clone(), reason }
    }

    fn refused(&self, digest: &Digest, status: Status) -> SourceError {
        let (name, digest) = (self.name.to_string(), digest.clone());
        match status.code() {
            Code::NotFound => SourceError::NotFound { name, digest },
            _ => self.failed(&digest, &self.client.failure(format!("reading {digest}"), status)),
        }
    }
}

/// Calls `Read` for `size` bytes of a blob; 0 means all that is left.
async fn read(
    client: &Client,
    digest: &Digest,
    offset: u64,
    size: u64,
) -> Result<Streaming<ReadContentResponse>, Status> {
    let (digest, offset) = (digest.to_string(), i64::try_from(offset).unwrap_or(i64::MAX));
    let request = ReadContentRequest { digest, offset, size: i64::try_from(size).unwrap_or_default() };
    Ok(client.content().read(client.request(request)).await?.into_inner())
}

/// A record as it is in the store; `None` if its target is none that a client of ours could name.
fn record(image: Image) -> Option<Record> {
    let target = image.target?;
    let target = Descriptor {
        annotations: target.annotations.into_iter().collect(),
        ..Descriptor::new(target.media_type, target.digest.parse().ok()?, u64::try_from(target.size).ok()?)
    };
    let unnamed = image.name.split_once('@').is_some_and(|(prefix, _)| UNNAMED.contains(&prefix));
    Some(Record { name: (!unnamed).then_some(image.name), target })
}

#[async_trait]
impl Source for ContainerdImages {
    fn name(&self) -> &str {
        &self.name
    }

    /// Whoever reads may pause for as long as he likes and holds up nobody: what is small has come as a whole by then, and what
    /// is not comes over a connection of its own.
    async fn open(&self, blob: &Descriptor, offset: u64) -> Result<Chunks, SourceError> {
        let length = blob.size.saturating_sub(offset);
        if length <= SMALL_BYTES {
            return self.read_small(&blob.digest, offset, length).await;
        }
        let client = self.client.apart();
        let opened = timeout(UNARY, async {
            let mut messages = read(&client, &blob.digest, offset, 0).await?;
            // The store says NOT_FOUND only when the first message is awaited.
            let first = messages.message().await?;
            Ok((first, messages))
        });
        let opened = opened.await.map_err(|_| self.silent(&blob.digest, UNARY))?;
        let (first, messages) = opened.map_err(|status| self.refused(&blob.digest, status))?;
        let Some(first) = first else { return Ok(stream::empty().boxed()) };
        let (this, digest) = (self.clone(), blob.digest.clone());
        let rest = stream::unfold(Some((messages, client)), move |reading| {
            let (this, digest) = (this.clone(), digest.clone());
            async move {
                let (mut messages, client) = reading?;
                match timeout(SILENCE, messages.message()).await {
                    Ok(Ok(message)) => Some((Ok(Bytes::from(message?.data)), Some((messages, client)))),
                    Ok(Err(status)) => Some((Err(this.refused(&digest, status)), None)),
                    Err(_) => Some((Err(this.silent(&digest, SILENCE)), None)),
                }
            }
        });
        Ok(stream::iter([Ok(Bytes::from(first.data))]).chain(rest).boxed())
    }
}

#[async_trait]
impl Images for ContainerdImages {
    async fn resolve(&self, name: &Reference) -> Result<Option<Descriptor>, EngineError> {
        let exact = images::get(&self.client, &name.to_string()).await?.and_then(record).map(|record| record.target);
        // containerd lets anybody give a record any target, whatever digest its name holds.
        if let Some(target) = exact.filter(|target| name.admits(&target.digest)) {
            return Ok(Some(target));
        }
        let Some(digest) = name.digest() else { return Ok(None) };
        let repository = name.name();
        let is_of_repository = |record: &Record| {
            let name = record.name.as_ref().and_then(|name| name.parse::<Reference>().ok());
            name.is_some_and(|name| name.name() == repository)
        };
        Ok(self.records_of(digest).await?.into_iter().find(is_of_repository).map(|record| record.target))
    }

    async fn identify(&self, digest: &Digest) -> Result<Option<Descriptor>, EngineError> {
        let Some(size) = self.size(digest).await? else { return Ok(None) };
        if let Some(record) = self.records_of(digest).await?.into_iter().next() {
            return Ok(Some(record.target));
        }
        describe(self, digest, size).await
    }

    async fn list(&self, query: &Query) -> Result<Page, EngineError> {
        // containerd responds with all records in one message and has no pages. Its filters could apply the prefix, at
        // the price of writing what a client sends into its filter language.
        Ok(Page::of(self.records(Vec::new()).await?, query))
    }

    async fn size(&self, digest: &Digest) -> Result<Option<u64>, EngineError> {
        let info = content::info(&self.client, digest).await?;
        Ok(info.and_then(|info| u64::try_from(info.size).ok()))
    }

    async fn equal_layers(&self, digests: &[Digest]) -> Result<EqualLayers, EngineError> {
        equal_layers::of(&self.client, digests).await
    }
}
