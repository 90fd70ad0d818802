//! `linkspan.export.v1.Exports`.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::capabilities::capabilities;
use super::commit;
use super::negotiate::negotiate;
use super::output;
use super::session::Session;
use super::sessions::Sessions;
use crate::api_server::{client, opened, respond_to_each};
use crate::export_v1::convert::duration;
use crate::export_v1::limits::PAGE;
use crate::export_v1::proto::commit_response::Event;
use crate::export_v1::proto::exports_server::Exports as Service;
use crate::export_v1::proto::*;
use crate::export_v1::{ApiError, ResponseStream};

/// The service.
#[derive(Debug, Clone)]
pub(super) struct ExportService(pub(super) Arc<Sessions>);

#[tonic::async_trait]
impl Service for ExportService {
    async fn capabilities(
        &self,
        request: Request<CapabilitiesRequest>,
    ) -> Result<Response<CapabilitiesResponse>, Status> {
        Ok(Response::new(capabilities(&self.0.exports, &client(&request)?, &self.0.outputs.folders)))
    }

    async fn open(&self, request: Request<OpenRequest>) -> Result<Response<OpenResponse>, Status> {
        let (sessions, client, request) = (self.0.clone(), client(&request)?, request.into_inner());
        // A client can find again what it gave an id or a key.
        let is_known = !request.export_id.is_empty() || !request.idempotency_key.is_empty();
        let ending = sessions.clone();
        let opening = async move { sessions.open(&request, &client).await };
        let end = move |(session, _): &(Arc<Session>, bool)| {
            if !is_known {
                ending.abandon(session.clone());
            }
        };
        let (session, found) = opened(opening, end).await?;
        Ok(Response::new(OpenResponse { export: Some(session.message()), found }))
    }

    type NegotiateStream = ResponseStream<NegotiateResponse>;

    async fn negotiate(
        &self,
        request: Request<Streaming<NegotiateRequest>>,
    ) -> Result<Response<Self::NegotiateStream>, Status> {
        let (sessions, mut session) = (self.0.clone(), None);
        let responses = respond_to_each(request.into_inner(), move |message: NegotiateRequest| {
            let session = named(&sessions, &mut session, &message.export_id);
            async move {
                let session = session?;
                session.check_alive()?;
                let negotiated = negotiate(&session, &message.descriptors).await;
                let blobs = negotiated.inspect_err(|refusal| session.refused(refusal))?;
                Ok(NegotiateResponse { blobs })
            }
        });
        Ok(Response::new(responses))
    }

    type CommitStream = ResponseStream<CommitResponse>;

    async fn commit(&self, request: Request<CommitRequest>) -> Result<Response<Self::CommitStream>, Status> {
        let (client, request) = (client(&request)?, request.into_inner());
        let session = self.0.find(&request.export_id)?;
        let watching = commit::commit(&self.0, &session, request, client)?;
        let (responses, outgoing) = mpsc::channel(16);
        let message = |event| CommitResponse { event: Some(event) };
        let (progress, results) = (move |step| message(Event::Progress(step)), move |it| message(Event::Results(it)));
        tokio::spawn(watching.forward(responses, progress, results));
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }

    type ReadOutputStream = ResponseStream<ReadOutputResponse>;

    async fn read_output(
        &self,
        request: Request<ReadOutputRequest>,
    ) -> Result<Response<Self::ReadOutputStream>, Status> {
        let request = request.into_inner();
        let session = self.0.find(&request.export_id)?;
        Ok(Response::new(output::read(&session, &request)?))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        let RenewRequest { export_id, ttl } = request.into_inner();
        let session = self.0.find(&export_id)?;
        session.renew(ttl.map(|ttl| duration("ttl", ttl)).transpose()?)?;
        Ok(Response::new(RenewResponse { export: Some(session.message()) }))
    }

    async fn abort(&self, request: Request<AbortRequest>) -> Result<Response<AbortResponse>, Status> {
        let session = self.0.find(&request.into_inner().export_id)?;
        let (sessions, aborted) = (self.0.clone(), session.clone());
        let done = tokio::spawn(async move { commit::abort(&sessions, &aborted).await }).await;
        done.map_err(|error| ApiError::broken(&error))??;
        Ok(Response::new(AbortResponse { export: Some(session.message()) }))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let session = self.0.find(&request.into_inner().export_id)?;
        Ok(Response::new(GetResponse { export: Some(session.message()) }))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let ListRequest { labels, page_size, page_token } = request.into_inner();
        let size = usize::try_from(page_size).ok().filter(|size| *size > 0).unwrap_or(PAGE).min(PAGE);
        let has_labels =
            |session: &Arc<Session>| labels.iter().all(|(key, value)| session.record.labels.get(key) == Some(value));
        let found: Vec<_> = self.0.list(&page_token).into_iter().filter(has_labels).collect();
        let next_page_token = match found.get(size) {
            Some(_) => found[size - 1].id.clone(),
            None => String::new(),
        };
        let exports = found.iter().take(size).map(|session| session.message()).collect();
        Ok(Response::new(ListResponse { exports, next_page_token }))
    }
}

/// The export of a stream: named by its first message, and never another.
fn named(sessions: &Sessions, session: &mut Option<Arc<Session>>, id: &str) -> Result<Arc<Session>, ApiError> {
    match session {
        Some(session) if id.is_empty() || session.id == id => Ok(session.clone()),
        Some(session) => {
            Err(ApiError::field("export_id", format!("`{id}` in a stream of the export `{}`", session.id)))
        }
        None => {
            let found = sessions.find(id)?;
            *session = Some(found.clone());
            Ok(found)
        }
    }
}
