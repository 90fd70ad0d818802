//! The images of all builds of one builder that come from the engine.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use futures_util::FutureExt as _;
use http::{Request, Response};
use hyper::body::Incoming;
use tonic::Status;

use super::super::grpc::{Unary, error_response, frame, grpc_response, status};
use super::super::session::{CallHandler, Handled, SessionCalls};
use super::super::status_frames::StatusFrames;
use super::super::store_calls::{serve, store};
use super::STORE_PREFIX;
use super::check_policy::{CHECK_POLICY, CheckedSource, allow, allows, convert};
use super::context::EngineContext;
use super::session_images::SessionImages;
use crate::content_server::CallTarget;
use crate::engine::images::Images;
use crate::export::Exports;
use crate::http2::Body;
use crate::net::Principal;

/// The prefix that BuildKit puts before the id of an OCI layout's store (`source/containerimage/ocilayout.go`).
const OCI: &str = "oci:";
/// The scheme of an image's name (BuildKit `source/types`).
const IMAGE: &str = "docker-image://";

/// The images of one builder's builds, by the session of the build's client, which is all that the builder's calls name.
#[derive(Debug)]
pub(in super::super) struct EngineImages {
    context: Arc<EngineContext>,
    sessions: Mutex<HashMap<String, Weak<SessionImages>>>,
}

impl EngineImages {
    /// Images whose names match one of `patterns`, of which there is one at least.
    pub(in super::super) fn new(
        patterns: &[String],
        exports: Arc<Exports>,
        images: Arc<dyn Images>,
        builder: String,
    ) -> Arc<Self> {
        let context = EngineContext { exports, images, builder, patterns: patterns.to_vec() };
        Arc::new(Self { context: Arc::new(context), sessions: Mutex::default() })
    }

    /// Responds to the builder's questions in a session for as long as the result is kept. `client_decides` says whether the
    /// build's client has a policy of its own. `None` if another build of the same session has one and this one has none: the
    /// builder's questions do not say of which build they are.
    pub(in super::super) fn enter(
        &self,
        session: &str,
        client: &Principal,
        frames: &Arc<StatusFrames>,
        client_decides: bool,
    ) -> Option<Arc<SessionImages>> {
        let mut sessions = self.sessions();
        sessions.retain(|_, images| images.strong_count() > 0);
        let images = match sessions.entry(session.to_owned()) {
            Entry::Occupied(known) => known.get().upgrade(),
            Entry::Vacant(_) => None,
        };
        let images = match images {
            Some(images) if images.client_decides() && !client_decides => return None,
            Some(images) => images,
            None => Arc::new(SessionImages::new(session, &self.context, client)),
        };
        images.add(frames, client_decides);
        sessions.insert(session.to_owned(), Arc::downgrade(&images));
        Some(images)
    }

    fn of_session(&self, session: &str) -> Option<Arc<SessionImages>> {
        self.sessions().get(session)?.upgrade()
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<String, Weak<SessionImages>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SessionCalls for EngineImages {
    fn handler_for(&self, session: &str, call: &Request<Incoming>) -> Option<CallHandler> {
        if call.uri().path() == CHECK_POLICY {
            let images = self.of_session(session)?;
            return Some(Box::new(move |call| check(images, call).boxed()));
        }
        let id = store(call)?.strip_prefix(OCI)?;
        if !id.starts_with(STORE_PREFIX) {
            return None;
        }
        let images = self.of_session(session).filter(|images| images.store == id);
        let missing = Status::not_found(format!("linkspan: the build of the store {id} has ended"));
        Some(serve(images.map(|images| CallTarget::Blobs(images.blobs())), missing))
    }
}

/// Responds to the question about a source. A client with a policy of its own is asked first.
async fn check(images: Arc<SessionImages>, call: Request<Incoming>) -> Handled {
    let (parts, body) = call.into_parts();
    let call = match Unary::read(body).await {
        Ok(call) => call,
        Err(error) => return Handled::Response(error_response(&Status::unavailable(format!("linkspan: {error}")))),
    };
    let source = call.message().and_then(|message| CheckedSource::read(&message).ok()).unwrap_or_default();
    // It was allowed by its name.
    let is_ours = source.attrs.get("oci.store").is_some_and(|store| *store == images.store);
    if is_ours && source.identifier.starts_with("oci-layout://") {
        return Handled::Response(grpc_response(frame(&allow())));
    }
    if !images.client_decides() {
        let message = replacement(&images, &source).await.unwrap_or_else(allow);
        return Handled::Response(grpc_response(frame(&message)));
    }
    let request = Request::from_parts(parts, call.into_body());
    let then = move |response| decided(images, source, response).boxed();
    Handled::Ask { request, then: Box::new(then) }
}

/// The response to the builder, made of that of the client.
async fn decided(images: Arc<SessionImages>, source: CheckedSource, response: Response<Incoming>) -> Response<Body> {
    let (parts, body) = response.into_parts();
    let response = match Unary::read(body).await {
        Ok(response) => response,
        Err(error) => return error_response(&Status::unavailable(format!("linkspan: {error}"))),
    };
    let is_ok =
        status(&parts.headers, response.trailers.as_ref()).is_some_and(|status| status.code() == tonic::Code::Ok);
    let is_allowed = is_ok && response.message().is_some_and(|message| allows(&message) == Ok(true));
    match is_allowed {
        true => match replacement(&images, &source).await {
            Some(message) => grpc_response(frame(&message)),
            None => Response::from_parts(parts, response.into_body()),
        },
        false => Response::from_parts(parts, response.into_body()),
    }
}

/// The response that replaces `source` by the engine's image, if it has that.
async fn replacement(images: &SessionImages, source: &CheckedSource) -> Option<Vec<u8>> {
    let name = source.identifier.strip_prefix(IMAGE)?.parse().ok()?;
    let (identifier, attrs) = images.source(&name, source.platform.as_ref(), &source.attrs).await?;
    Some(convert(&identifier, &attrs))
}
