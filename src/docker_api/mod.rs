//! A client of dockerd's HTTP API over its socket.

mod early_response;
mod error;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustix::process::Pid;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use early_response::EarlyResponseStream;
pub(crate) use error::ApiError;

/// The time limit for connecting.
const CONNECT: Duration = Duration::from_secs(5);
/// The time limit for a small request.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest response that is read into memory.
const MAX_RESPONSE_BYTES: usize = 4 << 20;

/// dockerd's API. Paths carry no version: dockerd then speaks its newest, in every release
/// (moby `daemon/server/middleware/version.go`).
#[derive(Debug)]
pub(crate) struct Api {
    socket: PathBuf,
    address: String,
}

/// A complete response.
#[derive(Debug)]
pub(crate) struct ApiResponse {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

/// The connection of a running request. Dropping it aborts the request.
#[derive(Debug)]
pub(crate) struct Streaming(#[allow(dead_code, reason = "held to be dropped")] AbortOnDropHandle<()>);

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
    pub(crate) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), address: format!("unix://{}", socket.display()) }
    }

    /// The socket, as a URL.
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
        self.exchange(EarlyResponseStream::new(self.connect().await?), request).await
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
            .map_err(|error| broken(error.to_string()))?;
        let exchange = async {
            let (response, _connection) = self.exchange(self.connect().await?, request).await?;
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
        match timeout(RESPONSE_TIMEOUT, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ApiError::Timeout { operation, after: RESPONSE_TIMEOUT }),
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
        let exchange = async {
            let (response, _connection) =
                self.exchange(EarlyResponseStream::new(self.connect().await?), request).await?;
            let (status, body) = response.into_parts();
            let body = Limited::new(body, bytes).collect().await.map_err(|error| broken(error.to_string()))?;
            Ok(ApiResponse { status: status.status, body: body.to_bytes() })
        };
        match timeout(limit, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ApiError::Timeout { operation, after: limit }),
        }
    }

    /// Sends one request on its own connection: on a unix socket that is cheaper than handling dockerd's restarts on a
    /// persistent one.
    async fn exchange<S, B>(&self, stream: S, request: Request<B>) -> Result<(Response<Incoming>, Streaming), ApiError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.unreachable(error))?;
        let connection = Streaming(AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to docker ended");
            }
        })));
        let response = sender.send_request(request).await.map_err(|error| self.unreachable(error))?;
        Ok((response, connection))
    }

    async fn connect(&self) -> Result<UnixStream, ApiError> {
        match timeout(CONNECT, UnixStream::connect(&self.socket)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(ApiError::Permission { address: self.address.clone() })
            }
            Ok(Err(error)) => Err(self.unreachable(error)),
            Err(_) => Err(self.unreachable(io::Error::from(io::ErrorKind::TimedOut))),
        }
    }

    /// The error for a connection that dockerd closed or broke.
    pub(crate) fn unreachable(&self, error: impl std::error::Error) -> ApiError {
        ApiError::Unreachable { address: self.address.clone(), reason: error.to_string() }
    }
}
