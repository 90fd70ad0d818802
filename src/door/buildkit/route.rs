//! Routes the calls of one client connection: which are forwarded, and which are handled here.

mod planning;
mod solve_call;
mod solve_plan;

use std::sync::Arc;

use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::OnceCell;
use tonic::Status;
use tracing::field::Empty;
use tracing::{Instrument as _, info_span};

use self::planning::Planning;
use super::Door;
use super::builder::Capabilities;
use super::grpc::{Unary, error_response, frame};
use super::rebuild::{GATEWAY_RETURN, GATEWAY_SOLVE, SOLVE};
use super::session::SESSION;
use super::status::{StatusStream, hold_open};
use super::unary::build_id;
use super::wire::fields;
use crate::http2::{Body, BodyError, PooledConnection, ProxyError};
use crate::net::Principal;
use crate::trace_context;

const STATUS: &str = "/moby.buildkit.v1.Control/Status";
/// The calls of a build that runs.
const GATEWAY: &str = "/moby.buildkit.v1.frontend.LLBBridge/";

/// One client connection and its counterpart towards the builder.
#[derive(Debug)]
pub(super) struct Route {
    door: Arc<Door>,
    client: Principal,
    upstream: PooledConnection,
    capabilities: OnceCell<Capabilities>,
    planning: Planning,
}

impl Route {
    pub(super) fn new(door: Arc<Door>, client: Principal, upstream: PooledConnection) -> Self {
        Self { door, client, upstream, capabilities: OnceCell::new(), planning: Planning::default() }
    }

    pub(super) async fn handle(&self, request: Request<Incoming>) -> Result<Response<Body>, ProxyError> {
        let response = match request.uri().path() {
            SOLVE => {
                let span = info_span!("solve", build = Empty);
                trace_context::follow_headers(&span, request.headers());
                let response = self.solve(request).instrument(span.clone()).await;
                match &response {
                    Ok(response) => {
                        if let Some(status) = trace_context::grpc_status(response.headers()) {
                            trace_context::answered(&span, &status);
                        }
                    }
                    Err(error) if error.is_reset() => {}
                    Err(error) => trace_context::fail(&span, &error.reason()),
                }
                response
            }
            STATUS => self.status(request).await,
            SESSION => self.door.sessions.serve(request, &self.upstream).await,
            path if path.starts_with(GATEWAY) => {
                if let Some(build) = build_id(request.headers()) {
                    self.planning.begun(build).await;
                }
                match path {
                    GATEWAY_SOLVE | GATEWAY_RETURN => self.gateway(request).await,
                    _ => self.upstream.forward(request).await,
                }
            }
            _ => self.upstream.forward(request).await,
        };
        response.or_else(|error| if error.is_reset() { Err(error) } else { Ok(unreachable(&error)) })
    }

    /// Requested once for each client connection: the builder may be another one by the next.
    pub(super) async fn capabilities(&self) -> Result<Capabilities, Status> {
        self.capabilities.get_or_try_init(|| self.door.builder.capabilities()).await.copied()
    }

    async fn status(&self, request: Request<Incoming>) -> Result<Response<Body>, ProxyError> {
        let (parts, body) = request.into_parts();
        let request = match Unary::read(body).await {
            Ok(request) => request,
            Err(error) => return Ok(unreadable(&error)),
        };
        // StatusRequest has a single field, the build's id.
        let message = request.message().unwrap_or_default();
        let id = fields(&message).find_map(|field| field.ok()?.text().ok().map(str::to_owned)).unwrap_or_default();
        let build = self.door.builds.get(&id);
        let ask = || self.upstream.send(Request::from_parts(parts.clone(), request.clone().into_body()));
        let has_come = self.planning.knows(&id);
        self.planning.made(&id).await;
        let mut response = StatusStream::begin(ask().await?).await;
        // The call came before the request for its build, and the builder did not wait for long enough.
        if !has_come && response.has_no_message() && self.planning.knows(&id) {
            self.planning.made(&id).await;
            response = StatusStream::begin(ask().await?).await;
        }
        Ok(hold_open(response, build))
    }

    /// Records a gateway call of a build of ours; others are forwarded unchanged.
    async fn gateway(&self, request: Request<Incoming>) -> Result<Response<Body>, ProxyError> {
        let Some(build) = build_id(request.headers()).and_then(|id| self.door.builds.tracked(id)) else {
            return self.upstream.forward(request).await;
        };
        let (parts, body) = request.into_parts();
        let request = match Unary::read(body).await {
            Ok(request) => request,
            Err(error) => return Ok(unreadable(&error)),
        };
        let (request, message) = match (build.cache(), request.message()) {
            (Some(cache), Some(message)) if parts.uri.path() == GATEWAY_SOLVE => {
                let message = cache.gateway(message).await;
                (Unary { body: frame(&message), ..request }, Some(message))
            }
            (_, message) => (request, message),
        };
        if let Some(result) = message.as_ref().filter(|_| parts.uri.path() == GATEWAY_RETURN) {
            // Recorded before it is sent: the build may end before the response arrives.
            build.record(result.len(), |recording| recording.result = Some(result.clone()));
            return Ok(self.upstream.send(Request::from_parts(parts, request.into_body())).await?.map(passed_on));
        }
        let response = self.upstream.send(Request::from_parts(parts, request.into_body())).await?;
        let Some(message) = message else { return Ok(response.map(passed_on)) };
        let (parts, body) = response.into_parts();
        let response = match Unary::read(body).await {
            Ok(response) => response,
            Err(error) => return Ok(unreadable(&error)),
        };
        if let Some(response) = response.message() {
            build.record(message.len() + response.len(), |recording| recording.solves.push((message, response)));
        }
        Ok(Response::from_parts(parts, response.into_body()))
    }
}

/// The response when the builder behind this connection is gone.
fn unreachable(error: &ProxyError) -> Response<Body> {
    let reason = error.reason();
    tracing::warn!(%reason, "the builder cannot be reached");
    error_response(&Status::unavailable(format!("linkspan: {reason}")))
}

fn passed_on(body: Incoming) -> Body {
    body.map_err(BodyError::from).boxed_unsync()
}

fn unreadable(error: &BodyError) -> Response<Body> {
    error_response(&Status::unavailable(format!("linkspan: a message broke off: {error}")))
}
