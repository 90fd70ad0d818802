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

use super::builder::Capabilities;
use super::builds::Build;
use super::cache::Cached;
use super::explicit::{explained, refusal};
use super::exporters::Exporter;
use super::finalize::Finalizer;
use super::grpc::{Unary, error_response, frame, status};
use super::load::{ExportPhase, Load};
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
enum Edit {
    /// Edited; we export its image, inside the build if there is a finalizer.
    Load(Arc<Load>, Bytes, Option<Arc<Finalizer>>),
    /// Forwarded unchanged. Messages about the build are shown as long as `build` is kept.
    Pass { build: Option<Arc<Build>> },
    /// Refused before the build starts.
    Refuse(Status),
}

/// What becomes of a request's loads.
enum LoadPlan {
    /// No load.
    Nothing,
    /// A load that we cannot export, perhaps with the remark about that for the client.
    Pass(Option<String>),
    /// A load: the exporters that replace the client's, and whether the builder can wait for it.
    Load { builder_exporters: Vec<Exporter>, finalizes: bool },
}

/// One client connection and its counterpart towards the builder.
#[derive(Debug)]
pub(super) struct Route {
    door: Arc<Door>,
    client: Principal,
    upstream: PooledConnection,
    capabilities: OnceCell<Capabilities>,
}

impl Route {
    pub(super) fn new(door: Arc<Door>, client: Principal, upstream: PooledConnection) -> Self {
        Self { door, client, upstream, capabilities: OnceCell::new() }
    }

    pub(super) async fn handle(&self, request: Request<Incoming>) -> Result<Response<Body>, ProxyError> {
        let response = match request.uri().path() {
            SOLVE => self.solve(request).instrument(info_span!("solve", build = Empty)).await,
            STATUS => self.status(request).await,
            SESSION => self.door.sessions.serve(request, &self.upstream).await,
            GATEWAY_SOLVE | GATEWAY_RETURN => self.gateway(request).await,
            _ => self.upstream.forward(request).await,
        };
        response.or_else(|error| if error.is_reset() { Err(error) } else { Ok(unreachable(&error)) })
    }

    async fn solve(&self, request: Request<Incoming>) -> Result<Response<Body>, ProxyError> {
        let (parts, body) = request.into_parts();
        let request = match Unary::read(body).await {
            Ok(request) => request,
            Err(error) => return Ok(unreadable(&error)),
        };
        let (edit, cached) = match request.message().map(Solve::read) {
            Some(Ok(solve)) => match refusal(&solve.exporters) {
                Some(status) => (Edit::Refuse(status), None),
                None => self.edit_all(solve, &parts.headers).await,
            },
            // Not a request that we understand: the builder reports what is wrong with it.
            Some(Err(_)) | None => (Edit::Pass { build: None }, None),
        };
        let (load, finalizer, message, _claim) = match (edit, &cached) {
            (Edit::Refuse(status), _) => return Ok(error_response(&status)),
            (Edit::Pass { build }, None) => {
                let response = self.upstream.send(Request::from_parts(parts, request.into_body())).await?;
                return Ok(explained(response.map(|body| held_with(build, body)), self.why_not()));
            }
            // The status stream stays open until the claim is dropped, however the call ends.
            (Edit::Pass { build }, Some(cached)) => {
                let build = build.unwrap_or_else(|| cached.shown());
                (None, None, cached.message.clone(), build.track())
            }
            (Edit::Load(load, message, finalizer), _) => {
                let claim = load.build.track();
                (Some(load), finalizer, message, claim)
            }
        };
        let response = self.upstream.send(Request::from_parts(parts, full(frame(&message)))).await?;
        let (parts, body) = response.into_parts();
        let mut response = match Unary::read(body).await {
            Ok(response) => response,
            Err(error) => return Ok(unreadable(&error)),
        };
        let code = status(&parts.headers, response.trailers.as_ref()).map(|status| status.code());
        let result = finalizer.as_ref().and_then(|finalizer| finalizer.result());
        if code != Some(tonic::Code::Ok) {
            match (code, &load, result) {
                // The builder repeats the error that we have sent it.
                (_, _, Some(Err(status))) => return Ok(error_response(status)),
                // The image is there already.
                (_, _, Some(Ok(_))) => {}
                (Some(code), Some(load), None) => load.rescue(code).await,
                // The response of a builder that disconnected has no status; then there is no builder to ask.
                _ => {}
            }
        } else if let Some(message) = response.message() {
            match completed(&message, load.as_deref(), result, cached.as_ref()).await {
                Ok(completed) => response.body = frame(&completed.write()),
                Err(status) => return Ok(error_response(&status)),
            }
        }
        let response = Response::from_parts(parts, response.into_body());
        Ok(if load.is_none() { explained(response, self.why_not()) } else { response })
    }

    /// The edited request, and the caches that replace its cache entries of ours.
    async fn edit_all(&self, solve: Solve, headers: &HeaderMap) -> (Edit, Option<Cached>) {
        let door = &*self.door;
        if solve.has_session_exporter {
            door.finalizers.leave_to_client(&solve.session);
        }
        let plan = self.plan(&solve).await;
        let has_caches = door.caching.handles(&solve.cache).await;
        let is_finalized = matches!(plan, LoadPlan::Load { finalizes: true, .. });
        let is_split = door.sessions.decide(&solve.session, is_finalized || has_caches && door.caching.is_able());
        let (solve, cached) = match has_caches {
            false => (solve, None),
            true => match self.read_caches(&solve, is_split).await {
                Ok((solve, cached)) => (solve, Some(cached)),
                Err(status) => return (Edit::Refuse(status), None),
            },
        };
        (self.edit(solve, plan, is_split, headers), cached)
    }

    /// What becomes of the request's loads. Requests the capabilities of the builder.
    async fn plan(&self, solve: &Solve) -> LoadPlan {
        let door = &*self.door;
        let Some(builder_exporters) = solve.builder_exporters(door.plain_is_load) else { return LoadPlan::Nothing };
        let why = match timeout(LOOK, self.capabilities()).await {
            Ok(Ok(able)) if able.exports_directly => {
                // Of several exporters the builder reports the results only after the build, in its history.
                let finalizes = able.finalizes && builder_exporters.len() == 1 && !solve.has_session_exporter;
                return LoadPlan::Load { builder_exporters, finalizes };
            }
            Ok(Ok(_)) => return LoadPlan::Pass(None),
            // A builder that does not respond will hardly build; if it does, the client's own export still works.
            Ok(Err(status)) => format!("the builder does not say what it is ({})", status.message()),
            Err(_) => format!("the builder has not said within {} s what it is", LOOK.as_secs()),
        };
        tracing::warn!(builder = %door.builder.name, build = %solve.build, %why, "no direct export");
        LoadPlan::Pass(Some(remarks::passed(&why)))
    }

    /// The request without our own cache entries, and the caches that replace them.
    async fn read_caches(&self, solve: &Solve, is_split: bool) -> Result<(Solve, Cached), Status> {
        let door = &*self.door;
        let build = door.builds.get(&solve.build);
        let Solve { message, cache, session, .. } = solve;
        let cached = door.caching.solve(message, cache, session, is_split, &self.client, &build).await?;
        Ok((Solve::read(cached.message.clone()).map_err(unread)?, cached))
    }

    /// The edited request, if it has a load. `is_split` says whether we can answer calls in the client's session.
    fn edit(&self, solve: Solve, plan: LoadPlan, is_split: bool, headers: &HeaderMap) -> Edit {
        let door = &*self.door;
        let build = door.builds.get(&solve.build);
        Span::current().record("build", &build.id);
        let pass = |remark: Option<String>| {
            if let Some(text) = &remark {
                progress::remark(&build, text);
            }
            Edit::Pass { build: remark.map(|_| build.clone()) }
        };
        let (builder_exporters, finalizes) = match plan {
            LoadPlan::Nothing => {
                let is_able = self.capabilities.get().is_some_and(|able| able.exports_directly);
                return pass(remarks::plain(&solve.exporters, headers).filter(|_| is_able));
            }
            LoadPlan::Pass(remark) => return pass(remark),
            LoadPlan::Load { builder_exporters, finalizes } => (builder_exporters, finalizes && is_split),
        };
        let Ok(message) = solve.with_exporters(&builder_exporters) else { return pass(None) };
        let (builder, exports, client) = (door.builder.clone(), door.exports.clone(), self.client.clone());
        let load = Arc::new(Load { builder, exports, client, build, solve, builder_exporters });
        if let Err(status) = load.check() {
            return Edit::Refuse(status);
        }
        match finalizes.then(|| door.finalizers.add(&load)).flatten() {
            Some(finalizer) => Edit::Load(load, Solve::with_session_exporter(&message), Some(finalizer)),
            None => Edit::Load(load, message, None),
        }
    }

    /// Why a request for a direct export was forwarded unchanged.
    fn why_not(&self) -> &'static str {
        match self.capabilities.get() {
            Some(able) if !able.exports_directly => {
                "it is older than BuildKit 0.11 and cannot export directly; hint: update the builder, or use \
                 `--load`, which sends a tarball"
            }
            Some(_) => "the request has a form that Linkspan does not know; hint: use `--load`",
            None => {
                "it did not say what it can do when it was asked; hint: build again, or use `--load`; Linkspan's \
                 log has the reason"
            }
        }
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

/// The response, completed with the results of the build's loads and caches. `result` is that of a load which was exported
/// inside the build.
async fn completed(
    message: &[u8],
    load: Option<&Load>,
    result: Option<&Result<BuildResponse, Status>>,
    cached: Option<&Cached>,
) -> Result<BuildResponse, Status> {
    let mut response =
        BuildResponse::read(message).map_err(|error| Status::internal(format!("the builder's answer is {error}")))?;
    match (result, load) {
        (Some(result), _) => response.take_image_of(result.as_ref().map_err(Status::clone)?),
        (None, Some(load)) => {
            let loaded = load.finish(response.clone(), ExportPhase::AfterBuild).await?;
            response.take_image_of(&loaded);
        }
        (None, None) => {}
    }
    if let Some(cached) = cached {
        cached.finish(&mut response.keys);
    }
    Ok(response)
}

/// The body, with which `build` is dropped: messages about a build are shown after the builder's own progress, as long
/// as a reference to the build exists.
fn held_with(build: Option<Arc<Build>>, body: Incoming) -> Body {
    let body = body.map_frame(move |frame| {
        let _held = &build;
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
