//! Connecting to a builder that may not be up yet.
//!
//! The client's connection is served at once, while a task retries the connection to the builder until it succeeds: a
//! builder that comes back serves the clients that are connected. Calls wait for it for a few seconds and then fail
//! with the reason.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status};

use super::Door;
use super::grpc::error_response;
use super::route::Route;
use crate::http2::{Body, PooledConnection, ProxyError};
use crate::net::Principal;

/// How long calls wait for a builder, counted from when the client connected.
const TIMEOUT: Duration = Duration::from_secs(4);

/// The delay between two attempts to connect.
const RETRY: Duration = Duration::from_millis(250);

/// The call by which buildx and buildctl wait for a builder.
const INFO: &str = "/moby.buildkit.v1.Control/Info";

/// One client's connection to its builder, which may still be pending.
#[derive(Debug)]
pub(super) struct PendingConnection {
    route: watch::Receiver<Result<Arc<Route>, String>>,
    deadline: Instant,
    /// Connects, then requests the builder's capabilities, so that no build has to wait for them.
    _task: AbortOnDropHandle<()>,
}

impl PendingConnection {
    /// Connects `client` to the builder of `door`. `cut` is cancelled when the client's connection must end with the builder's.
    pub(super) fn connect(door: Arc<Door>, client: Principal, cut: CancellationToken) -> Self {
        Self::new(door, |door, found| async move {
            let mut is_reported = false;
            loop {
                match door.builder.connections.connect().await {
                    Ok(upstream) => {
                        let ended = upstream.cut();
                        let route = Arc::new(Route::new(door, client, upstream));
                        let _ = found.send_replace(Ok(route.clone()));
                        tokio::join!(request_capabilities(&route), ended.cancelled().map(|()| cut.cancel()));
                        return;
                    }
                    Err(error) => {
                        let reason = error.reason();
                        if !std::mem::replace(&mut is_reported, true) {
                            tracing::warn!(builder = %door.builder.name, %reason, "the builder cannot be reached");
                        }
                        let _ = found.send_replace(Err(reason));
                    }
                }
                sleep(RETRY).await;
            }
        })
    }

    /// Uses a connection that is already open.
    pub(super) fn over(door: Arc<Door>, client: Principal, upstream: PooledConnection) -> Self {
        Self::new(door, |door, found| async move {
            let route = Arc::new(Route::new(door, client, upstream));
            let _ = found.send_replace(Ok(route.clone()));
            request_capabilities(&route).await;
        })
    }

    fn new<F>(door: Arc<Door>, work: impl FnOnce(Arc<Door>, watch::Sender<Result<Arc<Route>, String>>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let nothing_yet = format!("builder {}: no response within {} s", door.builder.name, TIMEOUT.as_secs());
        let (found, route) = watch::channel(Err(nothing_yet));
        let _task = AbortOnDropHandle::new(tokio::spawn(work(door, found)));
        Self { route, deadline: Instant::now() + TIMEOUT, _task }
    }

    /// Handles one call.
    pub(super) async fn handle(&self, request: Request<Incoming>) -> Result<Response<Body>, ProxyError> {
        let mut route = self.route.clone();
        // Until the deadline or the end of the task, which owns the sender while it retries.
        let _ = timeout_at(self.deadline, route.wait_for(Result::is_ok)).await;
        let found = route.borrow().clone();
        match found {
            Ok(route) => route.handle(request).await,
            Err(reason) => {
                // Clients retry on `Unavailable`, and after 20 s report only a timeout (BuildKit `client/client.go`,
                // `Wait`). With any other code they report the reason at once.
                let code = if request.uri().path() == INFO { Code::Unknown } else { Code::Unavailable };
                Ok(error_response(&Status::new(code, format!("linkspan: {reason}"))))
            }
        }
    }
}

/// Requests the builder's capabilities now; the route keeps the response.
async fn request_capabilities(route: &Route) {
    if let Err(status) = route.capabilities().await {
        tracing::warn!(%status, "no direct export: the builder does not say what it is");
    }
}
