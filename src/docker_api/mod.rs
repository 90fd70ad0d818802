//! A client of dockerd's HTTP API: over its socket, TCP with or without TLS, or ssh.

mod connection;
mod early_response;
mod endpoint;
mod error;
mod grpc;
mod pool;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use rustix::process::Pid;
use serde::Deserialize;
use tokio::time::timeout;

use crate::net::{Dial, StreamFailure, Upstream, with_causes, with_person};
use connection::{Exchange, Streaming, boxed};
pub use endpoint::{DEFAULT_DOCKER_HOST, DockerAddress, DockerAddressError};
pub(crate) use error::ApiError;
pub(crate) use grpc::{Grpc, OnlyHttp1};
use pool::Pool;

/// What the limits of requests allow in addition where a connection is made over a network: ssh has 30 s for that.
const NETWORK: Duration = Duration::from_secs(30);
/// How long the first response over ssh may take: longer than ssh may to connect. What somebody takes who is asked for a password
/// is not counted.
const FIRST: Duration = Duration::from_secs(40);
/// The time limit for a small request.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest response that is read into memory, and how much is read of a refusal.
const MAX_RESPONSE_BYTES: usize = 4 << 20;
const REFUSAL_BYTES: usize = 64 << 10;
/// The longest message of a refusal that is passed on.
const MESSAGE_CHARS: usize = 2000;

/// dockerd's API. Paths carry no version: dockerd then speaks its newest, in every release
/// (moby `daemon/server/middleware/version.go`).
#[derive(Debug)]
pub(crate) struct Api {
    dial: Arc<dyn Dial>,
    address: String,
    is_tls: bool,
    /// Connections that the next request may use; `None` for a unix socket, where a new connection for each request is
    /// cheaper than handling dockerd's restarts.
    pool: Option<Arc<Pool>>,
    /// Of a dockerd that is reached over ssh.
    ssh: Option<SshState>,
}

/// What is known of a dockerd that is reached over ssh.
#[derive(Debug, Default)]
struct SshState {
    /// Whether it has responded to anything.
    has_responded: AtomicBool,
    /// The stream that was opened last.
    stream: Mutex<StreamFailure>,
}

impl SshState {
    fn stream(&self) -> MutexGuard<'_, StreamFailure> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A complete response.
#[derive(Debug)]
pub(crate) struct ApiResponse {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

impl ApiResponse {
    /// dockerd's error message.
    pub(crate) fn message(&self) -> String {
        #[derive(Deserialize)]
        struct Refusal {
            message: String,
        }
        match serde_json::from_slice::<Refusal>(&self.body) {
            Ok(refusal) => shortened(&refusal.message, MESSAGE_CHARS),
            Err(_) => {
                let text = String::from_utf8_lossy(&self.body);
                // Of a long message only the beginning was read.
                let text = text.trim();
                let text = text.strip_prefix("{\"message\":\"").unwrap_or(text);
                format!("{}: {}", self.status, shortened(text, 500))
            }
        }
    }

    /// Reads a response of up to `bytes`; of a refusal the beginning, and whether that was all. The error is the reason.
    pub(crate) async fn read(response: Response<Incoming>, bytes: usize) -> Result<(Self, bool), String> {
        let (head, mut body) = response.into_parts();
        let status = head.status;
        if !status.is_client_error() && !status.is_server_error() {
            let body = Limited::new(body, bytes).collect().await.map_err(|error| with_causes(&*error))?;
            return Ok((Self { status, body: body.to_bytes() }, true));
        }
        let mut begin = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| with_causes(&error))?;
            let data = frame.data_ref().map(|data| &data[..]).unwrap_or_default();
            let room = REFUSAL_BYTES - begin.len();
            begin.extend_from_slice(&data[..data.len().min(room)]);
            if data.len() > room {
                return Ok((Self { status, body: begin.freeze() }, false));
            }
        }
        Ok((Self { status, body: begin.freeze() }, true))
    }
}

/// At most `chars` characters of a text.
pub(crate) fn shortened(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((end, _)) => format!("{} ...", &text[..end]),
        None => text.to_owned(),
    }
}

impl Api {
    /// dockerd at a unix socket.
    pub(crate) fn new(socket: &Path) -> Self {
        // A unix socket has no TLS, so that there is nothing to read or to check.
        let address = crate::net::Address::Unix(socket.to_owned());
        Self {
            dial: Arc::new(Upstream::plain(address.clone())),
            address: address.to_string(),
            is_tls: false,
            pool: None,
            ssh: None,
        }
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
        let pool = address.socket().is_none().then(Arc::<Pool>::default);
        let ssh = matches!(address, DockerAddress::Ssh(_)).then(SshState::default);
        Ok(Self { dial, address: text, is_tls: address.tls().is_some(), pool, ssh })
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
            Ok(ApiResponse::read(response, MAX_RESPONSE_BYTES).await.map_err(broken)?.0)
        };
        self.within(&operation, limit, exchange).await
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
                return Ok(Err(ApiResponse::read(response, MAX_RESPONSE_BYTES).await.map_err(broken)?.0));
            }
            hyper::upgrade::on(response).await.map(Ok).map_err(|error| broken(error.to_string()))
        };
        self.within(&operation, limit, exchange).await
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
            let (response, is_all) = ApiResponse::read(response, bytes).await.map_err(broken)?;
            if let Some(pool) = self.pool.as_ref().filter(|_| is_all) {
                pool.put(connection);
            }
            Ok(response)
        };
        self.within(&operation, limit, exchange).await
    }

    /// Awaits an exchange for `limit`. Over ssh nothing says how far it came, before the first response; so the login shell there is
    /// not waited for as if it was dockerd at work.
    async fn within<T>(
        &self,
        operation: &str,
        limit: Duration,
        exchange: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        let Some(ssh) = &self.ssh else {
            let late = |_| ApiError::Timeout { operation: operation.to_owned(), after: limit };
            return timeout(limit, exchange).await.map_err(late)?;
        };
        let outcome = if ssh.has_responded.load(Ordering::Relaxed) {
            timeout(limit, exchange).await.map_err(|_| limit)
        } else {
            let is_asking = || ssh.stream().is_asking();
            let first = if limit > RESPONSE_TIMEOUT + NETWORK { limit } else { limit.min(FIRST) };
            with_person(first, is_asking, exchange).await
        };
        outcome.unwrap_or_else(|after| {
            let reason = format!("{operation}: no response within {} s", after.as_secs());
            Err(ApiError::Unreachable { address: self.address.clone(), reason })
        })
    }

    fn limit(&self, limit: Duration) -> Duration {
        if self.pool.is_some() { limit + NETWORK } else { limit }
    }
}
