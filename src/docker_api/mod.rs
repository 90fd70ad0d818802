//! A client of dockerd's HTTP API: over its socket, TCP with or without TLS, or ssh.

mod early_response;
mod endpoint;
mod error;
mod grpc;
mod pool;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustix::process::Pid;
use serde::Deserialize;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::net::{Dial, Stream, StreamFailure, Upstream};
use early_response::EarlyResponseStream;
pub(crate) use endpoint::DockerAddress;
pub(crate) use error::ApiError;
pub(crate) use grpc::Grpc;
use pool::Pool;

/// The time limit for connecting to a socket of this machine, or for starting a connection to another one.
const CONNECT: Duration = Duration::from_secs(15);
/// What the limits of requests allow in addition where a connection is made over a network: ssh has 30 s for that.
const NETWORK: Duration = Duration::from_secs(30);
/// How long the task of a connection that has ended may take to say why.
const ENDED: Duration = Duration::from_secs(1);
/// The time limit for a small request.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest response that is read into memory.
const MAX_RESPONSE_BYTES: usize = 4 << 20;

/// dockerd's API. Paths carry no version: dockerd then speaks its newest, in every release
/// (moby `daemon/server/middleware/version.go`).
#[derive(Debug)]
pub(crate) struct Api {
    dial: Arc<dyn Dial>,
    address: String,
    /// Connections that the next request may use; `None` for a unix socket, where a new connection for each request is
    /// cheaper than handling dockerd's restarts.
    pool: Option<Arc<Pool>>,
}

/// The body of a request.
type RequestBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// A connection for one request at a time.
#[derive(Debug)]
struct Connection {
    sender: SendRequest<RequestBody>,
    running: Streaming,
    /// Why its stream ended, if a program says so.
    failure: StreamFailure,
}

/// A complete response.
#[derive(Debug)]
pub(crate) struct ApiResponse {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

/// The connection of a running request. Dropping it aborts the request.
#[derive(Debug)]
pub(crate) struct Streaming(AbortOnDropHandle<Option<String>>);

impl ApiResponse {
    /// dockerd's error message.
    pub(crate) fn message(&self) -> String {
        #[derive(Deserialize)]
        struct Refusal {
            message: String,
        }
        match serde_json::from_slice::<Refusal>(&self.body) {
            Ok(refusal) => refusal.message,
            Err(_) => {
                let text = String::from_utf8_lossy(&self.body);
                format!("{}: {}", self.status, text.trim().chars().take(500).collect::<String>())
            }
        }
    }
}

impl Api {
    /// dockerd at a unix socket.
    pub(crate) fn new(socket: &Path) -> Self {
        // A unix socket has no TLS, so that there is nothing to read or to check.
        let address = crate::net::Address::Unix(socket.to_owned());
        Self { dial: Arc::new(Upstream::plain(address.clone())), address: address.to_string(), pool: None }
    }

    /// dockerd at any address.
    ///
    /// # Errors
    /// [`ApiError::Unreachable`] when a file of TLS cannot be used.
    pub(crate) fn at(address: &DockerAddress) -> Result<Self, ApiError> {
        let text = address.to_string();
        let failed = |error: crate::net::UpstreamError| ApiError::Unreachable {
            address: text.clone(),
            reason: error.to_string(),
        };
        let dial = address.dial().map_err(failed)?;
        let pool = (!address.is_socket()).then(Arc::<Pool>::default);
        Ok(Self { dial, address: text, pool })
    }

    /// The address, as a URL.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) async fn get(&self, path: &str) -> Result<ApiResponse, ApiError> {
        let request = Request::builder().method(Method::GET).uri(path).body(Full::default());
        self.whole(path, request, RESPONSE_TIMEOUT, MAX_RESPONSE_BYTES).await
    }

    /// The first process of a container; `None` if the container does not run, or if dockerd's host numbers processes
    /// otherwise than this process sees them, as in a virtual machine: then the control group has another name.
    pub(crate) async fn process_of(&self, container: &str) -> Option<Pid> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Container {
            id: String,
            state: ContainerState,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct ContainerState {
            pid: i32,
        }
        let response = self.get(&format!("/containers/{container}/json")).await.ok()?;
        let Container { id, state } = serde_json::from_slice(&response.body).ok()?;
        let groups = tokio::fs::read_to_string(format!("/proc/{}/cgroup", state.pid)).await.ok()?;
        Pid::from_raw(state.pid).filter(|_| !id.is_empty() && groups.contains(&id))
    }

    /// POSTs without a body.
    pub(crate) async fn post(&self, path: &str) -> Result<ApiResponse, ApiError> {
        let request = Request::builder().method(Method::POST).uri(path).body(Full::default());
        self.whole(path, request, RESPONSE_TIMEOUT, MAX_RESPONSE_BYTES).await
    }

    /// DELETEs.
    pub(crate) async fn delete(&self, path: &str) -> Result<ApiResponse, ApiError> {
        let request = Request::builder().method(Method::DELETE).uri(path).body(Full::default());
        self.whole(path, request, RESPONSE_TIMEOUT, MAX_RESPONSE_BYTES).await
    }

    /// GETs a response of up to `bytes`.
    pub(crate) async fn get_within(&self, path: &str, bytes: usize) -> Result<ApiResponse, ApiError> {
        let request = Request::builder().method(Method::GET).uri(path).body(Full::default());
        self.whole(path, request, RESPONSE_TIMEOUT, bytes).await
    }

    /// POSTs a streamed body, and returns as soon as the response begins. Dropping [`Streaming`] closes the connection, so that
    /// dockerd sees an incomplete body as such.
    pub(crate) async fn stream<B>(
        &self,
        path: &str,
        content_type: &str,
        body: B,
    ) -> Result<(Response<Incoming>, Streaming), ApiError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, "docker")
            .header(CONTENT_TYPE, content_type)
            .body(body)
            .map_err(|error| ApiError::Protocol {
                operation: format!("asking docker for {path}"),
                reason: error.to_string(),
            })?;
        let Exchange { response, connection } = self.exchange(request).await?;
        Ok((response, connection.running))
    }

    /// PUTs a streamed body and waits at most `limit` for the whole response.
    pub(crate) async fn put<B>(
        &self,
        path: &str,
        content_type: &str,
        body: B,
        limit: Duration,
    ) -> Result<ApiResponse, ApiError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let operation = format!("asking docker for {path}");
        let broken = |reason: String| ApiError::Protocol { operation: operation.clone(), reason };
        let request = Request::put(path).header(HOST, "docker").header(CONTENT_TYPE, content_type).body(body);
        let request = request.map_err(|error| broken(error.to_string()))?;
        let exchange = async {
            let Exchange { response, connection: _connection } = self.exchange(request).await?;
            let (head, body) = response.into_parts();
            let body =
                Limited::new(body, MAX_RESPONSE_BYTES).collect().await.map_err(|error| broken(causes(&*error)))?;
            Ok(ApiResponse { status: head.status, body: body.to_bytes() })
        };
        match timeout(limit, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ApiError::Timeout { operation, after: limit }),
        }
    }

    /// POSTs `body` and waits at most `limit` for the whole response.
    pub(crate) async fn send(
        &self,
        path: &str,
        content_type: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<ApiResponse, ApiError> {
        let request =
            Request::builder().method(Method::POST).uri(path).header(CONTENT_TYPE, content_type).body(Full::new(body));
        self.whole(path, request, limit, MAX_RESPONSE_BYTES).await
    }

    /// POSTs `body` (JSON) and takes over the connection, which is upgraded to `protocol`. Any other response is in the inner
    /// `Err`.
    pub(crate) async fn upgrade(
        &self,
        path: &str,
        protocol: &'static str,
        body: Bytes,
    ) -> Result<Result<Upgraded, ApiResponse>, ApiError> {
        let operation = format!("asking docker for {path}");
        let broken = |reason: String| ApiError::Protocol { operation: operation.clone(), reason };
        let request = Request::post(path)
            .header(HOST, "docker")
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, protocol)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| broken(error.to_string()))?
            .map(boxed);
        let limit = self.limit(RESPONSE_TIMEOUT);
        let exchange = async {
            // Its own connection, which is another protocol's afterwards.
            let mut connection = self.open().await?;
            let response = match connection.sender.send_request(request).await {
                Ok(response) => response,
                Err(error) => return Err(self.broken(connection, &error).await),
            };
            if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                let (head, body) = response.into_parts();
                let body = Limited::new(body, MAX_RESPONSE_BYTES)
                    .collect()
                    .await
                    .map_err(|error| broken(error.to_string()))?;
                return Ok(Err(ApiResponse { status: head.status, body: body.to_bytes() }));
            }
            hyper::upgrade::on(response).await.map(Ok).map_err(|error| broken(error.to_string()))
        };
        match timeout(limit, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ApiError::Timeout { operation, after: limit }),
        }
    }

    async fn whole(
        &self,
        path: &str,
        request: Result<Request<Full<Bytes>>, http::Error>,
        limit: Duration,
        bytes: usize,
    ) -> Result<ApiResponse, ApiError> {
        let operation = format!("asking docker for {path}");
        let broken = |reason: String| ApiError::Protocol { operation: operation.clone(), reason };
        let mut request = request.map_err(|error| broken(error.to_string()))?;
        request.headers_mut().insert(HOST, http::HeaderValue::from_static("docker"));
        let limit = self.limit(limit);
        let exchange = async {
            let Exchange { response, connection } = self.exchange(request).await?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, bytes).collect().await.map_err(|error| broken(causes(&*error)))?;
            if let Some(pool) = &self.pool {
                pool.put(connection);
            }
            Ok(ApiResponse { status: head.status, body: body.to_bytes() })
        };
        match timeout(limit, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ApiError::Timeout { operation, after: limit }),
        }
    }

    fn limit(&self, limit: Duration) -> Duration {
        if self.pool.is_some() { limit + NETWORK } else { limit }
    }

    /// Sends a request on a connection that waits for one, or else on a new one.
    async fn exchange<B>(&self, request: Request<B>) -> Result<Exchange, ApiError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut request = request.map(boxed);
        if let Some(pool) = &self.pool {
            while let Some(mut connection) = pool.take().await {
                match connection.sender.try_send_request(request).await {
                    Ok(response) => return Ok(Exchange { response, connection }),
                    // It was closed before it took the request.
                    Err(mut error) => match error.take_message() {
                        Some(unsent) => request = unsent,
                        None => return Err(self.broken(connection, &error.into_error()).await),
                    },
                }
            }
        }
        let mut connection = self.open().await?;
        match connection.sender.send_request(request).await {
            Ok(response) => Ok(Exchange { response, connection }),
            Err(error) => Err(self.broken(connection, &error).await),
        }
    }

    /// The error for a request that failed. If the connection ended before it took the request, as after an alert of TLS,
    /// only the connection's task knows why; if its stream is a program's, hyper may have lost what that said.
    async fn broken(&self, connection: Connection, error: &hyper::Error) -> ApiError {
        let Connection { sender, running, failure } = connection;
        drop(sender);
        let ended = match error.is_canceled() {
            true => timeout(ENDED, running.0).await.ok().and_then(Result::ok).flatten(),
            false => None,
        };
        match failure.reason().or(ended) {
            Some(reason) => ApiError::Unreachable { address: self.address.clone(), reason },
            None => self.unreachable(error),
        }
    }

    async fn open(&self) -> Result<Connection, ApiError> {
        let (stream, failure) = self.dial().await?;
        let stream = EarlyResponseStream::new(stream);
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.unreachable(&error))?;
        let running = Streaming(AbortOnDropHandle::new(tokio::spawn(async move {
            let reason = causes(&connection.with_upgrades().await.err()?);
            tracing::debug!(reason, "a connection to docker ended");
            Some(reason)
        })));
        Ok(Connection { sender, running, failure })
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, ApiError> {
        Ok(self.dial().await?.0)
    }

    async fn dial(&self) -> Result<(Box<dyn Stream>, StreamFailure), ApiError> {
        match timeout(CONNECT.max(self.limit(Duration::ZERO)), self.dial.dial_with_failure()).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) if is_forbidden(&*error) => Err(ApiError::Permission { address: self.address.clone() }),
            Ok(Err(error)) => Err(self.unreachable(&*error)),
            Err(_) => Err(self.unreachable(&io::Error::from(io::ErrorKind::TimedOut))),
        }
    }

    /// The error for a connection that dockerd closed or broke, with its causes: hyper's own texts are short.
    pub(crate) fn unreachable(&self, error: &(dyn std::error::Error + 'static)) -> ApiError {
        ApiError::Unreachable { address: self.address.clone(), reason: causes(error) }
    }
}

/// A response, and the connection that it comes from.
struct Exchange {
    response: Response<Incoming>,
    connection: Connection,
}

fn boxed<B>(body: B) -> RequestBody
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    body.map_err(Into::into).boxed_unsync()
}

/// An error and what is behind it: of the system, or of the program that made the connection. A cause that is in the text
/// already is not repeated.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.map(ToString::to_string).fold(error.to_string(), |reason, cause| {
        if reason.ends_with(&cause) { reason } else { format!("{reason}: {cause}") }
    })
}

/// Whether the system let nobody connect.
fn is_forbidden(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.any(|error| {
        error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    })
}
