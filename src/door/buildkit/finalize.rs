//! Loads that are exported inside their build.
//!
//! From v0.32 on, a builder calls its client's session when all exporters are done, and the build fails if that call does
//! (BuildKit `session/exporter`, `solver/llbsolver/export.go`). We handle this call in the client's place, so that a failed
//! load is a failed build in the builder's history, too, and the builder's lease keeps the image's blobs meanwhile. Older
//! builders never call; then the load begins with the response to `Solve`.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::sync::OnceCell;
use tonic::{Code, Status};
use tracing::{Instrument as _, Span};

use super::frontend_metadata::FrontendMetadata;
use super::grpc::{Unary, error_response, frame, grpc_response};
use super::load::{ExportPhase, Load};
use super::response::BuildResponse;
use super::session::{CallHandler, Handled, SessionCalls};
use crate::http2::Body;

/// Before the exporters run: a client may name more of them. We name none.
const FIND: &str = "/moby.exporter.v1.Exporter/FindExporters";
/// After the exporters, pushes and cache exports.
const FINALIZE: &str = "/moby.exporter.v1.Exporter/FinalizeExport";

/// The loads of one builder that are exported inside their build, by the client's session, which is all that the builder's
/// calls name.
#[derive(Debug, Default)]
pub(super) struct Finalizers(Mutex<BySession>);

#[derive(Debug, Default)]
struct BySession {
    finalizers: HashMap<String, Weak<Finalizer>>,
    /// Sessions whose client handles these calls itself, the oldest first.
    of_clients: VecDeque<String>,
}

/// How many sessions are remembered in which the client handles them.
const MAX_OF_CLIENTS: usize = 256;

/// One such load.
#[derive(Debug)]
pub(super) struct Finalizer {
    load: Arc<Load>,
    /// The span of the build.
    span: Span,
    frontend: Mutex<Option<FrontendMetadata>>,
    result: OnceCell<Result<BuildResponse, Status>>,
}

impl Finalizers {
    /// Handles the calls of the load's build until the finalizer is dropped; `None` if another build of the same session
    /// runs, from which the builder's calls cannot be told.
    pub(super) fn add(&self, load: &Arc<Load>) -> Option<Arc<Finalizer>> {
        let mut known = self.known();
        let session = &load.solve.session;
        known.finalizers.retain(|_, finalizer| finalizer.strong_count() > 0);
        if known.finalizers.contains_key(session) || known.of_clients.contains(session) {
            return None;
        }
        let (frontend, result) = (Mutex::default(), OnceCell::new());
        let finalizer = Arc::new(Finalizer { load: load.clone(), span: Span::current(), frontend, result });
        known.finalizers.insert(session.clone(), Arc::downgrade(&finalizer));
        Some(finalizer)
    }

    /// Handles no more calls in a session: a build of it comes whose client handles them itself. A load that waits for its
    /// call begins after its build.
    pub(super) fn leave_to_client(&self, session: &str) {
        let mut known = self.known();
        known.finalizers.remove(session);
        if known.of_clients.len() == MAX_OF_CLIENTS {
            known.of_clients.pop_front();
        }
        known.of_clients.push_back(session.to_owned());
    }

    fn known(&self) -> MutexGuard<'_, BySession> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SessionCalls for Finalizers {
    fn handler_for(&self, session: &str, call: &Request<Incoming>) -> Option<CallHandler> {
        let is_find = call.uri().path() == FIND;
        if !is_find && call.uri().path() != FINALIZE {
            return None;
        }
        let finalizer = self.known().finalizers.get(session).and_then(Weak::upgrade)?;
        Some(Box::new(move |call| {
            Box::pin(async move {
                let message = match Unary::read(call.into_body()).await {
                    Ok(call) => call.message().ok_or_else(|| "it is no plain message".into()),
                    Err(error) => Err(error),
                };
                Handled::Response(match message {
                    Ok(message) if is_find => finalizer.find(&message),
                    Ok(message) => finalizer.finalize(&message).await,
                    Err(error) => {
                        error_response(&Status::unknown(format!("linkspan: reading the builder's call: {error}")))
                    }
                })
            })
        }))
    }
}

impl Finalizer {
    /// The load's result, if the builder has requested it.
    pub(super) fn result(&self) -> Option<&Result<BuildResponse, Status>> {
        self.result.get()
    }

    fn find(&self, message: &[u8]) -> Response<Body> {
        *self.frontend.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(FrontendMetadata::from_find_exporters(message));
        empty()
    }

    async fn finalize(&self, message: &[u8]) -> Response<Body> {
        let response = match BuildResponse::read(message) {
            Ok(response) => response,
            Err(error) => return error_response(&Status::invalid_argument(format!("linkspan: the call is {error}"))),
        };
        let frontend = self.frontend.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let load = || self.load.finish(response, ExportPhase::InBuild(frontend)).instrument(self.span.clone());
        match self.result.get_or_init(load).await {
            Ok(_) => empty(),
            // The builder takes UNAVAILABLE and UNIMPLEMENTED for clients that do not know the call.
            Err(status) if status.code() == Code::Cancelled => error_response(status),
            Err(status) => error_response(&Status::unknown(status.message())),
        }
    }
}

/// The response without anything in it.
fn empty() -> Response<Body> {
    grpc_response(frame(&[]))
}
