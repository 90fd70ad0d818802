//! Asking a builder what it is.

use std::error::Error;
use std::pin::pin;
use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1::InfoRequest;
use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use http::Uri;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tonic::Code;
use tower::service_fn;

use crate::config::{Builder, Place};
use crate::proxy::{Address, Dial};

/// How long a builder may take to answer once it is connected. One that is starved by builds is slow, too.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was found of one builder and its door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Probed {
    /// How it is reached.
    pub place: Place,
    /// Where its door listens when the daemon runs.
    pub listen: Address,
    /// Whether somebody listens there now.
    pub door_open: bool,
    /// What it answered.
    pub answer: Answer,
}

/// What a builder answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// It knows Control.Info, which came with BuildKit 0.11, as did the services that a direct export stands on
    /// (BuildKit's `client/client.go` draws the same conclusion). The version can be missing from unofficial builds.
    Version(Option<String>),
    /// It speaks gRPC but does not know Control.Info.
    TooOld,
    /// It cannot be talked to.
    Silent(String),
}

/// Asks the builder, and looks whether its door is open.
pub(super) async fn probe(builder: &Builder) -> Probed {
    Probed {
        place: builder.place.clone(),
        listen: builder.listen.clone(),
        door_open: is_open(&builder.listen).await,
        answer: ask(builder).await.unwrap_or_else(Answer::Silent),
    }
}

/// How often to ask when the connection broke without a reason: a refusal after the handshake races with our first bytes,
/// and the system may drop it together with the connection.
const ATTEMPTS: usize = 5;
/// How reasons end that are none: h2's, our own, and the system's words.
const ENDINGS: [&str; 4] =
    ["broken pipe", "was closed", "Broken pipe (os error 32)", "Connection reset by peer (os error 104)"];

async fn ask(builder: &Builder) -> Result<Answer, String> {
    let dial = builder.dial().map_err(|error| error.to_string())?;
    let mut answer = ask_once(&*dial).await;
    for _ in 1..ATTEMPTS {
        match &answer {
            Err(reason) if ENDINGS.iter().any(|ending| reason.ends_with(ending)) => answer = ask_once(&*dial).await,
            _ => break,
        }
    }
    answer
}

async fn ask_once(dial: &dyn Dial) -> Result<Answer, String> {
    let stream = dial.dial().await.map_err(|error| error.to_string())?;
    tokio::time::timeout(PATIENCE, info(TokioIo::new(stream)))
        .await
        .unwrap_or_else(|_| Err(format!("{} did not answer within {} s", dial.name(), PATIENCE.as_secs())))
}

/// Makes the call on a connection that is driven here and not by a channel: its end, too, is an answer. TLS 1.3 for one
/// refuses a client certificate only after the handshake, and then the call merely says that the connection is gone.
async fn info<T>(stream: T) -> Result<Answer, String>
where
    T: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    let shaken = http2::handshake(TokioExecutor::new(), stream).await;
    let (sender, connection) = shaken.map_err(|error| format!("no HTTP/2 connection: {}", innermost(&error)))?;
    let service = service_fn(move |request| sender.clone().send_request(request));
    let mut client = ControlClient::with_origin(service, Uri::from_static("http://builder"));
    let mut connection = pin!(connection);
    let broken = |error: &(dyn Error + 'static)| format!("the connection broke off: {}", innermost(error));
    let answer = tokio::select! {
        end = &mut connection => {
            return Err(end.map_or_else(|error| broken(&error), |()| "the connection was closed".to_owned()));
        }
        answer = client.info(InfoRequest {}) => answer,
    };
    match answer {
        Ok(answer) => Ok(Answer::Version(version(answer.into_inner().buildkit_version.map(|it| it.version)))),
        Err(status) if status.code() == Code::Unimplemented => Ok(Answer::TooOld),
        Err(status) if status.source().is_some() => {
            // Without it the connection ends; if it has broken already it says why.
            drop(client);
            Err(connection.await.map_or_else(|error| broken(&error), |()| broken(&status)))
        }
        Err(status) => Err(format!("it does not answer as a builder does: {}", status.message())),
    }
}

/// A build without its version linked in says `0.0.0+unknown` (BuildKit's `version/version.go`).
fn version(said: Option<String>) -> Option<String> {
    said.filter(|version| !version.is_empty() && !version.starts_with("0.0.0"))
}

/// The error at the bottom, which says what happened; those above it say where.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// Whether somebody listens at `address`.
pub(super) async fn is_open(address: &Address) -> bool {
    let attempt = async {
        match address {
            Address::Unix(path) => UnixStream::connect(path).await.is_ok(),
            Address::Tcp { host, port } => tokio::net::TcpStream::connect((host.as_str(), *port)).await.is_ok(),
        }
    };
    tokio::time::timeout(PATIENCE, attempt).await.unwrap_or(false)
}

#[cfg(test)]
mod tests;
