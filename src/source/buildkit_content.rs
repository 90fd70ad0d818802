//! A builder's own content store, read over its control connection.
//!
//! buildkitd serves a read-only `containerd.services.content.v1.Content` over its whole content
//! store on the control listener since v0.11 (BuildKit `control/control.go`).

use bytes::Bytes;
use containerd_client::services::v1::ReadContentRequest;
use containerd_client::services::v1::content_client::ContentClient;
use futures_util::future::BoxFuture;
use futures_util::stream::StreamExt;
use http::Uri;
use tonic::Code;

use super::{Chunks, Source, SourceError};
use crate::image::{Descriptor, Digest};
use crate::proxy::Calls;

/// buildkitd sends 1 MiB a message; its gRPC limit is 16 MiB (BuildKit `cmd/buildkitd/main.go`).
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// The content store of one builder.
#[derive(Debug, Clone)]
pub struct BuildkitContent {
    name: String,
    client: ContentClient<Calls>,
}

impl BuildkitContent {
    /// Reads by `calls`, which lead to the control socket of the builder called `builder`.
    pub fn new(builder: &str, calls: Calls) -> Self {
        let client = ContentClient::with_origin(calls, Uri::from_static("http://localhost"))
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        Self { name: format!("builder {builder}"), client }
    }

    fn error(&self, digest: &Digest, status: &tonic::Status) -> SourceError {
        let (name, digest) = (self.name.clone(), digest.clone());
        match status.code() {
            Code::NotFound => SourceError::NotFound { name, digest },
            _ => SourceError::Read { name, digest, reason: status.message().to_owned() },
        }
    }
}

impl Source for BuildkitContent {
    fn name(&self) -> &str {
        &self.name
    }

    fn open<'a>(&'a self, blob: &'a Descriptor, offset: u64) -> BoxFuture<'a, Result<Chunks, SourceError>> {
        Box::pin(async move {
            let offset = i64::try_from(offset).unwrap_or(i64::MAX);
            let request = ReadContentRequest { digest: blob.digest.to_string(), offset, size: 0 };
            let answer = self.client.clone().read(request).await;
            let mut messages = answer.map_err(|status| self.error(&blob.digest, &status))?.into_inner();
            // A missing blob is reported with the first message, not with the answer's head.
            let first = messages.message().await.map_err(|status| self.error(&blob.digest, &status))?;
            let (this, digest) = (self.clone(), blob.digest.clone());
            let rest = messages.map(move |message| match message {
                Ok(message) => Ok(Bytes::from(message.data)),
                Err(status) => Err(this.error(&digest, &status)),
            });
            let first = first.map(|message| Ok(Bytes::from(message.data)));
            Ok(futures_util::stream::iter(first).chain(rest).boxed())
        })
    }
}
