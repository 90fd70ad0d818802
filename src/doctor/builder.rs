//! Requests the version of a builder.

use std::error::Error;
use std::pin::pin;
use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use bollard_buildkit_proto::moby::buildkit::v1::{InfoRequest, ListWorkersRequest};
use http::Uri;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tonic::{Code, Status};
use tower::service_fn;

use crate::net::Dial;

/// The time limit for connecting to a builder, and again for its response: a busy builder is slow.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The response of a builder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BuilderProbe {
    /// It has Control.Info, which came with BuildKit 0.11, as did the services that a direct export needs (BuildKit's
    /// `client/client.go` concludes the same). Unofficial builds may have no version.
    Version(Option<String>),
    /// It is a builder without Control.Info.
    TooOld,
    /// It speaks HTTP/2 and is no builder.
    NoBuilder,
    /// It cannot be reached, or does not respond.
    Unreachable(String),
}

/// How often to try when the connection breaks without a reason: a TLS alert after the handshake races with our first bytes,
/// and the system may drop it together with the connection.
const ATTEMPTS: usize = 5;
/// The ends of reasons that explain nothing: h2's, our own, and the system's.
const ENDINGS: [&str; 4] =
    ["broken pipe", "was closed", "Broken pipe (os error 32)", "Connection reset by peer (os error 104)"];

/// What the message of a door begins with, where the builder itself did not respond.
const OURS: &str = "linkspan: ";

/// Probes the builder behind `dial`.
pub(super) async fn probe(dial: &dyn Dial) -> BuilderProbe {
    let mut outcome = probe_once(dial).await;
    for _ in 1..ATTEMPTS {
        match &outcome {
            Err(reason) if ENDINGS.iter().any(|ending| reason.ends_with(ending)) => outcome = probe_once(dial).await,
            _ => break,
        }
    }
    outcome.unwrap_or_else(BuilderProbe::Unreachable)
}

async fn probe_once(dial: &dyn Dial) -> Result<BuilderProbe, String> {
    let late = |what: &str| format!("{} did not {what} within {} s", dial.name(), TIMEOUT.as_secs());
    let stream = tokio::time::timeout(TIMEOUT, dial.dial()).await.map_err(|_| late("connect"))?;
    let stream = TokioIo::new(stream.map_err(|error| error.to_string())?);
    tokio::time::timeout(TIMEOUT, info(stream)).await.unwrap_or_else(|_| Err(late("respond")))
}

/// Makes the calls on a connection that is driven here instead of by a channel, because the error that ends it matters: with
/// TLS 1.3 a client certificate is refused after the handshake, and the call then only reports a closed connection.
async fn info<T>(stream: T) -> Result<BuilderProbe, String>
where
    T: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    let shaken = http2::handshake(TokioExecutor::new(), stream).await;
    let (sender, connection) = shaken.map_err(|error| format!("no HTTP/2 connection: {}", innermost(&error)))?;
    let service = service_fn(move |request| sender.clone().send_request(request));
    let mut client = ControlClient::with_origin(service, Uri::from_static("http://builder"));
    let mut connection = pin!(connection);
    let broken = |error: &(dyn Error + 'static)| format!("the connection broke off: {}", innermost(error));
    let calls = async {
        match client.info(InfoRequest {}).await {
            // A server that is no builder responds the same; every BuildKit has the list of workers.
            Err(status) if is_unknown(&status) => match client.list_workers(ListWorkersRequest::default()).await {
                Ok(_) => Ok(BuilderProbe::TooOld),
                Err(status) if is_unknown(&status) => Ok(BuilderProbe::NoBuilder),
                Err(status) => Err(status),
            },
            Ok(response) => {
                Ok(BuilderProbe::Version(version(response.into_inner().buildkit_version.map(|it| it.version))))
            }
            Err(status) => Err(status),
        }
    };
    let response = tokio::select! {
        end = &mut connection => {
            return Err(end.map_or_else(|error| broken(&error), |()| "the connection was closed".to_owned()));
        }
        response = calls => response,
    };
    match response {
        Ok(response) => Ok(response),
        Err(status) if status.source().is_some() => {
            // The connection ends without its sender; if it broke before, the error is returned.
            drop(client);
            Err(connection.await.map_or_else(|error| broken(&error), |()| broken(&status)))
        }
        Err(status) => Err(match status.message().strip_prefix(OURS) {
            // The door's own words, of the builder behind it.
            Some(reason) => reason.to_owned(),
            None => format!("it does not respond as a builder does: {}", status.message()),
        }),
    }
}

/// Whether a server lacks the call, or does not speak gRPC: its response has no status, so that tonic infers one from HTTP's
/// (its `status.rs`, `infer_grpc_status`), or its body is no message (`codec/decode.rs`).
fn is_unknown(status: &Status) -> bool {
    const NOT_GRPC: [&str; 2] = ["grpc-status header missing", "invalid compression flag"];
    status.code() == Code::Unimplemented || NOT_GRPC.iter().any(|words| status.message().contains(words))
}

/// The version of a build without one is `0.0.0+unknown` (BuildKit's `version/version.go`).
fn version(reported: Option<String>) -> Option<String> {
    reported.filter(|version| !version.is_empty() && !version.starts_with("0.0.0"))
}

/// The innermost error, which is the cause.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests;
