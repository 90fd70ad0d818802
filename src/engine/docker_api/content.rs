//! dockerd's content store, as its socket shows it: it can be read and nothing else.
//!
//! BuildKit in dockerd serves containerd's Content service over the store that has the images (BuildKit
//! `control/control.go`, `roContentStore`; dockerd 24 and later), in dockerd's namespace, whatever a client names. What is
//! not there it looks for among the records of builds (`<namespace>_history`), which have attestations and no layers:
//! dockerd would not find such a blob when it loads an image.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::{InfoRequest, ReadContentRequest, ReadContentResponse};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::docker_api::Grpc;
use crate::engine::EngineError;
use crate::engine::containerd::failure;
use crate::engine::stream::{SILENCE, UNARY};
use crate::image::{Descriptor, Digest, Kind};
use crate::source::{Chunks, SourceError};

/// How many look-ups are in flight at once, over one connection.
const LOOKUPS: usize = 64;
/// The largest message: dockerd's own limit (BuildKit `defaults`).
const MESSAGE_BYTES: usize = 16 << 20;
/// Up to how many bytes are read at once, over the connection that everybody shares.
const SMALL_BYTES: u64 = 64 << 10;
/// The largest blob that may be one of a build's record and not of an image: an attestation.
const MAX_ATTESTATION: u64 = 16 << 20;

/// A dockerd's content store.
#[derive(Debug, Clone)]
pub(super) struct Content {
    grpc: Arc<Grpc>,
    name: Arc<str>,
}

/// What the store knows of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) size: u64,
    pub(super) labels: HashMap<String, String>,
}

impl Content {
    pub(super) fn new(grpc: Arc<Grpc>) -> Self {
        let name = format!("docker at {}", grpc.api().address()).into();
        Self { grpc, name }
    }

    /// Its name in messages.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What it knows of a blob; `None` if it does not hold it.
    pub(super) async fn info(&self, digest: &Digest) -> Result<Option<Found>, EngineError> {
        let operation = || format!("looking up {digest} in docker's content store");
        let call = self.grpc.call(|channel| {
            let request = InfoRequest { digest: digest.to_string() };
            async move { client(channel).info(request).await }
        });
        let info = match timeout(UNARY, call).await {
            Ok(Ok(response)) => response.into_inner().info,
            Ok(Err(status)) if status.code() == Code::NotFound => return Ok(None),
            Ok(Err(status)) => return Err(failure("docker", self.grpc.api().address(), operation(), &status)),
            Err(_) => return Err(EngineError::Timeout { operation: operation(), after: UNARY }),
        };
        let broken = |reason: String| EngineError::Protocol { operation: operation(), reason };
        let info = info.ok_or_else(|| broken("it says nothing of the blob".to_owned()))?;
        if info.digest != digest.as_str() {
            return Err(broken(format!("it speaks of {}", info.digest.chars().take(80).collect::<String>())));
        }
        let size = u64::try_from(info.size).map_err(|_| broken(format!("a size of {} bytes", info.size)))?;
        Ok(Some(Found { size, labels: info.labels }))
    }

    /// What it knows of each of `digests`, many look-ups at a time.
    pub(super) async fn infos(
        &self,
        digests: impl IntoIterator<Item = &Digest>,
    ) -> Result<HashMap<Digest, Found>, EngineError> {
        let lookup = async |digest: &Digest| Ok::<_, EngineError>((digest.clone(), self.info(digest).await?));
        let lookups: Vec<_> = digests.into_iter().map(lookup).collect();
        let found: Vec<_> = stream::iter(lookups).buffer_unordered(LOOKUPS).try_collect().await?;
        Ok(found.into_iter().filter_map(|(digest, found)| Some((digest, found?))).collect())
    }

    /// Those of `blobs` that it does not hold, or holds with another size than they say.
    pub(super) async fn lacks(&self, blobs: impl IntoIterator<Item = &Descriptor>) -> Result<Vec<Digest>, EngineError> {
        let blobs: Vec<_> = blobs.into_iter().collect();
        let found = self.infos(blobs.iter().map(|blob| &blob.digest)).await?;
        let is_there = |blob: &Descriptor| found.get(&blob.digest).is_some_and(|found| found.size == blob.size);
        Ok(blobs.into_iter().filter(|blob| !is_there(blob)).map(|blob| blob.digest.clone()).collect())
    }

    /// The bytes of a blob from `offset` on. What is small comes as a whole over the shared connection; the rest over one of
    /// its own, so that whoever reads may pause and holds up nobody.
    pub(super) async fn open(&self, blob: &Descriptor, offset: u64) -> Result<Chunks, SourceError> {
        let digest = &blob.digest;
        let length = blob.size.saturating_sub(offset);
        if length <= SMALL_BYTES {
            // One byte more: that it is longer is for the caller to find.
            let reading = timeout(UNARY, async {
                let mut messages = read(&self.grpc, digest, offset, length + 1).await?;
                let (mut chunks, mut read) = (Vec::new(), 0);
                while read <= length
                    && let Some(message) = messages.message().await?
                {
                    read += message.data.len() as u64;
                    chunks.push(Ok(Bytes::from(message.data)));
                }
                Ok(chunks)
            });
            let chunks = reading.await.map_err(|_| self.silent(digest, UNARY))?;
            return Ok(stream::iter(chunks.map_err(|status| self.refused(digest, &status))?).boxed());
        }
        let grpc = self.grpc.apart();
        let opened = timeout(UNARY, async {
            let mut messages = read(&grpc, digest, offset, 0).await?;
            // The store says NOT_FOUND only when the first message is awaited.
            let first = messages.message().await?;
            Ok((first, messages))
        });
        let opened = opened.await.map_err(|_| self.silent(digest, UNARY))?;
        let (first, messages) = opened.map_err(|status| self.refused(digest, &status))?;
        let Some(first) = first else { return Ok(stream::empty().boxed()) };
        let (this, digest) = (self.clone(), digest.clone());
        let rest = stream::unfold(Some((messages, grpc)), move |reading| {
            let (this, digest) = (this.clone(), digest.clone());
            async move {
                let (mut messages, grpc) = reading?;
                match timeout(SILENCE, messages.message()).await {
                    Ok(Ok(message)) => Some((Ok(Bytes::from(message?.data)), Some((messages, grpc)))),
                    Ok(Err(status)) => Some((Err(this.refused(&digest, &status)), None)),
                    Err(_) => Some((Err(this.silent(&digest, SILENCE)), None)),
                }
            }
        });
        Ok(stream::iter([Ok(Bytes::from(first.data))]).chain(rest).boxed())
    }

    fn silent(&self, digest: &Digest, after: Duration) -> SourceError {
        let reason = format!("no response within {} s", after.as_secs());
        SourceError::Read { name: self.name.to_string(), digest: digest.clone(), reason }
    }

    fn refused(&self, digest: &Digest, status: &Status) -> SourceError {
        let (name, digest) = (self.name.to_string(), digest.clone());
        match status.code() {
            Code::NotFound => SourceError::NotFound { name, digest },
            _ => {
                let error = failure("docker", self.grpc.api().address(), format!("reading {digest}"), status);
                SourceError::Read { name, digest, reason: error.reason() }
            }
        }
    }
}

/// Whether the store may have a blob from the record of a build alone, where dockerd does not find it when it loads an
/// image. Such a blob is sent all the same.
pub(super) fn may_be_of_a_record(blob: &Descriptor) -> bool {
    !matches!(blob.kind(), Kind::Layer | Kind::ForeignLayer) && blob.size <= MAX_ATTESTATION
}

fn client(channel: Channel) -> ContentClient<Channel> {
    ContentClient::new(channel).max_decoding_message_size(MESSAGE_BYTES)
}

/// Calls `Read` for `size` bytes of a blob; 0 means all that is left.
async fn read(grpc: &Grpc, digest: &Digest, offset: u64, size: u64) -> Result<Streaming<ReadContentResponse>, Status> {
    let offset = i64::try_from(offset).unwrap_or(i64::MAX);
    let size = i64::try_from(size).unwrap_or_default();
    let request = ReadContentRequest { digest: digest.to_string(), offset, size };
    let call = grpc.call(|channel| {
        let request = request.clone();
        async move { client(channel).read(request).await }
    });
    Ok(call.await?.into_inner())
}

#[cfg(test)]
mod tests;
