//! Blobs of a daemon's build caches: read in a hold, written in an export.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use containerd_client::services::v1::ReadContentRequest;
use futures_util::{StreamExt as _, stream};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status};

use super::DaemonConnection;
use super::connection::{CACHE, Scoped};
use super::writer;
use crate::cache_v1::proto::RenewRequest;
use crate::engine::stream::{SILENCE, Store as _, UNARY};
use crate::engine::{EngineError, Opened};
use crate::export_v1::convert::duration_message;
use crate::image::{Descriptor, Digest};
use crate::source::{Chunks, Source, SourceError};

/// How often the expiry of an export is put off. It has the daemon's own time to live, for the next command that goes on with it.
const EXPORT_RENEWAL: Duration = Duration::from_secs(300);
/// How long a hold outlives its command, of which nobody goes on with it, and how often that is put off.
pub(crate) const HOLD_TTL: Duration = Duration::from_secs(300);
const HOLD_RENEWAL: Duration = Duration::from_secs(60);

/// What a hold or an export of the caching API has. It is renewed until this is dropped.
#[derive(Debug)]
pub(crate) struct CacheBlobs {
    id: String,
    name: String,
    content: Scoped,
    _renewal: AbortOnDropHandle<()>,
}

impl CacheBlobs {
    /// The blobs of the export `id`.
    ///
    /// # Errors
    /// [`EngineError::Protocol`] for an id that no header can have.
    pub(crate) fn of_export(connection: &DaemonConnection, id: &str) -> Result<Self, EngineError> {
        Self::new(connection, id, (EXPORT_RENEWAL, None))
    }

    /// The blobs of the hold `id`, which was resolved for [`HOLD_TTL`].
    ///
    /// # Errors
    /// As [`Self::of_export`].
    pub(crate) fn of_hold(connection: &DaemonConnection, id: &str) -> Result<Self, EngineError> {
        Self::new(connection, id, (HOLD_RENEWAL, Some(HOLD_TTL)))
    }

    fn new(
        connection: &DaemonConnection,
        id: &str,
        renewal: (Duration, Option<Duration>),
    ) -> Result<Self, EngineError> {
        let renewal = tokio::spawn(renew(connection.clone(), id.to_owned(), renewal));
        Ok(Self {
            id: id.to_owned(),
            name: format!("linkspan at {}", connection.address()),
            content: connection.scoped(CACHE, id)?,
            _renewal: AbortOnDropHandle::new(renewal),
        })
    }

    /// The id.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Opens a blob of an export for writing, where an earlier attempt left it, unless it need not be sent.
    ///
    /// # Errors
    /// [`EngineError::Busy`] if another client writes it to the same export; when the daemon refuses.
    pub(crate) async fn writer(&self, blob: &Descriptor) -> Result<Opened, EngineError> {
        writer::begin(&self.content, blob).await
    }
}

/// Puts off the expiry for as long as it is polled. What fails is seen by the next call about the blobs.
async fn renew(connection: DaemonConnection, id: String, (pause, ttl): (Duration, Option<Duration>)) {
    loop {
        let request = RenewRequest { id: id.clone(), ttl: ttl.map(duration_message) };
        let call = async { connection.caches().renew(request).await };
        if let Err(error) = connection.unary("renewing what is held of caches", call).await {
            tracing::debug!(%error, "what is held of caches was not renewed");
        }
        tokio::time::sleep(pause).await;
    }
}

fn refused(name: &str, content: &Scoped, digest: &Digest, status: Status) -> SourceError {
    let (name, digest) = (name.to_owned(), digest.clone());
    if status.code() == Code::NotFound {
        return SourceError::NotFound { name, digest };
    }
    let reason = content.failure("reading it".to_owned(), status).reason();
    SourceError::Read { name, digest, reason }
}

#[async_trait]
impl Source for CacheBlobs {
    fn name(&self) -> &str {
        &self.name
    }

    async fn open(&self, blob: &Descriptor, offset: u64) -> Result<Chunks, SourceError> {
        let (name, content, digest) = (self.name.clone(), self.content.clone(), blob.digest.clone());
        let late = {
            let (name, digest) = (name.clone(), digest.clone());
            move |limit: Duration| {
                let reason = format!("no response within {} s", limit.as_secs());
                SourceError::Read { name: name.clone(), digest: digest.clone(), reason }
            }
        };
        let offset = i64::try_from(offset).unwrap_or(i64::MAX);
        let request = ReadContentRequest { digest: digest.to_string(), offset, size: 0 };
        let mut stub = content.content();
        let messages = match timeout(UNARY, stub.read(content.request(request))).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Err(refused(&name, &content, &digest, status)),
            Err(_) => return Err(late(UNARY)),
        };
        let chunks = stream::unfold(Some(messages), move |messages| {
            let (name, content, digest, late) = (name.clone(), content.clone(), digest.clone(), late.clone());
            async move {
                let mut messages = messages?;
                match timeout(SILENCE, messages.message()).await {
                    Ok(Ok(message)) => Some((Ok(Bytes::from(message?.data)), Some(messages))),
                    Ok(Err(status)) => Some((Err(refused(&name, &content, &digest, status)), None)),
                    Err(_) => Some((Err(late(SILENCE)), None)),
                }
            }
        });
        Ok(chunks.boxed())
    }
}
