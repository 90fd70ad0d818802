//! The content stores of a build's caches, as a builder finds them in its client's session.
//!
//! A builder's exporter only writes, its importer only asks for `Info` and reads (BuildKit `cache/remotecache`).

use std::pin::Pin;
use std::sync::Arc;

use containerd_client::services::v1::{
    AbortRequest, DeleteContentRequest, Info, InfoRequest, InfoResponse, ListContentRequest, ListContentResponse,
    ListStatusesRequest, ListStatusesResponse, ReadContentRequest, ReadContentResponse, StatusRequest, StatusResponse,
    UpdateRequest, UpdateResponse,
};
use futures_util::{Stream, StreamExt as _, stream};
use tonic::{Request, Response, Status, Streaming};

use super::build::ShownExport;
use super::write;
use crate::caches::{CacheError, CacheReader};
use crate::export_v1::proto::WriteContentRequest;
use crate::export_v1::proto::content_server::Content;
use crate::image::Digest;

/// One store.
#[derive(Debug, Clone)]
pub(super) enum Store {
    /// Takes what an export writes.
    Export(Arc<ShownExport>),
    /// Has the parts of the caches that a build imports.
    Import(Arc<CacheReader>),
}

impl Store {
    fn reader(&self) -> Result<&Arc<CacheReader>, Status> {
        match self {
            Self::Import(reader) => Ok(reader),
            Self::Export(_) => Err(Status::not_found("this store is only written")),
        }
    }
}

#[tonic::async_trait]
impl Content for Store {
    async fn info(&self, request: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        let digest = digest(&request.get_ref().digest)?;
        let size = self.reader()?.size(&digest).ok_or_else(|| not_found(&digest))?;
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        let info = Info { digest: digest.to_string(), size, ..Info::default() };
        Ok(Response::new(InfoResponse { info: Some(info) }))
    }

    type ReadStream = Pin<Box<dyn Stream<Item = Result<ReadContentResponse, Status>> + Send>>;

    async fn read(&self, request: Request<ReadContentRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let ReadContentRequest { digest: text, offset, size } = request.into_inner();
        let digest = digest(&text)?;
        let reader = self.reader()?;
        let total = reader.size(&digest).ok_or_else(|| not_found(&digest))?;
        // As containerd's server does: what is before the start counts as the start, what is past the end as all.
        let offset = u64::try_from(offset).unwrap_or(0);
        if offset > total {
            return Err(Status::out_of_range(format!("read past object length {total} bytes")));
        }
        let size = u64::try_from(size).ok().filter(|size| *size > 0).unwrap_or(u64::MAX).min(total - offset);
        let chunks = reader.read(&digest, offset, size).await.map_err(failure)?;
        let messages = chunks.scan(offset, |at, chunk| {
            let message = chunk.map_err(failure).map(|data| {
                let offset = i64::try_from(*at).unwrap_or(i64::MAX);
                *at += data.len() as u64;
                ReadContentResponse { offset, data: data.into() }
            });
            std::future::ready(Some(message))
        });
        Ok(Response::new(Box::pin(messages)))
    }

    type WriteStream = write::Responses;

    async fn write(
        &self,
        request: Request<Streaming<WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        match self {
            Self::Export(export) => Ok(Response::new(write::start(export.clone(), request.into_inner()))),
            Self::Import(_) => Err(Status::permission_denied("this store is only read")),
        }
    }

    type ListStream = Pin<Box<dyn Stream<Item = Result<ListContentResponse, Status>> + Send>>;

    async fn list(&self, _: Request<ListContentRequest>) -> Result<Response<Self::ListStream>, Status> {
        Ok(Response::new(stream::empty().boxed()))
    }

    async fn list_statuses(&self, _: Request<ListStatusesRequest>) -> Result<Response<ListStatusesResponse>, Status> {
        Ok(Response::new(ListStatusesResponse::default()))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Err(Status::not_found(format!("ref {}: not found", request.get_ref().r#ref)))
    }

    async fn abort(&self, request: Request<AbortRequest>) -> Result<Response<()>, Status> {
        Err(Status::not_found(format!("ref {}: not found", request.get_ref().r#ref)))
    }

    async fn update(&self, _: Request<UpdateRequest>) -> Result<Response<UpdateResponse>, Status> {
        Err(Status::unimplemented("a cache has no labels"))
    }

    async fn delete(&self, _: Request<DeleteContentRequest>) -> Result<Response<()>, Status> {
        Err(Status::unimplemented("a cache is not deleted from here"))
    }
}

/// Reads a digest.
pub(super) fn digest(text: &str) -> Result<Digest, Status> {
    text.parse().map_err(|error| Status::invalid_argument(format!("{text}: {error}")))
}

fn not_found(digest: &Digest) -> Status {
    Status::not_found(format!("content {digest}: not found"))
}

/// What the builder is told, and shows to its client. Never UNAVAILABLE, which its writer repeats for ever (containerd
/// `core/content/helpers.go`, `OpenWriter`).
pub(super) fn failure(error: CacheError) -> Status {
    let message = match error.hint() {
        Some(hint) => format!("linkspan: {error}; hint: {hint}"),
        None => format!("linkspan: {error}"),
    };
    Status::unknown(message)
}
