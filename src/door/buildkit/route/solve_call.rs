//! The call that carries a request for a build, by its [plan](SolvePlan), and the response to it.

use std::sync::Arc;

use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tonic::{Code, Status};
use tracing::Span;

use super::super::builds::{Build, TrackedBuild};
use super::super::cache::Cached;
use super::super::explicit::explained;
use super::super::finalize::Finalizer;
use super::super::from_engine::SessionImages;
use super::super::grpc::{Unary, error_response, frame, status};
use super::super::load::{ExportPhase, Load};
use super::super::response::BuildResponse;
use super::super::solve::Solve;
use super::solve_plan::SolvePlan;
use super::{Route, unreadable};
use crate::activity::Activity;
use crate::http2::{Body, BodyError, ProxyError, full};
use crate::trace_context;

/// A build whose request we have edited. Its parts are dropped in this order.
struct EditedBuild {
    /// The status stream stays open until this is dropped, however the call ends.
    _tracked: TrackedBuild,
    finalizer: Option<Arc<Finalizer>>,
    load: Option<Arc<Load>>,
    cached: Option<Cached>,
    /// Leased until the build has ended.
    _images: Option<Arc<SessionImages>>,
}

/// How the builder's call has ended.
enum BuildEnd<'a> {
    /// Well: the response is completed with our results.
    Succeeded,
    /// With the error of our export inside the build, which the builder repeats.
    ExportFailed(&'a Status),
    /// With an error of its own, before our export: the images that are complete can be rescued.
    FailedBeforeExport(&'a Load, Code),
    /// With an error that is passed on. An image that was exported inside the build stays; without a status the builder has
    /// disconnected, and can give no image.
    Failed,
}

impl Route {
    pub(super) async fn solve(&self, request: Request<Incoming>) -> Result<Response<Body>, ProxyError> {
        let (parts, body) = request.into_parts();
        let request = match Unary::read(body).await {
            Ok(request) => request,
            Err(error) => return Ok(unreadable(&error)),
        };
        let request = self.with_pushes(request);
        let solve = request.message().and_then(|message| Solve::read(message).ok());
        let planning = self.planning.begin(solve.as_ref().map_or("", |solve| &solve.build));
        let (build, message) = match self.plan(solve, &parts.headers).await {
            SolvePlan::Refuse(reason, status) => {
                if let Some(reason) = reason {
                    self.door.exports.activities().emit(Activity::Refused { door: "buildkit", reason });
                }
                return Ok(error_response(&status));
            }
            SolvePlan::Forward { build } => {
                let request = Request::from_parts(parts, request.into_body());
                let response = planning.send(&self.upstream, request).await?;
                return Ok(explained(response.map(|body| body_with_build(build, body)), self.why_not()));
            }
            SolvePlan::Edit { build, message, cached, images } => {
                let _tracked = build.track();
                (EditedBuild { _tracked, finalizer: None, load: None, cached, _images: images }, message)
            }
            SolvePlan::Export { load, message, finalizer, cached, images } => {
                let _tracked = load.build.track();
                (EditedBuild { _tracked, finalizer, load: Some(load), cached, _images: images }, message)
            }
        };
        let request = Request::from_parts(parts, full(frame(&message)));
        let response = planning.send(&self.upstream, request).await?;
        let response = match build.finish(response).await {
            Ok(response) => response,
            Err(error) => return Ok(unreadable(&error)),
        };
        Ok(if build.load.is_none() { explained(response, self.why_not()) } else { response })
    }

    /// The request for a build, with the compression that is configured for pushes.
    fn with_pushes(&self, request: Unary) -> Unary {
        let solve = request.message().and_then(|message| Solve::read(message).ok());
        match solve.map(|solve| solve.with_pushes(self.door.outputs)) {
            Some(Ok(Some(message))) => Unary { body: frame(&message), ..request },
            _ => request,
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
}

impl EditedBuild {
    /// Exports what is not exported yet, and makes the client's response of the builder's.
    async fn finish(&self, response: Response<Incoming>) -> Result<Response<Body>, BodyError> {
        let (parts, body) = response.into_parts();
        let mut response = Unary::read(body).await?;
        let status = status(&parts.headers, response.trailers.as_ref());
        if let Some(status) = &status {
            trace_context::answered(&Span::current(), status);
        }
        let code = status.map(|status| status.code());
        match self.end(code) {
            BuildEnd::Succeeded if self.load.is_none() && self.cached.is_none() => {}
            BuildEnd::Succeeded => {
                if let Some(message) = response.message() {
                    match self.completed(&message).await {
                        Ok(completed) => response.body = frame(&completed.write()),
                        Err(status) => return Ok(error_response(&status)),
                    }
                }
            }
            BuildEnd::ExportFailed(status) => return Ok(error_response(status)),
            BuildEnd::FailedBeforeExport(load, code) => load.rescue(code).await,
            BuildEnd::Failed => {}
        }
        Ok(Response::from_parts(parts, response.into_body()))
    }

    /// How a call has ended that has this status.
    fn end(&self, code: Option<Code>) -> BuildEnd<'_> {
        match (code, &self.load, self.result()) {
            (Some(Code::Ok), ..) => BuildEnd::Succeeded,
            (_, _, Some(Err(status))) => BuildEnd::ExportFailed(status),
            (Some(code), Some(load), None) => BuildEnd::FailedBeforeExport(load, code),
            _ => BuildEnd::Failed,
        }
    }

    /// The result of an export inside the build.
    fn result(&self) -> Option<&Result<BuildResponse, Status>> {
        self.finalizer.as_ref()?.result()
    }

    /// The response, completed with the results of the build's loads and caches.
    async fn completed(&self, message: &[u8]) -> Result<BuildResponse, Status> {
        let mut response = BuildResponse::read(message)
            .map_err(|error| Status::internal(format!("the builder's response is {error}")))?;
        match (self.result(), &self.load) {
            (Some(result), _) => response.take_image_of(result.as_ref().map_err(Status::clone)?),
            (None, Some(load)) => {
                let loaded = load.finish(response.clone(), ExportPhase::AfterBuild).await?;
                response.take_image_of(&loaded);
            }
            (None, None) => {}
        }
        if let Some(cached) = &self.cached {
            cached.finish(&mut response.keys);
        }
        Ok(response)
    }
}

/// The body, with which `build` is dropped: messages about a build are shown after the builder's own progress, as long
/// as a reference to the build exists.
fn body_with_build(build: Option<Arc<Build>>, body: Incoming) -> Body {
    let body = body.map_frame(move |frame| {
        let _held = &build;
        frame
    });
    body.map_err(BodyError::from).boxed_unsync()
}
