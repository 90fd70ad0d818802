//! Asking a builder what it is.

use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1::InfoRequest;
use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::Code;
use tonic::transport::{Endpoint, Uri};
use tower::service_fn;

use crate::config::Builder;
use crate::proxy::{Address, Upstream};

/// How long a builder may take to answer once it is connected. One that is starved by builds is slow, too.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was found of one builder and its door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// How it is reached.
    pub address: Address,
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
pub(super) async fn probe(builder: &Builder) -> Found {
    Found {
        address: builder.address.clone(),
        listen: builder.listen.clone(),
        door_open: is_open(&builder.listen).await,
        answer: ask(builder).await.unwrap_or_else(Answer::Silent),
    }
}

async fn ask(builder: &Builder) -> Result<Answer, String> {
    let upstream = Upstream::new(builder.address.clone(), builder.tls.as_ref()).map_err(|error| error.to_string())?;
    let stream = upstream.connect().await.map_err(|error| error.to_string())?;
    tokio::time::timeout(PATIENCE, info(TokioIo::new(stream)))
        .await
        .unwrap_or_else(|_| Err(format!("{} did not answer within {} s", builder.address, PATIENCE.as_secs())))
}

async fn info<T>(stream: TokioIo<T>) -> Result<Answer, String>
where
    TokioIo<T>: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    let mut stream = Some(stream);
    // Used once: a lost connection is an answer, too.
    let connect = service_fn(move |_: Uri| {
        let stream = stream.take().ok_or_else(|| std::io::Error::other("the connection is lost"));
        std::future::ready(stream)
    });
    let channel = Endpoint::from_static("http://builder").connect_with_connector(connect).await;
    let channel = channel.map_err(|error| format!("it does not speak HTTP/2: {}", innermost(&error)))?;
    match ControlClient::new(channel).info(InfoRequest {}).await {
        Ok(answer) => Ok(Answer::Version(version(answer.into_inner().buildkit_version.map(|it| it.version)))),
        Err(status) if status.code() == Code::Unimplemented => Ok(Answer::TooOld),
        Err(status) => Err(format!("it does not answer as a builder does: {}", status.message())),
    }
}

/// A build without its version linked in says `0.0.0+unknown` (BuildKit's `version/version.go`).
fn version(said: Option<String>) -> Option<String> {
    said.filter(|version| !version.is_empty() && !version.starts_with("0.0.0"))
}

/// The error at the bottom, which says what happened; those above it say where.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |error| error.source()).last().unwrap_or(error).to_string()
}

async fn is_open(address: &Address) -> bool {
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
