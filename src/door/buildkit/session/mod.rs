//! The client's session: the calls that a builder makes of its client, inside the call `Control.Session`.

use std::fmt::Debug;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;

use crate::http2::{Body, PooledConnection, ProxyError};

/// The call that carries a session.
pub(super) const SESSION: &str = "/moby.buildkit.v1.Control/Session";

/// What responds to the calls of a builder that are ours inside a session.
pub(super) trait SessionContent: Debug + Send + Sync {
    /// Responds to a call of containerd's `Content` service. `store` is the store that is called, such as
    /// `local:linkspan/<nonce>/e0`.
    #[expect(dead_code, reason = "sessions pass as bytes so far")]
    fn call(&self, store: &str, request: Request<Incoming>) -> BoxFuture<'static, Response<Body>>;
}

/// The sessions of one builder's clients.
#[derive(Debug)]
pub(super) struct Sessions {
    #[expect(dead_code, reason = "sessions pass as bytes so far")]
    content: Option<Arc<dyn SessionContent>>,
}

impl Sessions {
    /// Sessions in which `content` responds to the calls that are ours; without it, every session passes as bytes.
    pub(super) fn new(content: Option<Arc<dyn SessionContent>>) -> Self {
        Self { content }
    }

    /// Serves the call that carries a session.
    pub(super) async fn serve(
        &self,
        request: Request<Incoming>,
        upstream: &PooledConnection,
    ) -> Result<Response<Body>, ProxyError> {
        upstream.forward(request).await
    }

    /// A build of `session` comes; `split` says whether it needs calls of ours. Says whether the session has them, or will
    /// have them; `false` means that it passes as bytes, and cannot be split any more.
    ///
    /// Must be called before the builder gets the build. The call that carries the session may come later.
    pub(super) fn decide(&self, _session: &str, _split: bool) -> bool {
        false
    }
}
