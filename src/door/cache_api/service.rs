//! `linkspan.cache.v1.Caches`.

use std::sync::Arc;

use futures_util::stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::holds::ResolveQuery;
use super::put::put;
use super::query::QueriedParts;
use super::session::Session;
use super::sessions::Sessions;
use super::watch::watch;
use super::{admin, capabilities, commit, request};
use crate::api_server::{client, opened, respond_to_each};
use crate::cache_v1::proto::caches_server::Caches as Service;
use crate::cache_v1::proto::commit_response::Event;
use crate::cache_v1::proto::{
    AbortRequest, AbortResponse, CapabilitiesRequest, CapabilitiesResponse, CommitRequest, CommitResponse,
    DeleteRequest, DeleteResponse, GetRequest, GetResponse, InspectRequest, InspectResponse, ListRequest, ListResponse,
    LoadRequest, LoadResponse, OpenRequest, OpenResponse, PruneRequest, PruneResponse, PutRequest, PutResponse,
    QueryRequest, QueryResponse, RecordsRequest, RecordsResponse, ReleaseRequest, ReleaseResponse, RenewRequest,
    RenewResponse, ResolveRequest, ResolveResponse, UsageRequest, UsageResponse, WatchRequest, WatchResponse,
};
use crate::export_v1::convert::timestamp;
use crate::export_v1::proto::ExportState;
use crate::export_v1::{ApiError, ResponseStream};

/// The service.
#[derive(Debug, Clone)]
pub(super) struct CacheService(pub(super) Arc<Sessions>);

#[tonic::async_trait]
impl Service for CacheService {
    async fn capabilities(&self, _: Request<CapabilitiesRequest>) -> Result<Response<CapabilitiesResponse>, Status> {
        let engine = self.0.exports.engine();
        Ok(Response::new(capabilities::capabilities(&self.0.caches, &**engine)))
    }

    async fn resolve(&self, request: Request<ResolveRequest>) -> Result<Response<ResolveResponse>, Status> {
        let (client, ResolveRequest { refs, ttl, platforms, version_ids }) = (client(&request)?, request.into_inner());
        let (refs, platforms) = (request::refs(&refs)?, request::platforms(&platforms)?);
        let (versions, ttl) = (request::version_ids(version_ids)?, request::ttl(ttl)?);
        let query = ResolveQuery { refs, platforms, versions, ttl, client };
        let (sessions, ending) = (self.0.clone(), self.0.clone());
        let resolving = async move { sessions.holds.resolve(&sessions.caches, &sessions.exports, &query).await };
        let resolved = opened(resolving, move |found: &ResolveResponse| ending.holds.release(&found.hold_id));
        Ok(Response::new(resolved.await?))
    }

    type QueryStream = ResponseStream<QueryResponse>;

    async fn query(&self, request: Request<Streaming<QueryRequest>>) -> Result<Response<Self::QueryStream>, Status> {
        let (sessions, mut hold_id) = (self.0.clone(), String::new());
        let responses = respond_to_each(request.into_inner(), move |message: QueryRequest| {
            let QueryRequest { hold_id: given, lookups, ahead } = message;
            // Found each time: it may have ended.
            let hold = name(&mut hold_id, given, "hold_id").and_then(|()| sessions.holds.find(&hold_id));
            let caches = sessions.caches.clone();
            async move {
                let hold = hold?;
                Ok(QueriedParts::open(&caches, &hold.parts).await.query(&lookups, ahead)?)
            }
        });
        Ok(Response::new(responses))
    }

    async fn records(&self, request: Request<RecordsRequest>) -> Result<Response<RecordsResponse>, Status> {
        let RecordsRequest { hold_id, keys } = request.into_inner();
        let hold = self.0.holds.find(&hold_id)?;
        Ok(Response::new(QueriedParts::open(&self.0.caches, &hold.parts).await.records(&keys)?))
    }

    async fn load(&self, request: Request<LoadRequest>) -> Result<Response<LoadResponse>, Status> {
        let LoadRequest { hold_id, result_id } = request.into_inner();
        let hold = self.0.holds.find(&hold_id)?;
        Ok(Response::new(QueriedParts::open(&self.0.caches, &hold.parts).await.load(&result_id)?))
    }

    async fn release(&self, request: Request<ReleaseRequest>) -> Result<Response<ReleaseResponse>, Status> {
        self.0.holds.release(&request.into_inner().hold_id);
        Ok(Response::new(ReleaseResponse {}))
    }

    async fn open(&self, request: Request<OpenRequest>) -> Result<Response<OpenResponse>, Status> {
        let (sessions, client, request) = (self.0.clone(), client(&request)?, request.into_inner());
        let ending = sessions.clone();
        let opening = async move { sessions.open(request, &client).await };
        let end = move |(session, _): &(Arc<Session>, bool)| ending.abandon(session.clone());
        let (session, found) = opened(opening, end).await?;
        Ok(Response::new(OpenResponse { export: Some(session.message()), found }))
    }

    type PutStream = ResponseStream<PutResponse>;

    async fn put(&self, request: Request<Streaming<PutRequest>>) -> Result<Response<Self::PutStream>, Status> {
        let (sessions, mut export_id) = (self.0.clone(), String::new());
        let responses = respond_to_each(request.into_inner(), move |message: PutRequest| {
            let PutRequest { export_id: given, records } = message;
            let session = name(&mut export_id, given, "export_id").and_then(|()| sessions.export(&export_id));
            let caches = sessions.caches.clone();
            async move {
                let session = session?;
                session.check_open()?;
                session.check_records()?;
                let layers = session.records().add(&records)?;
                Ok(put(&caches, &session.contents, &layers).await?)
            }
        });
        Ok(Response::new(responses))
    }

    type CommitStream = ResponseStream<CommitResponse>;

    async fn commit(&self, request: Request<CommitRequest>) -> Result<Response<Self::CommitStream>, Status> {
        let (client, request) = (client(&request)?, request.into_inner());
        let session = self.0.export(&request.export_id)?;
        let watching = commit::commit(&self.0, &session, request, client)?;
        let (responses, outgoing) = mpsc::channel(16);
        let message = |event| CommitResponse { event: Some(event) };
        let (progress, results) = (move |step| message(Event::Progress(step)), move |it| message(Event::Results(it)));
        tokio::spawn(watching.forward(responses, progress, results));
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        let RenewRequest { id, ttl } = request.into_inner();
        let expires = self.0.renew(&id, request::ttl(ttl)?)?;
        Ok(Response::new(RenewResponse { expire_time: Some(timestamp(expires)) }))
    }

    async fn abort(&self, request: Request<AbortRequest>) -> Result<Response<AbortResponse>, Status> {
        let session = self.0.export(&request.into_inner().export_id)?;
        let (sessions, aborted) = (self.0.clone(), session.clone());
        let done = tokio::spawn(async move { sessions.close(&aborted, ExportState::Aborted).await }).await;
        done.map_err(|error| ApiError::broken(&error))?;
        Ok(Response::new(AbortResponse { export: Some(session.message()) }))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let session = self.0.export(&request.into_inner().export_id)?;
        Ok(Response::new(GetResponse { export: Some(session.message()) }))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        Ok(Response::new(admin::list(&self.0.caches, &request.into_inner()).await?))
    }

    async fn inspect(&self, request: Request<InspectRequest>) -> Result<Response<InspectResponse>, Status> {
        Ok(Response::new(admin::inspect(&self.0.caches, &request.into_inner()).await?))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let client = client(&request)?;
        Ok(Response::new(admin::delete(&self.0.caches, &request.into_inner(), &client).await?))
    }

    type PruneStream = ResponseStream<PruneResponse>;

    async fn prune(&self, request: Request<PruneRequest>) -> Result<Response<Self::PruneStream>, Status> {
        let client = client(&request)?;
        let pruned = admin::prune(&self.0.caches, request.into_inner(), &client).await?;
        Ok(Response::new(Box::pin(stream::iter(pruned.into_iter().map(Ok)))))
    }

    async fn usage(&self, _: Request<UsageRequest>) -> Result<Response<UsageResponse>, Status> {
        Ok(Response::new(admin::usage(&self.0.caches).await?))
    }

    type WatchStream = ResponseStream<WatchResponse>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(watch(&self.0, request.into_inner().prefix).await?))
    }
}

/// Notes what a stream is about, which its first message names.
fn name(known: &mut String, given: String, field: &str) -> Result<(), ApiError> {
    if known.is_empty() {
        *known = given;
    } else if !given.is_empty() && given != *known {
        return Err(ApiError::field(field, format!("`{given}` in a stream about `{known}`")));
    }
    Ok(())
}
