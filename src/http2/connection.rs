//! Both ends of HTTP/2: a connection to an upstream, and that of a client.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::authority::AuthorityRewriter;
use super::body::{Body, BodyError};
use crate::net::{Dial, DialError, EndReason, EofSignal, Stream, with_causes};

/// The largest gRPC message that BuildKit and containerd exchange, with its frame header
/// (containerd `defaults/defaults.go`: 16 MiB).
pub const MAX_MESSAGE_BYTES: usize = (16 << 20) + 5;

/// gRPC's Go peers accept header lists of up to 16 MiB (grpc-go `internal/transport/defaults.go`); hyper's 16 KiB
/// would break builds whose contexts have long include lists, which travel as metadata.
const HEADER_LIST_BYTES: u32 = 16 << 20;

/// A session opens a stream for each concurrent call, health checks among them; a low limit would starve those.
const CONCURRENT_STREAMS: u32 = 4096;

/// The largest frame that a client may send: HTTP/2's own default.
const FRAME_BYTES: u32 = 16 << 10;

/// What may be in flight on one stream, and on all of them together. Large enough for local sockets at full
/// speed, small enough that a slow reader does not make the proxy grow.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// The same where a connection serves many clients: each that does not read (a stopped terminal) fills its stream's window,
/// and must not stall the others.
const SHARED_WINDOW_BYTES: u32 = 64 << 20;

/// Reads of remote blobs cancel their stream each time; h2's default tolerance (20) would end such connections.
const PENDING_RESETS: usize = 4096;

/// How long after a response an upstream needs no health check.
const FRESH: Duration = Duration::from_secs(1);

/// How often a silent upstream is pinged while calls wait for it, and how long it has to respond. gRPC's Go servers take
/// pings more often than every five minutes for an attack and end the connection (grpc-go
/// `internal/transport/defaults.go`, `defaultKeepalivePolicyMinTime`). What the system's own keepalive sees is seen
/// much earlier ([`Upstream::connect`](crate::net::Upstream::connect)).
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(310), Duration::from_secs(20));

/// Why a request could not be passed on.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The upstream cannot be connected to.
    #[error(transparent)]
    Connect(DialError),
    /// The connection broke or the other side does not speak HTTP/2.
    #[error("{}", broken(upstream, source, ended.as_deref()))]
    Http {
        /// The upstream's address.
        upstream: String,
        /// The error of hyper.
        source: hyper::Error,
        /// Why the connection had ended, if that is known and is the reason.
        ended: Option<String>,
    },
}

/// What happened on the way to `upstream`. A request that was never sent is `canceled`, which sounds as if somebody had done it.
fn broken(upstream: &str, source: &hyper::Error, ended: Option<&str>) -> String {
    match (source.is_canceled(), ended) {
        (false, _) => format!("{upstream}: {source}"),
        (true, None) => format!("{upstream} cannot be reached: the connection to it has ended"),
        (true, Some(reason)) => format!("{upstream} cannot be reached: the connection to it has ended: {reason}"),
    }
}

/// Whether `error` is the reset of a stream by the other side; everything else means that there is no other side.
pub(crate) fn is_reset(error: &(dyn std::error::Error + 'static)) -> bool {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut errors = causes.filter_map(|error| error.downcast_ref::<h2::Error>());
    errors.next().is_some_and(|error| error.is_reset() && error.is_remote())
}

impl ProxyError {
    /// Whether the upstream ended just this call, which the client is to see as it is; everything else means that
    /// there is no upstream.
    pub fn is_reset(&self) -> bool {
        is_reset(self)
    }

    /// The error with all its causes: hyper's own texts are short, and what happened is in the sources.
    pub fn reason(&self) -> String {
        if let Self::Http { source, .. } = self
            && source.is_canceled()
        {
            return self.to_string();
        }
        with_causes(self)
    }

    /// The status of a gRPC call of ours that ended like this.
    pub(super) fn status(self) -> Status {
        if self.is_reset() {
            return Status::from_error(Box::new(self));
        }
        Status::unavailable(self.reason())
    }
}

/// What may be in flight on all streams of a connection together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Windows {
    OneClient,
    ManyClients,
}

/// What a connection inside another one leads to.
const INSIDE: &str = "the client's session";

/// The largest frame on a connection inside another one. Its frames become one of the outer connection's each, or more.
const INSIDE_FRAME_BYTES: u32 = 64 << 10;

/// A connection to an upstream. Clones share it.
#[derive(Debug, Clone)]
pub struct UpstreamConnection {
    sender: SendRequest<Body>,
    upstream: String,
    ended: CancellationToken,
    reason: EndReason,
    /// When the upstream last responded.
    last_response_at: Arc<Mutex<Instant>>,
}

impl UpstreamConnection {
    /// Connects and shakes hands.
    ///
    /// # Errors
    /// When the upstream is not reachable or does not speak HTTP/2.
    pub async fn open(dial: &dyn Dial) -> Result<Self, ProxyError> {
        let stream = dial.dial().await.map_err(ProxyError::Connect)?;
        Self::over(dial.name(), stream, Windows::OneClient).await
    }

    /// Shakes hands on a stream that leads to `upstream`.
    pub(super) async fn over(upstream: String, stream: Box<dyn Stream>, windows: Windows) -> Result<Self, ProxyError> {
        let window = match windows {
            Windows::OneClient => CONNECTION_WINDOW_BYTES,
            Windows::ManyClients => SHARED_WINDOW_BYTES,
        };
        let mut builder = builder(window);
        builder.keep_alive_interval(KEEPALIVE.0).keep_alive_timeout(KEEPALIVE.1);
        Self::shake_hands(upstream, stream, &builder).await
    }

    /// Shakes hands on a stream inside another connection, whose server is the client of that one. Whether it still lives
    /// is the other connection's concern.
    ///
    /// # Errors
    /// When it does not speak HTTP/2.
    pub async fn inside<S>(stream: S) -> Result<Self, ProxyError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // One call that is not read must not stall the others, such as health checks.
        let mut builder = builder(SHARED_WINDOW_BYTES);
        builder.max_frame_size(INSIDE_FRAME_BYTES);
        Self::shake_hands(INSIDE.to_owned(), stream, &builder).await
    }

    async fn shake_hands<S>(upstream: String, stream: S, builder: &Builder<TokioExecutor>) -> Result<Self, ProxyError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let ended = CancellationToken::new();
        let (sender, connection) = builder
            .handshake(TokioIo::new(EofSignal::new(stream, ended.clone())))
            .await
            .map_err(|source| ProxyError::Http { upstream: upstream.clone(), source, ended: None })?;
        let (reason, driven) = EndReason::of(upstream.clone(), connection);
        tokio::spawn(driven);
        Ok(Self { sender, upstream, ended, reason, last_response_at: Arc::new(Mutex::new(Instant::now())) })
    }

    /// Whether the upstream responded a moment ago, so that no health check is needed.
    pub(super) fn is_fresh(&self) -> bool {
        self.last_response_at.lock().unwrap_or_else(PoisonError::into_inner).elapsed() < FRESH
    }

    /// Cancelled when the connection's stream has ended, before any call on it learns of that.
    pub fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// Whether this is the connection whose end is `ended`.
    pub(super) fn is(&self, ended: &CancellationToken) -> bool {
        self.ended == *ended
    }

    /// Sends a request and returns the head of the response; its body streams.
    ///
    /// # Errors
    /// When the connection breaks first. A reset by the upstream is in the error's sources.
    pub async fn send(&self, mut request: Request<Body>) -> Result<Response<Incoming>, ProxyError> {
        let mut sender = self.sender.clone();
        addressed(request.uri_mut());
        let response = match sender.send_request(request).await {
            Ok(response) => response,
            Err(source) => {
                // If the connection ended before it took the request, as after an alert of TLS, only its task knows why.
                let ended = if source.is_canceled() { self.reason.get().await } else { None };
                return Err(ProxyError::Http { upstream: self.upstream.clone(), source, ended });
            }
        };
        *self.last_response_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        Ok(response)
    }

    /// Passes a request on as it is.
    ///
    /// # Errors
    /// As [`UpstreamConnection::send`].
    pub async fn forward(&self, request: Request<Incoming>) -> Result<Response<Body>, ProxyError> {
        let request = request.map(|body| body.map_err(BodyError::from).boxed_unsync());
        Ok(self.send(request).await?.map(|body| body.map_err(BodyError::from).boxed_unsync()))
    }
}

/// What is the same for all connections to servers.
fn builder(window: u32) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_header_list_size(HEADER_LIST_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(window)
        .max_concurrent_reset_streams(PENDING_RESETS)
        .max_pending_accept_reset_streams(PENDING_RESETS);
    builder
}

/// Adds an authority to a request without one: clients may leave it out, and hyper does not send such requests.
fn addressed(uri: &mut Uri) {
    if uri.authority().is_some() {
        return;
    }
    let mut parts = std::mem::take(uri).into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(Authority::from_static("localhost"));
    // A path is the only part that it had.
    *uri = Uri::from_parts(parts).unwrap_or_default();
}

/// Serves HTTP/2 on `connection` until either side ends it. When `drain` is cancelled the client is told
/// to go away, and requests under way are finished.
///
/// An `Err` of the handler resets the stream.
///
/// # Errors
/// When the connection breaks other than by the client closing it.
pub async fn serve<T, H, F>(connection: T, drain: CancellationToken, handler: H) -> Result<(), hyper::Error>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F + Send + Sync,
    F: Future<Output = Result<Response<Body>, ProxyError>> + Send + 'static,
{
    let connection = AuthorityRewriter::new(connection, HEADER_LIST_BYTES, FRAME_BYTES);
    let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_header_list_size(HEADER_LIST_BYTES)
        .max_frame_size(FRAME_BYTES)
        .max_concurrent_streams(CONCURRENT_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(None)
        .serve_connection(TokioIo::new(connection), service_fn(handler));
    let mut served = pin!(served);
    tokio::select! {
        result = served.as_mut() => return result,
        () = drain.cancelled() => served.as_mut().graceful_shutdown(),
    }
    served.await
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::time::timeout;

    use super::*;
    use crate::net::Upstream;

    #[tokio::test]
    async fn the_reason_that_an_upstream_cannot_be_reached_is_given_once() {
        let folder = tempfile::tempdir().unwrap();
        let address = format!("unix://{}", folder.path().join("x.sock").display());
        let upstream = Upstream::new(address.parse().unwrap(), None).unwrap();
        let error = ProxyError::Connect(upstream.connect().await.unwrap_err().into());
        assert_eq!(error.reason(), format!("cannot connect to {address}: No such file or directory (os error 2)"));
    }

    #[tokio::test]
    async fn a_request_that_was_not_sent_fails_with_what_ended_the_connection() {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let connection = UpstreamConnection::inside(near).await.unwrap();
        // A frame of SETTINGS belongs to no stream.
        far.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 1]).await.unwrap();
        let reason = async {
            loop {
                let request = Request::new(crate::http2::full(bytes::Bytes::new()));
                let error = connection.send(request).await.unwrap_err();
                if error.reason().contains("cannot be reached") {
                    return error.reason();
                }
            }
        };
        let reason = timeout(Duration::from_secs(60), reason).await.unwrap();
        let ended = "the client's session cannot be reached: the connection to it has ended: ";
        assert!(reason.starts_with(ended) && reason.contains("protocol error"), "{reason}");
    }
}
