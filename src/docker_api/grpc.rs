//! The gRPC services on dockerd's socket: those of its BuildKit, and its content store, which can only be read.
//!
//! dockerd 29.2 and later take HTTP/2 on a socket without TLS right away (moby `daemon/command/daemon.go`); older ones, and
//! listeners with TLS, let `POST /grpc` be upgraded to it.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::{Api, ApiError, ApiResponse};

/// HTTP/2 windows for what dockerd sends us: many responses at once, and content.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// The two ways to dockerd's gRPC services. Connections are made at the first call, and again when they were lost.
#[derive(Debug)]
pub(crate) struct Grpc {
    api: Arc<Api>,
    direct: Channel,
    upgraded: Channel,
    /// Which of them worked last.
    prefer_upgraded: AtomicBool,
}

impl Grpc {
    /// The services of the dockerd behind `api`.
    pub(crate) fn new(api: Arc<Api>) -> Self {
        let (direct, upgraded) = (dial(api.clone()), dial_upgraded(api.clone()));
        Self { api, direct, upgraded, prefer_upgraded: AtomicBool::new(false) }
    }

    /// The same over connections of their own, whose windows nobody else needs.
    pub(crate) fn apart(&self) -> Self {
        let apart = Self::new(self.api.clone());
        apart.prefer_upgraded.store(self.prefer_upgraded.load(Ordering::Relaxed), Ordering::Relaxed);
        apart
    }

    /// dockerd's HTTP API on the same socket.
    pub(crate) fn api(&self) -> &Arc<Api> {
        &self.api
    }

    /// Makes a call the way that worked last, and the other way if that is not how this dockerd speaks gRPC: it may have
    /// been replaced by an older or a newer one. `call` is made twice at most.
    pub(crate) async fn call<T, F>(&self, call: impl Fn(Channel) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let upgraded_first = self.prefer_upgraded.load(Ordering::Relaxed);
        let failed = match call(self.channel(upgraded_first)).await {
            Err(status) if is_other_way(&status) => status,
            outcome => return outcome,
        };
        match call(self.channel(!upgraded_first)).await {
            // What the preferred way says is the better reason, unless who responds offers neither.
            Err(status) if is_other_way(&status) => {
                let refused = refusal(&failed).or_else(|| refusal(&status));
                Err(refused.map_or(failed, |refused| Status::from_error(Box::new(refused))))
            }
            outcome => {
                self.prefer_upgraded.store(!upgraded_first, Ordering::Relaxed);
                outcome
            }
        }
    }

    fn channel(&self, upgraded: bool) -> Channel {
        if upgraded { self.upgraded.clone() } else { self.direct.clone() }
    }
}

/// Whether a status may mean that dockerd does not speak gRPC this way: the connection failed, which only a status that was
/// made on this side says by its source, or what responded is no gRPC server.
fn is_other_way(status: &Status) -> bool {
    use std::error::Error as _;
    // The codes that statuses of HTTP become.
    let is_http = matches!(status.code(), Code::Unimplemented | Code::Unknown | Code::Internal | Code::Unavailable);
    is_http || status.source().is_some()
}

/// Who responds speaks HTTP/1 alone.
#[derive(Debug, Clone, thiserror::Error)]
#[error("it takes neither HTTP/2 nor an upgrade to it by `POST /grpc` ({0}), so that its content store cannot be read")]
pub(crate) struct OnlyHttp1(String);

/// The refusal of an upgrade, if that is why a call failed.
fn refusal(status: &Status) -> Option<OnlyHttp1> {
    use std::error::Error as _;
    let causes = std::iter::successors(status.source(), |error| (**error).source());
    let mut errors = causes.filter_map(|error| error.downcast_ref::<io::Error>()?.get_ref());
    errors.find_map(|error| error.downcast_ref::<OnlyHttp1>()).cloned()
}

fn endpoint() -> Endpoint {
    // The socket has no authority of its own; any valid one will do.
    Endpoint::from_static("http://localhost")
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
}

/// HTTP/2 right away.
fn dial(api: Arc<Api>) -> Channel {
    endpoint().connect_with_connector_lazy(tower::service_fn(move |_| {
        let api = api.clone();
        async move { Ok::<_, io::Error>(TokioIo::new(api.connect().await.map_err(as_io)?)) }
    }))
}

/// HTTP/2 after an upgrade of `POST /grpc`.
fn dial_upgraded(api: Arc<Api>) -> Channel {
    endpoint().connect_with_connector_lazy(tower::service_fn(move |_| {
        let api = api.clone();
        // Already an implementation of hyper's I/O traits, which is what tonic asks of a connector.
        async move {
            let refused = |response: ApiResponse| {
                let ApiResponse { status, .. } = response;
                let message = response.message();
                let reason =
                    if message.starts_with(status.as_str()) { message } else { format!("{status}: {message}") };
                io::Error::other(OnlyHttp1(reason))
            };
            api.upgrade("/grpc", "h2c", Bytes::new()).await.map_err(as_io)?.map_err(refused)
        }
    }))
}

/// The error of a connector: gRPC statuses have it as their source.
fn as_io(error: ApiError) -> io::Error {
    let kind =
        if matches!(error, ApiError::Permission { .. }) { ErrorKind::PermissionDenied } else { ErrorKind::Other };
    io::Error::new(kind, error)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn both_ways_are_tried_and_the_one_that_works_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("docker.sock");
        let _socket = UnixListener::bind(&path).unwrap();
        let grpc = Grpc::new(Arc::new(Api::new(&path)));
        let tries = std::sync::Mutex::new(0);
        let outcome = grpc
            .call(|_| {
                *tries.lock().unwrap() += 1;
                let is_first = *tries.lock().unwrap() == 1;
                async move { if is_first { Err(Status::unimplemented("no gRPC here")) } else { Ok(()) } }
            })
            .await;
        assert!(outcome.is_ok() && grpc.prefer_upgraded.load(Ordering::Relaxed) && *tries.lock().unwrap() == 2);
        assert!(grpc.apart().prefer_upgraded.load(Ordering::Relaxed), "a connection of its own goes the same way");

        // What dockerd says of a blob is its response, whichever way it came.
        let status = grpc.call(|_| async { Err::<(), _>(Status::not_found("no such blob")) }).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
        assert!(grpc.prefer_upgraded.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn neither_way_is_an_error_with_the_reason() {
        use std::error::Error as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("docker.sock");
        let socket = UnixListener::bind(&path).unwrap();
        let server = tokio::spawn(async move {
            loop {
                let (mut stream, _) = socket.accept().await.unwrap();
                let mut request = [0; 1024];
                let count = stream.read(&mut request).await.unwrap_or_default();
                // HTTP/2 it does not know, as a proxy of HTTP/1.
                if request[..count].starts_with(b"PRI ") {
                    continue;
                }
                let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}").await;
            }
        });
        let grpc = Grpc::new(Arc::new(Api::new(&path)));
        let call = |channel: Channel| async move {
            let mut client = containerd_client::services::v1::content_client::ContentClient::new(channel);
            client.info(containerd_client::services::v1::InfoRequest { digest: String::new() }).await.map(|_| ())
        };
        let limit = std::time::Duration::from_secs(20);
        let status = tokio::time::timeout(limit, grpc.call(call)).await.unwrap().unwrap_err();
        let refused = status.source().and_then(|source| source.downcast_ref::<OnlyHttp1>()).unwrap();
        assert!(refused.to_string().contains("404 Not Found"), "{refused}");
        server.abort();
    }
}
