//! What a daemon's engine holds, read through References.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use tokio::time::timeout;
use tonic::{Code, Status};

use super::DaemonConnection;
use crate::engine::EngineError;
use crate::engine::images::{Images, MAX_PAGE, Page, Query, Record};
use crate::engine::stream::SILENCE;
use crate::export_v1::convert;
use crate::export_v1::proto::{self, FetchRequest, FetchResponse, ListReferencesRequest, ResolveDepth, ResolveRequest};
use crate::image::{Descriptor, Digest, Reference};
use crate::source::{Chunks, Source, SourceError};

/// The images behind a connection.
#[derive(Debug)]
pub(super) struct RemoteImages {
    connection: DaemonConnection,
    name: String,
    /// Whether the daemon's engine is a layout, into which others may write.
    is_layout: bool,
}

impl RemoteImages {
    pub(super) fn new(connection: DaemonConnection, is_layout: bool) -> Self {
        let name = format!("linkspan at {}", connection.address());
        Self { connection, name, is_layout }
    }

    /// The root of what is called `reference`, be that a name or a digest.
    async fn root(&self, reference: String) -> Result<Option<Descriptor>, EngineError> {
        let operation = format!("resolving {reference}");
        let request = ResolveRequest { reference, depth: ResolveDepth::Root.into(), ..ResolveRequest::default() };
        let mut references = self.connection.references();
        let call = async {
            match references.resolve(request).await {
                Err(status) if status.code() == Code::NotFound => Ok(tonic::Response::new(None)),
                response => Ok(response?.map(Some)),
            }
        };
        let Some(response) = self.connection.unary(&operation, call).await? else { return Ok(None) };
        let root = response.chain.into_iter().next().and_then(|blob| blob.descriptor);
        root.map(|root| descriptor(&operation, &root)).transpose()
    }

    /// Begins to fetch a blob: its size, and the messages that follow.
    async fn fetch(
        &self,
        digest: &Digest,
        offset: u64,
        length: i64,
    ) -> Result<(u64, tonic::Streaming<FetchResponse>), Status> {
        let offset = i64::try_from(offset).unwrap_or(i64::MAX);
        let request = FetchRequest { digest: digest.to_string(), offset, length };
        let mut references = self.connection.references();
        let begun = async {
            let mut messages = references.fetch(request).await?.into_inner();
            let first = messages.message().await?.unwrap_or_default();
            Ok((u64::try_from(first.size).unwrap_or(0), messages))
        };
        let patience = self.connection.patience();
        let late = || Status::deadline_exceeded(format!("no response within {} s", patience.as_secs()));
        timeout(patience, begun).await.unwrap_or_else(|_| Err(late()))
    }

    fn refused(&self, digest: &Digest, status: &Status) -> SourceError {
        let (name, digest) = (self.name.clone(), digest.clone());
        if status.code() == Code::NotFound {
            return SourceError::NotFound { name, digest };
        }
        let reason = self.connection.failure("fetching it", status).reason();
        SourceError::Read { name, digest, reason }
    }
}

/// A descriptor that the daemon sent.
fn descriptor(operation: &str, message: &proto::Descriptor) -> Result<Descriptor, EngineError> {
    convert::descriptor("descriptor", message).map_err(|wrong| {
        let wrong: Vec<_> = wrong.into_iter().map(|(field, what)| format!("{field}: {what}")).collect();
        EngineError::Protocol { operation: operation.to_owned(), reason: wrong.join("; ") }
    })
}

#[async_trait]
impl Source for RemoteImages {
    fn name(&self) -> &str {
        &self.name
    }

    async fn open(&self, blob: &Descriptor, offset: u64) -> Result<Chunks, SourceError> {
        let (_, messages) =
            self.fetch(&blob.digest, offset, 0).await.map_err(|status| self.refused(&blob.digest, &status))?;
        let (connection, name, digest) = (self.connection.clone(), self.name.clone(), blob.digest.clone());
        let is_layout = self.is_layout;
        let rest = stream::unfold(Some(messages), move |messages| {
            let this = Self { connection: connection.clone(), name: name.clone(), is_layout };
            let digest = digest.clone();
            async move {
                let mut messages = messages?;
                match timeout(SILENCE, messages.message()).await {
                    Ok(Ok(message)) => Some((Ok::<Bytes, _>(message?.data), Some(messages))),
                    Ok(Err(status)) => Some((Err(this.refused(&digest, &status)), None)),
                    Err(_) => {
                        let reason = format!("no response within {} s", SILENCE.as_secs());
                        Some((Err(SourceError::Read { name: this.name, digest, reason }), None))
                    }
                }
            }
        });
        Ok(rest.boxed())
    }
}

#[async_trait]
impl Images for RemoteImages {
    async fn resolve(&self, name: &Reference) -> Result<Option<Descriptor>, EngineError> {
        Ok(self.root(name.to_string()).await?.filter(|root| name.admits(&root.digest)))
    }

    async fn identify(&self, digest: &Digest) -> Result<Option<Descriptor>, EngineError> {
        Ok(self.root(digest.to_string()).await?.filter(|root| root.digest == *digest))
    }

    async fn list(&self, query: &Query) -> Result<Page, EngineError> {
        let operation = "listing images";
        let request = ListReferencesRequest {
            prefix: query.prefix.clone(),
            page_size: i32::try_from(query.limit.clamp(1, MAX_PAGE)).unwrap_or(0),
            page_token: query.after.clone().unwrap_or_default(),
            unnamed: true,
        };
        let call = async { self.connection.references().list(request).await };
        let page = self.connection.unary(operation, call).await?;
        let record = |reference: proto::Reference| {
            let root = reference.root.unwrap_or_default();
            let name = Some(reference.name).filter(|name| !name.is_empty());
            Ok(Record { name, target: descriptor(operation, &root)? })
        };
        let records: Result<Vec<_>, EngineError> = page.references.into_iter().map(record).collect();
        // A server that gives the same page again would be queried for ever.
        let next = Some(page.next_page_token).filter(|next| !next.is_empty() && query.after.as_ref() != Some(next));
        Ok(Page { records: records?, next })
    }

    async fn size(&self, digest: &Digest) -> Result<Option<u64>, EngineError> {
        // One byte, for the sake of the first message, which says the size.
        match self.fetch(digest, 0, 1).await {
            Ok((size, _)) => Ok(Some(size)),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(self.connection.failure(&format!("looking up {digest}"), &status)),
        }
    }

    /// Of a layout's blobs the API says within an export only whether they are what they are called.
    async fn reliable(&self, digest: &Digest) -> Result<Option<u64>, EngineError> {
        if self.is_layout { Ok(None) } else { self.size(digest).await }
    }
}
