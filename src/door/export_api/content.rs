//! `containerd.services.content.v1.Content`, scoped to one export.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use containerd_client::services::v1::{
    AbortRequest, DeleteContentRequest, Info, InfoRequest, InfoResponse, ListContentRequest, ListContentResponse,
    ListStatusesRequest, ListStatusesResponse, ReadContentRequest, ReadContentResponse, Status as Ingest,
    StatusRequest, StatusResponse, UpdateRequest, UpdateResponse, WriteContentResponse,
};
use futures_util::{StreamExt as _, stream};
use tonic::{Code, Request, Response, Status, Streaming};

use super::filter::Filters;
use super::scope::{Blob, not_found};
use super::session::Session;
use super::sessions::Sessions;
use super::write;
use crate::engine::ingest::IngestStatus;
use crate::export_v1::convert::{digest, timestamp};
use crate::export_v1::proto::content_server::Content;
use crate::export_v1::proto::{ExportState, Reason, WriteContentRequest};
use crate::export_v1::{ApiError, ResponseStream};
use crate::image::{Descriptor, Digest};

/// The metadata that names the export.
const EXPORT: &str = "linkspan-export";
/// How many blobs go into one message of List, as in containerd's own server.
const LISTED: usize = 100;

/// The service.
#[derive(Debug, Clone)]
pub(super) struct Blobs(pub(super) Arc<Sessions>);

impl Blobs {
    /// The export that a call is about. Never NOT_FOUND, which means a missing blob here.
    fn session<T>(&self, request: &Request<T>) -> Result<Arc<Session>, Status> {
        let given = request.metadata().get(EXPORT).map(|id| id.to_str().unwrap_or_default());
        let Some(id) = given.filter(|id| !id.is_empty()) else {
            let message = format!("the call names no export; say which in the metadata `{EXPORT}`");
            return Err(ApiError::new(Code::FailedPrecondition, Reason::ExportRequired, message).into());
        };
        let found = self.0.find(id).map_err(|refusal| ApiError { code: Code::FailedPrecondition, ..refusal })?;
        found.check_alive()?;
        Ok(found)
    }
}

fn info(digest: &Digest, blob: &Blob) -> Info {
    Info {
        digest: digest.to_string(),
        size: i64::try_from(blob.size).unwrap_or(i64::MAX),
        created_at: Some(timestamp(blob.created)),
        updated_at: Some(timestamp(blob.updated)),
        labels: blob.labels.clone().into_iter().collect(),
    }
}

/// The status of an ingest, with the times that this process knows better.
fn ingest(session: &Session, status: &IngestStatus) -> Ingest {
    let times = session.scope().times(&status.reference);
    let (started, updated) = times.map_or((status.started, status.updated), |times| (times.started, times.updated));
    let stamp = |time: SystemTime| Some(timestamp(time));
    Ingest {
        started_at: stamp(started),
        updated_at: stamp(updated),
        r#ref: status.reference.clone(),
        offset: i64::try_from(status.offset).unwrap_or(i64::MAX),
        total: status.expected.size.and_then(|size| i64::try_from(size).ok()).unwrap_or(0),
        expected: status.expected.digest.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

#[tonic::async_trait]
impl Content for Blobs {
    async fn info(&self, request: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        let session = self.session(&request)?;
        let digest = digest("digest", &request.get_ref().digest)?;
        let scope = session.scope();
        let blob = scope.get(&digest).ok_or_else(|| not_found(&digest))?;
        Ok(Response::new(InfoResponse { info: Some(info(&digest, blob)) }))
    }

    async fn update(&self, request: Request<UpdateRequest>) -> Result<Response<UpdateResponse>, Status> {
        let session = self.session(&request)?;
        let UpdateRequest { info: given, update_mask } = request.into_inner();
        let given = given.ok_or_else(|| ApiError::field("info", "not given"))?;
        let digest = digest("info.digest", &given.digest)?;
        let paths = update_mask.map(|mask| mask.paths).unwrap_or_default();
        let blob = session.scope().update(&digest, given.labels.into_iter().collect(), &paths)?;
        Ok(Response::new(UpdateResponse { info: Some(info(&digest, &blob)) }))
    }

    type ListStream = ResponseStream<ListContentResponse>;

    async fn list(&self, request: Request<ListContentRequest>) -> Result<Response<Self::ListStream>, Status> {
        let session = self.session(&request)?;
        let filters = Filters::parse(&request.get_ref().filters)?;
        let holds = |digest: &Digest, blob: &Blob| {
            filters.hold(|field| match field {
                "digest" => Some(digest.to_string()),
                "size" => Some(blob.size.to_string()),
                _ => blob.labels.get(field.strip_prefix("labels.")?).cloned(),
            })
        };
        let blobs = session.scope().list();
        let found: Vec<_> = blobs
            .iter()
            .filter(|(digest, blob)| holds(digest, blob))
            .map(|(digest, blob)| info(digest, blob))
            .collect();
        let messages: Vec<_> =
            found.chunks(LISTED).map(|info| Ok(ListContentResponse { info: info.to_vec() })).collect();
        Ok(Response::new(Box::pin(stream::iter(messages))))
    }

    async fn delete(&self, request: Request<DeleteContentRequest>) -> Result<Response<()>, Status> {
        let session = self.session(&request)?;
        let digest = digest("digest", &request.get_ref().digest)?;
        let _deleting = session.deleting.read().await;
        if session.stage().state == ExportState::Committing {
            let message = "a Commit runs, which needs what the export holds; delete after its end, or abort the export";
            return Err(ApiError::new(Code::FailedPrecondition, Reason::CommitRunning, message).into());
        }
        if session.scope().get(&digest).is_none() {
            return Err(not_found(&digest));
        }
        session.lease.unpin(&digest).await.map_err(ApiError::from)?;
        session.scope().remove(&digest);
        Ok(Response::new(()))
    }

    type ReadStream = ResponseStream<ReadContentResponse>;

    async fn read(&self, request: Request<ReadContentRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let session = self.session(&request)?;
        let ReadContentRequest { digest: text, offset, size } = request.into_inner();
        let digest = digest("digest", &text)?;
        let total = session.scope().get(&digest).ok_or_else(|| not_found(&digest))?.size;
        // As containerd's server does: what is before the start counts as the start, what is past the end as all.
        let offset = u64::try_from(offset).unwrap_or(0);
        if offset > total {
            return Err(Status::out_of_range(format!("read past object length {total} bytes")));
        }
        let size = u64::try_from(size).ok().filter(|size| *size > 0).unwrap_or(u64::MAX).min(total - offset);
        if size == 0 {
            return Ok(Response::new(Box::pin(stream::empty())));
        }
        let blob = Descriptor::new("", digest, total);
        let chunks = session.images.open(&blob, offset).await.map_err(ApiError::from)?;
        let parts = chunks.scan((offset, size), |(at, left), chunk| {
            let next = match chunk {
                _ if *left == 0 => None,
                Err(error) => Some(Err(ApiError::from(error).into())),
                Ok(chunk) => {
                    let chunk = part(chunk, *left);
                    let message =
                        ReadContentResponse { offset: i64::try_from(*at).unwrap_or(i64::MAX), data: chunk.to_vec() };
                    *at += chunk.len() as u64;
                    *left -= chunk.len() as u64;
                    Some(Ok(message))
                }
            };
            async move { next }
        });
        Ok(Response::new(Box::pin(parts)))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let session = self.session(&request)?;
        let name = &request.get_ref().r#ref;
        let status = session.ingests().map_err(ApiError::from)?.status(name).await.map_err(ApiError::from)?;
        let status = status.ok_or_else(|| Status::not_found(format!("ref {name}: not found in this export")))?;
        Ok(Response::new(StatusResponse { status: Some(ingest(&session, &status)) }))
    }

    async fn list_statuses(
        &self,
        request: Request<ListStatusesRequest>,
    ) -> Result<Response<ListStatusesResponse>, Status> {
        let session = self.session(&request)?;
        let filters = Filters::parse(&request.get_ref().filters)?;
        let all = session.ingests().map_err(ApiError::from)?.statuses().await.map_err(ApiError::from)?;
        let named = |status: &&IngestStatus| filters.hold(|field| (field == "ref").then(|| status.reference.clone()));
        let statuses = all.iter().filter(named).map(|status| ingest(&session, status)).collect();
        Ok(Response::new(ListStatusesResponse { statuses }))
    }

    type WriteStream = ResponseStream<WriteContentResponse>;

    async fn write(
        &self,
        request: Request<Streaming<WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        let session = self.session(&request)?;
        Ok(Response::new(write::start(session, request.into_inner())))
    }

    async fn abort(&self, request: Request<AbortRequest>) -> Result<Response<()>, Status> {
        let session = self.session(&request)?;
        let name = &request.get_ref().r#ref;
        let ingests = session.ingests().map_err(ApiError::from)?;
        if ingests.status(name).await.map_err(ApiError::from)?.is_none() {
            return Err(Status::not_found(format!("ref {name}: not found in this export")));
        }
        ingests.abort(name).await.map_err(ApiError::from)?;
        session.scope().forget_times(name);
        Ok(Response::new(()))
    }
}

/// At most `left` bytes of `chunk`.
fn part(mut chunk: Bytes, left: u64) -> Bytes {
    chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
    chunk
}
