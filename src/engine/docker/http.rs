//! dockerd's HTTP API over its socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::engine::EngineError;

/// How long a connection may take to come up.
const CONNECT: Duration = Duration::from_secs(5);
/// The largest answer that is read whole.
const ANSWER_BYTES: usize = 4 << 20;

/// dockerd's API. Paths carry no version: dockerd then speaks its newest, in every release
/// (moby `daemon/server/middleware/version.go`).
#[derive(Debug)]
pub(crate) struct Api {
    socket: PathBuf,
    address: String,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

impl Answer {
    /// What dockerd says went wrong.
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

    pub(crate) async fn get(&self, path: &str) -> Result<Answer, EngineError> {
        let request = Request::builder().method(Method::GET).uri(path).body(Full::default());
        self.whole(path, request, Duration::from_secs(30)).await
    }

    /// POSTs without a body.
    pub(crate) async fn post(&self, path: &str) -> Result<Answer, EngineError> {
        let request = Request::builder().method(Method::POST).uri(path).body(Full::default());
        self.whole(path, request, Duration::from_secs(30)).await
    }

    /// POSTs `body` and waits at most `limit` for the end of the answer.
    pub(crate) async fn send(
        &self,
        path: &str,
        content_type: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<Answer, EngineError> {
        let request =
            Request::builder().method(Method::POST).uri(path).header(CONTENT_TYPE, content_type).body(Full::new(body));
        self.whole(path, request, limit).await
    }

    async fn whole(
        &self,
        path: &str,
        request: Result<Request<Full<Bytes>>, http::Error>,
        limit: Duration,
    ) -> Result<Answer, EngineError> {
        let operation = format!("asking docker for {path}");
        let broken = |reason: String| EngineError::Protocol { operation: operation.clone(), reason };
        let mut request = request.map_err(|error| broken(error.to_string()))?;
        request.headers_mut().insert(HOST, http::HeaderValue::from_static("docker"));
        let exchange = async {
            let (status, body) = self.exchange(request).await?.into_parts();
            let body = Limited::new(body, ANSWER_BYTES).collect().await.map_err(|error| broken(error.to_string()))?;
            Ok(Answer { status: status.status, body: body.to_bytes() })
        };
        match timeout(limit, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => Err(EngineError::Timeout { operation, after: limit }),
        }
    }

    /// One request on a connection of its own: on a unix socket that costs less than keeping one alive through
    /// dockerd's restarts.
    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, EngineError> {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(self.connect().await?)).await.map_err(|error| self.unreachable(error))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to docker ended");
            }
        });
        sender.send_request(request).await.map_err(|error| self.unreachable(error))
    }

    async fn connect(&self) -> Result<UnixStream, EngineError> {
        match timeout(CONNECT, UnixStream::connect(&self.socket)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(EngineError::Permission { engine: "docker", address: self.address.clone() })
            }
            Ok(Err(error)) => Err(self.unreachable(error)),
            Err(_) => Err(self.unreachable(io::Error::from(io::ErrorKind::TimedOut))),
        }
    }

    fn unreachable(&self, error: impl std::error::Error) -> EngineError {
        EngineError::Unreachable { engine: "docker", address: self.address.clone(), reason: error.to_string() }
    }
}
