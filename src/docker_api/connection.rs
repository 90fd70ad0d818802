//! Connections to dockerd, and why they fail.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::early_response::EarlyResponseStream;
use super::{Api, ApiError};
use crate::net::{ENGINES, EndReason, Stream, StreamFailure, with_causes};
use crate::trace_context;

/// The time limit for connecting to a socket of this machine, or for starting a connection to another one.
const CONNECT: Duration = Duration::from_secs(15);
/// What is said of a connection that ended without a reason, in the words of the system and of hyper.
const UNEXPLAINED: [&str; 5] = ["reset by peer", "broken pipe", "connection closed", "was closed", "end of file"];
/// What else that may be where there is TLS.
const NO_ALERT: &str = "; engines end a connection like that, too, if they take no certificate of the client";

/// The body of a request.
pub(super) type RequestBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// A connection for one request at a time.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) sender: SendRequest<RequestBody>,
    pub(super) running: Streaming,
    reason: EndReason,
    /// Why its stream ended, if a program says so.
    failure: StreamFailure,
}

/// The connection of a running request. Dropping it aborts the request.
#[derive(Debug)]
pub(crate) struct Streaming(#[expect(dead_code, reason = "held for what its end does")] AbortOnDropHandle<()>);

impl Api {
    /// Sends a request on a connection that waits for one, or else on a new one.
    pub(super) async fn exchange<B>(&self, request: Request<B>) -> Result<Exchange, ApiError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut request = request.map(boxed);
        trace_context::inject(request.headers_mut());
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
            Ok(response) => {
                if let Some(ssh) = &self.ssh {
                    ssh.has_responded.store(true, Ordering::Relaxed);
                }
                Ok(Exchange { response, connection })
            }
            Err(error) => Err(self.broken(connection, &error).await),
        }
    }

    /// The error for a request that failed. If the connection ended before it took the request, as after an alert of TLS,
    /// only the connection's task knows why; if its stream is a program's, hyper may have lost what that said.
    pub(super) async fn broken(&self, connection: Connection, error: &hyper::Error) -> ApiError {
        let Connection { sender, running: _running, reason, failure } = connection;
        drop(sender);
        let ended = if error.is_canceled() { reason.get().await } else { None };
        match failure.reason().or(ended) {
            Some(reason) => self.without_response(reason),
            None => self.unreachable(error),
        }
    }

    pub(super) async fn open(&self) -> Result<Connection, ApiError> {
        let (stream, failure) = self.dial().await?;
        let stream = EarlyResponseStream::new(stream);
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.unreachable(&error))?;
        let (reason, driven) = EndReason::of(self.address.clone(), connection.with_upgrades());
        let running = Streaming(AbortOnDropHandle::new(tokio::spawn(driven)));
        Ok(Connection { sender, running, reason, failure })
    }

    pub(super) async fn connect(&self) -> Result<Box<dyn Stream>, ApiError> {
        Ok(self.dial().await?.0)
    }

    async fn dial(&self) -> Result<(Box<dyn Stream>, StreamFailure), ApiError> {
        match timeout(CONNECT.max(self.limit(Duration::ZERO)), self.dial.dial_with_failure()).await {
            Ok(Ok((stream, failure))) => {
                if let Some(ssh) = &self.ssh {
                    *ssh.stream() = failure.clone();
                }
                Ok((Box::new(ENGINES.count(stream)), failure))
            }
            Ok(Err(error)) if is_forbidden(&*error) => Err(ApiError::Permission { address: self.address.clone() }),
            Ok(Err(error)) => Err(self.unreachable(&*error)),
            Err(_) => Err(self.unreachable(&io::Error::from(io::ErrorKind::TimedOut))),
        }
    }

    /// The error for a connection that dockerd closed or broke, with its causes: hyper's own texts are short.
    pub(crate) fn unreachable(&self, error: &(dyn std::error::Error + 'static)) -> ApiError {
        self.without_response(with_causes(error))
    }

    pub(crate) fn without_response(&self, mut reason: String) -> ApiError {
        // The alert of TLS that says why comes with the end of the connection, and the system drops it when it is reset.
        if self.is_tls && UNEXPLAINED.iter().any(|words| reason.to_lowercase().contains(words)) {
            reason.push_str(NO_ALERT);
        }
        ApiError::Unreachable { address: self.address.clone(), reason }
    }
}

/// A response, and the connection that it comes from.
pub(super) struct Exchange {
    pub(super) response: Response<Incoming>,
    pub(super) connection: Connection,
}

pub(super) fn boxed<B>(body: B) -> RequestBody
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    body.map_err(Into::into).boxed_unsync()
}

/// Whether the system let nobody connect.
fn is_forbidden(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.any(|error| {
        error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    })
}
