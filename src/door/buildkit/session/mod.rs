//! The client's session: the calls that a builder makes of its client, inside the call `Control.Session`.
//!
//! Most sessions pass as the bytes that they are. One in which we have calls to handle is split (`split`): its HTTP/2 ends
//! here on both sides, so that these calls are handled here ([`SessionCalls`]), and all others are passed on. Which of
//! the two it is shows only when the build comes (`registry`); until then the little that both sides send is held (`held`).

mod deferred_body;
mod messages;
mod pipe;
mod registry;
mod source;
mod split;
mod tunnel;

use std::fmt::Debug;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::oneshot;

use crate::activity::{Activities, Activity};
use crate::http2::{Body, BodyError, PooledConnection, ProxyError};
use deferred_body::{Split, UndecidedBody};
use pipe::pipe;
use registry::{Registry, Session, SessionMode};
use split::{Side, split};

/// The call that carries a session.
pub(super) const SESSION: &str = "/moby.buildkit.v1.Control/Session";

/// Handles one call.
pub(super) type CallHandler = Box<dyn FnOnce(Request<Incoming>) -> BoxFuture<'static, Handled> + Send>;

/// Makes the builder's response of the client's.
pub(super) type ResponseHandler = Box<dyn FnOnce(Response<Incoming>) -> BoxFuture<'static, Response<Body>> + Send>;

/// What became of a call.
pub(super) enum Handled {
    /// Its response.
    Response(Response<Body>),
    /// It is for the client after all.
    Forward(Request<Body>),
    /// The client is asked, and the response is made of what it says.
    Ask { request: Request<Body>, then: ResponseHandler },
}

/// Handles calls of a builder inside a session in the client's place.
pub(super) trait SessionCalls: Debug + Send + Sync {
    /// The handler of a call in the session called `session`; `None` if that is for the client.
    fn handler_for(&self, session: &str, call: &Request<Incoming>) -> Option<CallHandler>;
}

/// What names a session (BuildKit `session/session.go`).
const ID: &str = "x-docker-expose-session-uuid";
/// The methods that a client serves in its session, a value for each.
const METHOD: &str = "x-docker-expose-session-grpc-method";
const FILE_SYNC: &str = "/moby.filesync.v1.FileSync/";
const HEALTH: &str = "/grpc.health.v1.Health/";

/// The sessions of one builder's clients.
#[derive(Debug)]
pub(super) struct Sessions {
    calls: Arc<[Arc<dyn SessionCalls>]>,
    registry: Registry,
    activities: Activities,
}

impl Sessions {
    /// Sessions in which each of `calls` handles those that are its own; without any, every session passes as bytes.
    pub(super) fn new(calls: impl IntoIterator<Item = Arc<dyn SessionCalls>>) -> Self {
        Self { calls: calls.into_iter().collect(), registry: Registry::default(), activities: Activities::default() }
    }

    /// Tells `activities` of each session that is split.
    pub(super) fn counted(self, activities: &Activities) -> Self {
        Self { activities: activities.clone(), ..self }
    }

    /// Serves the call that carries a session.
    pub(super) async fn serve(
        &self,
        request: Request<Incoming>,
        upstream: &PooledConnection,
    ) -> Result<Response<Body>, ProxyError> {
        let id = request.headers().get(ID).and_then(|id| id.to_str().ok());
        let Some(id) = id.filter(|_| !self.calls.is_empty()) else { return upstream.forward(request).await };
        let mode = gives_files_only(request.headers()).then_some(SessionMode::Bytes);
        let session = self.registry.enter(id, mode);
        let ((from_client, client), (from_builder, builder)) = (side(), side());
        let counted = self.activities.clone();
        let told = move || counted.emit(Activity::SessionSplit);
        tokio::spawn(split(Arc::clone(&session), from_client, from_builder, Arc::clone(&self.calls), told));
        // The output of the one is exchanged for the input of the other.
        let (client, builder) =
            (Split { give: client.give, take: builder.take }, Split { give: builder.give, take: client.take });
        let request = request.map(|body| held(&session, body, client));
        Ok(upstream.send(request).await?.map(|body| held(&session, body, builder)))
    }

    /// A build of `session` comes; `split` says whether it needs calls of ours. Returns whether the session has them, or will
    /// have them; `false` means that it passes as bytes, and cannot be split any more.
    ///
    /// Must be called before the builder gets the build. The call that carries the session may come later.
    pub(super) fn decide(&self, session: &str, split: bool) -> bool {
        let mode = if split { SessionMode::Split } else { SessionMode::Bytes };
        !self.calls.is_empty() && !session.is_empty() && self.registry.expect(session, mode) == SessionMode::Split
    }
}

fn held(session: &Arc<Session>, body: Incoming, split: Split) -> Body {
    UndecidedBody::new(Arc::clone(session), body.map_err(BodyError::from).boxed_unsync(), split).boxed_unsync()
}

/// One side of a session, and what its body is exchanged for.
fn side() -> (Side, Split) {
    let ((give, output), (input, take)) = (oneshot::channel(), pipe());
    (Side { output, input }, Split { give, take })
}

/// Whether a client serves files and nothing else. Such sessions are for the contexts that several builds share, which
/// name it in an attribute; it is the session of none of them (buildx `build/build.go`, `detectSharedMounts`).
fn gives_files_only(headers: &HeaderMap) -> bool {
    let is_of = |method: &[u8], service: &str| {
        method.get(..service.len()).is_some_and(|start| start.eq_ignore_ascii_case(service.as_bytes()))
    };
    let methods = || headers.get_all(METHOD).iter().map(HeaderValue::as_bytes);
    methods().any(|method| is_of(method, FILE_SYNC))
        && methods().all(|method| is_of(method, FILE_SYNC) || is_of(method, HEALTH))
}

#[cfg(test)]
mod tests;
