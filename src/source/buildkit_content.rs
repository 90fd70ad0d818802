//! A builder's own content store, read over its control connection.
//!
//! buildkitd serves a read-only `containerd.services.content.v1.Content` over its whole content
//! store on the control listener since v0.11 (BuildKit `control/control.go`).

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::{Info, InfoRequest, ReadContentRequest};
use futures_util::stream::{StreamExt, unfold};
use http::Uri;
use tonic::{Code, Status};

use super::{BlobLookup, Chunks, Source, SourceError};
use crate::http2::Calls;
use crate::image::{Descriptor, Digest};

/// buildkitd sends 1 MiB a message; its gRPC limit is 16 MiB (BuildKit `cmd/buildkitd/main.go`).
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// How long the builder may be silent while a blob is read: as long as an engine may be while one is written. Without this
/// limit a read from a suspended or unreachable builder would never end.
const SILENCE: Duration = Duration::from_secs(600);

/// The content store of one builder.
#[derive(Debug, Clone)]
pub struct BuildkitContent {
    name: String,
    client: ContentClient<Calls>,
}

impl BuildkitContent {
    /// Reads over `calls`, a client of the control socket of the builder `builder`.
    pub fn new(builder: &str, calls: Calls) -> Self {
        let client = ContentClient::with_origin(calls, Uri::from_static("http://localhost"))
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        Self { name: format!("builder {builder}"), client }
    }

    /// When a blob was written, by the builder's clock; `None` if it does not hold the blob or does not know.
    ///
    /// # Errors
    /// When the builder does not respond.
    pub async fn created(&self, digest: &Digest) -> Result<Option<SystemTime>, SourceError> {
        let created = self.info(digest).await?.and_then(|info| info.created_at);
        Ok(created.and_then(|created| SystemTime::try_from(created).ok()))
    }

    async fn info(&self, digest: &Digest) -> Result<Option<Info>, SourceError> {
        let mut client = self.client.clone();
        match within_silence(client.info(InfoRequest { digest: digest.to_string() })).await {
            Ok(response) => Ok(response.into_inner().info),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(self.error(digest, &status)),
        }
    }

    fn error(&self, digest: &Digest, status: &Status) -> SourceError {
        let (name, digest) = (self.name.clone(), digest.clone());
        match status.code() {
            Code::NotFound => SourceError::NotFound { name, digest },
            _ => SourceError::Read { name, digest, reason: status.message().to_owned() },
        }
    }
}

/// The next message of the builder, or an error after [`SILENCE`].
async fn within_silence<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let silent = || Status::deadline_exceeded(format!("no response within {} s", SILENCE.as_secs()));
    tokio::time::timeout(SILENCE, call).await.unwrap_or_else(|_| Err(silent()))
}

#[async_trait]
impl Source for BuildkitContent {
    fn name(&self) -> &str {
        &self.name
    }

    async fn open(&self, blob: &Descriptor, offset: u64) -> Result<Chunks, SourceError> {
        let offset = i64::try_from(offset).unwrap_or(i64::MAX);
        let request = ReadContentRequest { digest: blob.digest.to_string(), offset, size: 0 };
        let mut client = self.client.clone();
        let begun = async {
            let mut messages = client.read(request).await?.into_inner();
            // A missing blob is reported with the first message, not with the response's headers.
            let first = messages.message().await?;
            Ok((first, messages))
        };
        let (first, messages) = within_silence(begun).await.map_err(|status| self.error(&blob.digest, &status))?;
        let (this, digest) = (self.clone(), blob.digest.clone());
        let rest = unfold(Some(messages), move |messages| {
            let (this, digest) = (this.clone(), digest.clone());
            async move {
                let mut messages = messages?;
                match within_silence(messages.message()).await {
                    Ok(message) => Some((Ok(Bytes::from(message?.data)), Some(messages))),
                    Err(status) => Some((Err(this.error(&digest, &status)), None)),
                }
            }
        });
        let first = first.map(|message| Ok(Bytes::from(message.data)));
        Ok(futures_util::stream::iter(first).chain(rest).boxed())
    }
}

#[async_trait]
impl BlobLookup for BuildkitContent {
    async fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, SourceError> {
        Ok(self.info(digest).await?.and_then(|info| u64::try_from(info.size).ok()))
    }
}
