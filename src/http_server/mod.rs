//! Connections of HTTP/1.1 to servers of our own: how long each side may take, and how they end.
//!
//! A client that sends nothing, half a request, or reads no response is closed in time. At a drain each request that has come gets
//! its response, which says that it is the last one; a connection on which none comes for a moment is closed.

mod stall;
#[cfg(test)]
mod tests;
mod turn;

use std::convert::Infallible;
use std::error::Error;
use std::pin::pin;
use std::time::Duration;

use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, sleep_until, timeout};

use crate::net::{Connection, Drain, Occasional, Principal, Stream};
use stall::StallLimit;
use turn::{Noted, Responded, Turns};

/// How long a drain waits for a request of a quiet connection: a client that has just connected, or that asks one thing after another,
/// has asked by then, and one that is silent is not waited for.
const LAST_REQUEST: Duration = Duration::from_secs(1);
/// How long a drain waits for the rest of a head.
const LAST_HEAD: Duration = Duration::from_secs(2);
/// How often the runtime looks at the sockets before a quiet connection is closed, so that a request that has come is not lost.
const LOOKS: usize = 3;

/// Clients that were closed, in the log.
static CLOSED: Occasional = Occasional::new();

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// From its connection to the first byte of its first request.
    pub(crate) first: Duration,
    /// From a head's first byte to its last.
    pub(crate) head: Duration,
    /// From a response to the next request.
    pub(crate) idle: Duration,
    /// From a request to the last byte of its response, where such a time can be said.
    pub(crate) response: Option<Duration>,
    /// Without reading anything of a response.
    pub(crate) stall: Duration,
}

/// Serves one connection to `door` until either side ends it. When `drain` is cancelled, requests that have come get their response.
pub(crate) async fn serve<T, H, F, B>(
    connection: Connection<T>,
    door: &'static str,
    drain: Drain,
    limits: Limits,
    respond: H,
) where
    T: Stream + 'static,
    H: Fn(Request<Incoming>, Principal) -> F,
    F: Future<Output = Response<B>>,
    B: Body + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let Connection { io, peer } = connection;
    let (turns, mut turn) = Turns::new(drain.clone());
    let stream = Noted { stream: StallLimit::new(io, limits.stall), turns: turns.clone() };
    let service = service_fn(|request| {
        let responding = turns.request();
        let (response, drain) = (respond(request, peer.clone()), drain.clone());
        async move {
            let mut response = response.await;
            if drain.is_cancelled() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response.map(|body| Responded { body, _responding: responding }))
        }
    });
    let mut served = pin!(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    let mut drained = None;
    loop {
        let now = *turn.borrow_and_update();
        let end = now.end(&limits, drained);
        let too_long = async {
            match end {
                Some(end) => sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            outcome = served.as_mut() => {
                if let Err(error) = outcome {
                    tracing::debug!(%error, "a client's connection broke off");
                }
                return;
            }
            _ = turn.changed() => continue,
            () = drain.cancelled(), if drained.is_none() => {
                drained = Some(Instant::now());
                continue;
            }
            () = too_long => {}
        }
        if let Some(reason) = now.fault().filter(|_| drained.is_none()) {
            match CLOSED.due() {
                Some(unsaid) => tracing::warn!(door, %peer, unsaid, "a client's connection is closed: {reason}"),
                None => tracing::debug!(door, %peer, "a client's connection is closed: {reason}"),
            }
        }
        if !now.is_quiet() {
            return;
        }
        let looked = async {
            for _ in 0..LOOKS {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            _ = served.as_mut() => return,
            () = looked => {}
        }
        if turn.borrow().is_quiet() {
            served.as_mut().graceful_shutdown();
            let _ = timeout(LAST_REQUEST, served).await;
            return;
        }
    }
}
