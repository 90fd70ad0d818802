//! `containerd.services.content.v1.Content`, scoped to what a call names.

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
use super::scoped_writer::Scoped;
use super::{CallTarget, Export, ExportContent, Ingester, Scopes, write};
use crate::engine::ingest::IngestStatus;
use crate::export_v1::convert::{digest, timestamp};
use crate::export_v1::proto::content_server::Content;
use crate::export_v1::proto::{Reason, WriteContentRequest};
use crate::export_v1::{ApiError, ResponseStream};
use crate::image::{Descriptor, Digest};

/// How many blobs go into one message of List, as in containerd's own server.
const LISTED: usize = 100;

/// The service.
#[derive(Debug, Clone)]
pub(crate) enum ContentService {
    /// Serves what these find.
    Scopes(Vec<Arc<dyn Scopes>>),
    /// Serves this, whatever calls name.
    Only(CallTarget),
}

impl ContentService {
    /// The target of a call. Never NOT_FOUND, which means a missing blob here.
    fn named<T>(&self, request: &Request<T>) -> Result<CallTarget, Status> {
        let scopes = match self {
            Self::Scopes(scopes) => scopes,
            Self::Only(named) => return Ok(named.clone()),
        };
        let mut given = scopes.iter().filter_map(|scopes| {
            let id = request.metadata().get(scopes.key())?.to_str().unwrap_or_default();
            (!id.is_empty()).then_some((scopes, id))
        });
        let Some((found, id)) = given.next() else {
            let keys: Vec<_> = scopes.iter().map(|scopes| format!("`{}`", scopes.key())).collect();
            let message = format!("the call names no export; say which in the metadata {}", keys.join(" or "));
            return Err(ApiError::new(Code::FailedPrecondition, Reason::ExportRequired, message).into());
        };
        if let Some((other, _)) = given.next() {
            let message = format!("the call names something by `{}` and by `{}`; give one", found.key(), other.key());
            return Err(ApiError::new(Code::FailedPrecondition, Reason::ExportRequired, message).into());
        }
        Ok(found.find(id).map_err(|refusal| ApiError { code: Code::FailedPrecondition, ..refusal })?)
    }

    /// The export that a call is about, which has not ended.
    fn export<T>(&self, request: &Request<T>) -> Result<Arc<dyn Export>, Status> {
        match self.named(request)? {
            CallTarget::Export(export) => {
                export.check_alive()?;
                Ok(export)
            }
            CallTarget::Blobs(_) => Err(denied("is only read", "Info, Read").into()),
            CallTarget::Ingester(_) => Err(denied("is only written", "Write").into()),
        }
    }
}

/// The refusal of a call about something that takes only calls `allowed`.
fn denied(how: &str, allowed: &str) -> ApiError {
    let message = format!("what the call names {how}; expected one of the calls {allowed}");
    ApiError::new(Code::PermissionDenied, Reason::OperationDenied, message).with("allowed", allowed)
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
fn ingest(contents: &ExportContent, status: &IngestStatus) -> Ingest {
    let times = contents.scope().times(&status.reference);
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
impl Content for ContentService {
    async fn info(&self, request: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        let named = self.named(&request)?;
        let digest = digest("digest", &request.get_ref().digest)?;
        let info = match named {
            CallTarget::Export(export) => {
                export.check_alive()?;
                let scope = export.contents().scope();
                info(&digest, scope.get(&digest).ok_or_else(|| not_found(&digest))?)
            }
            CallTarget::Blobs(blobs) => {
                let size = blobs.size(&digest).ok_or_else(|| not_found(&digest))?;
                let size = i64::try_from(size).unwrap_or(i64::MAX);
                Info { digest: digest.to_string(), size, ..Info::default() }
            }
            CallTarget::Ingester(_) => return Err(not_found(&digest)),
        };
        Ok(Response::new(InfoResponse { info: Some(info) }))
    }

    async fn update(&self, request: Request<UpdateRequest>) -> Result<Response<UpdateResponse>, Status> {
        let export = self.export(&request)?;
        let contents = export.contents();
        let UpdateRequest { info: given, update_mask } = request.into_inner();
        let given = given.ok_or_else(|| ApiError::field("info", "not given"))?;
        let digest = digest("info.digest", &given.digest)?;
        let paths = update_mask.map(|mask| mask.paths).unwrap_or_default();
        let blob = contents.scope().update(&digest, given.labels.into_iter().collect(), &paths)?;
        Ok(Response::new(UpdateResponse { info: Some(info(&digest, &blob)) }))
    }

    type ListStream = ResponseStream<ListContentResponse>;

    async fn list(&self, request: Request<ListContentRequest>) -> Result<Response<Self::ListStream>, Status> {
        let export = self.export(&request)?;
        let contents = export.contents();
        let filters = Filters::parse(&request.get_ref().filters)?;
        let holds = |digest: &Digest, blob: &Blob| {
            filters.matches(|field| match field {
                "digest" => Some(digest.to_string()),
                "size" => Some(blob.size.to_string()),
                _ => blob.labels.get(field.strip_prefix("labels.")?).cloned(),
            })
        };
        let blobs = contents.scope().list();
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
        let export = self.export(&request)?;
        let contents = export.contents();
        let digest = digest("digest", &request.get_ref().digest)?;
        let _deleting = contents.deleting.read().await;
        export.check_delete()?;
        if contents.scope().get(&digest).is_none() {
            return Err(not_found(&digest));
        }
        contents.lease.unpin(&digest).await.map_err(ApiError::from)?;
        contents.scope().remove(&digest);
        Ok(Response::new(()))
    }

    type ReadStream = ResponseStream<ReadContentResponse>;

    async fn read(&self, request: Request<ReadContentRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let named = self.named(&request)?;
        let ReadContentRequest { digest: text, offset, size } = request.into_inner();
        let digest = digest("digest", &text)?;
        let total = match &named {
            CallTarget::Export(export) => {
                export.check_alive()?;
                export.contents().scope().get(&digest).map(|blob| blob.size)
            }
            CallTarget::Blobs(blobs) => blobs.size(&digest),
            CallTarget::Ingester(_) => None,
        };
        let total = total.ok_or_else(|| not_found(&digest))?;
        // As containerd's server does: what is before the start counts as the start, what is past the end as all.
        let offset = u64::try_from(offset).unwrap_or(0);
        if offset > total {
            return Err(Status::out_of_range(format!("read past object length {total} bytes")));
        }
        let size = u64::try_from(size).ok().filter(|size| *size > 0).unwrap_or(u64::MAX).min(total - offset);
        if size == 0 {
            return Ok(Response::new(Box::pin(stream::empty())));
        }
        let chunks = match named {
            CallTarget::Export(export) => {
                let blob = Descriptor::new("", digest, total);
                let chunks = export.contents().images.open(&blob, offset).await.map_err(ApiError::from)?;
                chunks.map(|chunk| chunk.map_err(ApiError::from)).boxed()
            }
            CallTarget::Blobs(blobs) => blobs.read(&digest, offset, size).await?,
            CallTarget::Ingester(_) => return Err(not_found(&digest)),
        };
        let parts = chunks.scan((offset, size), |(at, left), chunk| {
            let next = match chunk {
                _ if *left == 0 => None,
                Err(error) => Some(Err(error.into())),
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
        let export = self.export(&request)?;
        let contents = export.contents();
        let name = &request.get_ref().r#ref;
        let status = contents.ingests().map_err(ApiError::from)?.status(name).await.map_err(ApiError::from)?;
        let status = status.ok_or_else(|| Status::not_found(format!("ref {name}: not found in this export")))?;
        Ok(Response::new(StatusResponse { status: Some(ingest(contents, &status)) }))
    }

    async fn list_statuses(
        &self,
        request: Request<ListStatusesRequest>,
    ) -> Result<Response<ListStatusesResponse>, Status> {
        let export = self.export(&request)?;
        let contents = export.contents();
        let filters = Filters::parse(&request.get_ref().filters)?;
        let all = contents.ingests().map_err(ApiError::from)?.statuses().await.map_err(ApiError::from)?;
        let named =
            |status: &&IngestStatus| filters.matches(|field| (field == "ref").then(|| status.reference.clone()));
        let statuses = all.iter().filter(named).map(|status| ingest(contents, status)).collect();
        Ok(Response::new(ListStatusesResponse { statuses }))
    }

    type WriteStream = ResponseStream<WriteContentResponse>;

    async fn write(
        &self,
        request: Request<Streaming<WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        let ingester: Arc<dyn Ingester> = match self.named(&request)? {
            CallTarget::Ingester(ingester) => ingester,
            _ => Arc::new(Scoped(self.export(&request)?)),
        };
        Ok(Response::new(write::start(ingester, request.into_inner())))
    }

    async fn abort(&self, request: Request<AbortRequest>) -> Result<Response<()>, Status> {
        let export = self.export(&request)?;
        let contents = export.contents();
        let name = &request.get_ref().r#ref;
        let ingests = contents.ingests().map_err(ApiError::from)?;
        if ingests.status(name).await.map_err(ApiError::from)?.is_none() {
            return Err(Status::not_found(format!("ref {name}: not found in this export")));
        }
        ingests.abort(name).await.map_err(ApiError::from)?;
        contents.scope().forget_times(name);
        Ok(Response::new(()))
    }
}

/// At most `left` bytes of `chunk`.
fn part(mut chunk: Bytes, left: u64) -> Bytes {
    chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
    chunk
}
