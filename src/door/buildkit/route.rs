//! Routes the calls of one client connection: which are forwarded, and which are handled here.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tonic::Status;
use tracing::field::Empty;
use tracing::{Instrument as _, Span, info_span};

use super::builds::Build;
use super::cache::Cached;
use super::explicit::{explained, refusal};
use super::grpc::{Unary, error_response, frame, status};
use super::load::Load;
use super::rebuild::{GATEWAY_RETURN, GATEWAY_SOLVE, SOLVE};
use super::response::BuildResponse;
use super::session::SESSION;
use super::solve::Solve;
use super::status::hold_open;
use super::unary::build_id;
use super::wire::{WireError, fields};
use super::{Door, progress, remarks};
use crate::http2::{Body, BodyError, PooledConnection, ProxyError, full};
use crate::net::Principal;

const STATUS: &str = "/moby.buildkit.v1.Control/Status";

/// How long a build waits for the builder's capabilities. A builder ends a client's progress call if no build has
/// started after some seconds (BuildKit `solver/jobs.go`), so a longer wait would fail the build.
const LOOK: Duration = Duration::from_secs(2);

/// How a request for a build is handled.
enum Edit<'a> {
    /// Edited; we export its image.
    Load(Box<Load<'a>>, Bytes),
    /// Forwarded unchanged. Messages about the build are shown as long as `said` is kept.
    Pass { said: Option<Arc<Build>> },
    /// Refused before the build starts.
    Refuse(Status),
}

/// One client connection and its counterpart towards the builder.
#[derive(Debug)]
pub(super) struct Route {
    door: Arc<Door>,
    client: Principal,
    upstream: PooledConnection,
    exports_directly: OnceCell<bool>,
}

impl Route {
    pub(super) fn new(door: Arc<Door>, client: Principal, upstream: PooledConnection) -> Self {
        Self { door, client, upstream, exports_directly: OnceCell::new() }
    }

    pub(super) async fn handle(&self, request: Request<Incoming>) -> Result<Response<Body>, ProxyError> {
        let answer = match request.uri().path() {
            SOLVE => self.solve(request).instrument(info_span!("solve", build = Empty)).await,
            STATUS => self.status(request).await,
            SESSION => self.door.sessions.serve(request, &self.upstream).await,
            GATEWAY_SOLVE | GATEWAY_RETURN => self.gateway(request).await,
            _ => self.upstream.forward(request).await,
        };
        answer.or_else(|error| if error.is_reset() { Err(error) } else { Ok(unreachable(&error)) })
    }

    async fn solve(&self, request: Request<Incoming>) -> Result<Response<Body>, ProxyError> {
        let (parts, body) = request.into_parts();
        let request = match Unary::read(body).await {
            Ok(request) => request,
            Err(error) => return Ok(unreadable(&error)),
        };
        let (edit, cached) = match request.message().map(Solve::read) {
            Some(Ok(solve)) => match self.read_caches(solve).await {
                Ok((solve, cached)) => match refusal(&solve.exporters) {
                    Some(status) => (Edit::Refuse(status), cached),
                    None => (self.edit(solve, &parts.headers).await, cached),
                },
                Err(status) => (Edit::Refuse(status), None),
            },
            // Not a request that we understand: the builder reports what is wrong with it.
            Some(Err(_)) | None => (Edit::Pass { said: None }, None),
        };
        let (load, message, _claim) = match (edit, &cached) {
            (Edit::Refuse(status), _) => return Ok(error_response(&status)),
            (Edit::Pass { said }, None) => {
                let response = self.upstream.send(Request::from_parts(parts, request.into_body())).await?;
                return Ok(explained(response.map(|body| held_with(said, body)), self.why_not()));
            }
            // The status stream stays open until the claim is dropped, however the call ends.
            (Edit::Pass { said }, Some(cached)) => {
                let build = said.unwrap_or_else(|| cached.shown());
                (None, cached.message.clone(), build.track())
            }
            (Edit::Load(load, message), _) => {
                let claim = load.build.track();
                (Some(load), message, claim)
            }
        };
        let response = self.upstream.send(Request::from_parts(parts, full(frame(&message)))).await?;
        let (parts, body) = response.into_parts();
        let mut answer = match Unary::read(body).await {
            Ok(answer) => answer,
            Err(error) => return Ok(unreadable(&error)),
        };
        let code = status(&parts.headers, answer.trailers.as_ref()).map(|status| status.code());
        if code != Some(tonic::Code::Ok) {
            // The response of a builder that disconnected has no status; then there is no builder to ask.
            if let (Some(code), Some(load)) = (code, &load) {
                load.rescue(code).await;
            }
        } else if let Some(message) = answer.message() {
            match completed(&message, load.as_deref(), cached.as_ref()).await {
                Ok(completed) => answer.body = frame(&completed.write()),
                Err(status) => return Ok(error_response(&status)),
            }
        }
        let response = Response::from_parts(parts, answer.into_body());
        Ok(if load.is_none() { explained(response, self.why_not()) } else { response })
    }

    /// The request without our own cache entries, and the caches that replace them.
    async fn read_caches(&self, solve: Solve) -> Result<(Solve, Option<Cached>), Status> {
        let door = &*self.door;
        let has_caches = door.caching.is_wanted(&solve.cache).await;
        let is_split = door.sessions.decide(&solve.session, has_caches && door.caching.is_able());
        if !has_caches {
            return Ok((solve, None));
        }
        let build = door.builds.get(&solve.build);
        let Solve { message, cache, session, .. } = &solve;
        let cached = door.caching.solve(message, cache, session, is_split, &self.client, &build).await?;
        Ok((Solve::read(cached.message.clone()).map_err(unread)?, Some(cached)))
    }

    /// The edited request, if it contains a load and the builder can export directly.
    async fn edit(&self, solve: Solve, headers: &HeaderMap) -> Edit<'_> {
        let door = &*self.door;
        let build = door.builds.get(&solve.build);
        Span::current().record("build", &build.id);
        let pass = |remark: Option<String>| {
            if let Some(text) = &remark {
                progress::remark(&build, text);
            }
            Edit::Pass { said: remark.map(|_| build.clone()) }
        };
        let Some(asked) = solve.asked(door.plain_is_load) else {
            let is_able = self.exports_directly.get() == Some(&true);
            return pass(remarks::plain(&solve.exporters, headers).filter(|_| is_able));
        };
        let why = match timeout(LOOK, self.exports_directly()).await {
            Ok(Ok(true)) => None,
            Ok(Ok(false)) => return pass(None),
            // A builder that does not respond will hardly build; if it does, the client's own export still works.
            Ok(Err(status)) => Some(format!("the builder does not say what it is ({})", status.message())),
            Err(_) => Some(format!("the builder has not said within {} s what it is", LOOK.as_secs())),
        };
        if let Some(why) = why {
            tracing::warn!(builder = %door.builder.name, build = %build.id, %why, "no direct export");
            return pass(Some(remarks::passed(&why)));
        }
        let Ok(message) = solve.with_exporters(&asked) else { return pass(None) };
        let load = Load { builder: &door.builder, exports: &door.exports, client: &self.client, build, solve, asked };
        match load.check() {
            Ok(()) => Edit::Load(Box::new(load), message),
            Err(status) => Edit::Refuse(status),
        }
    }

    /// Why a request for a direct export was forwarded unchanged.
    fn why_not(&self) -> &'static str {
        match self.exports_directly.get() {
            Some(false) => {
                "it is older than BuildKit 0.11 and cannot export directly; hint: update the builder, or use \
                 `--load`, which sends a tarball"
            }
            Some(true) => "the request has a form that Linkspan does not know; hint: use `--load`",
            None => {
                "it did not say what it can do when it was asked; hint: build again, or use `--load`; Linkspan's \
                 log has the reason"
            }
        }
    }

    /// Requested once for each client connection: the builder may be another one by the next.
    pub(super) async fn exports_directly(&self) -> Result<bool, Status> {
        self.exports_directly.get_or_try_init(|| self.door.builder.exports_directly()).await.copied()
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
        let response = self.upstream.send(Request::from_parts(parts, request.into_body())).await?;
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
        let (request, asked) = match (build.cache(), request.message()) {
            (Some(cache), Some(message)) if parts.uri.path() == GATEWAY_SOLVE => {
                let message = cache.gateway(message).await;
                (Unary { body: frame(&message), ..request }, Some(message))
            }
            (_, message) => (request, message),
        };
        if let Some(result) = asked.as_ref().filter(|_| parts.uri.path() == GATEWAY_RETURN) {
            // Recorded before it is sent: the build may end before the response arrives.
            build.record(result.len(), |recording| recording.result = Some(result.clone()));
            return Ok(self.upstream.send(Request::from_parts(parts, request.into_body())).await?.map(passed_on));
        }
        let response = self.upstream.send(Request::from_parts(parts, request.into_body())).await?;
        let Some(asked) = asked else { return Ok(response.map(passed_on)) };
        let (parts, body) = response.into_parts();
        let answer = match Unary::read(body).await {
            Ok(answer) => answer,
            Err(error) => return Ok(unreadable(&error)),
        };
        if let Some(answer) = answer.message() {
            build.record(asked.len() + answer.len(), |recording| recording.solves.push((asked, answer)));
        }
        Ok(Response::from_parts(parts, answer.into_body()))
    }
}

/// The response, completed with the results of the build's loads and caches.
async fn completed(message: &[u8], load: Option<&Load<'_>>, cached: Option<&Cached>) -> Result<BuildResponse, Status> {
    let answer =
        BuildResponse::read(message).map_err(|error| Status::internal(format!("the builder's answer is {error}")))?;
    let mut answer = match load {
        Some(load) => load.finish(answer).await?,
        None => answer,
    };
    if let Some(cached) = cached {
        cached.finish(&mut answer.keys);
    }
    Ok(answer)
}

/// The body, with which `said` is dropped: messages about a build are shown after the builder's own progress, as long
/// as a reference to the build exists.
fn held_with(said: Option<Arc<Build>>, body: Incoming) -> Body {
    let body = body.map_frame(move |frame| {
        let _held = &said;
        frame
    });
    body.map_err(BodyError::from).boxed_unsync()
}

/// The response when the builder behind this connection is gone.
fn unreachable(error: &ProxyError) -> Response<Body> {
    let reason = error.reason();
    tracing::warn!(%reason, "the builder cannot be reached");
    error_response(&Status::unavailable(format!("linkspan: {reason}")))
}

/// The error for a request that we edited and that cannot be read.
fn unread(error: WireError) -> Status {
    Status::internal(format!("linkspan: the edited request is {error}"))
}

fn passed_on(body: Incoming) -> Body {
    body.map_err(BodyError::from).boxed_unsync()
}

fn unreadable(error: &BodyError) -> Response<Body> {
    error_response(&Status::unavailable(format!("linkspan: a message broke off: {error}")))
}
