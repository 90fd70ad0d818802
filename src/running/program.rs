//! Which other program serves a socket.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Uri, header};
use http_body_util::{Empty, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::probe::connect;
use crate::net::Address;

/// The time limit for one question.
const TIMEOUT: Duration = Duration::from_secs(2);
/// A call of each gRPC server: dockerd serves BuildKit's as well.
const CALLS: [(&str, &str); 2] = [
    ("containerd", "/containerd.services.version.v1.Version/Version"),
    ("buildkitd", "/moby.buildkit.v1.Control/Info"),
];
/// An empty message of gRPC: no compression, no length.
const EMPTY_MESSAGE: Bytes = Bytes::from_static(&[0; 5]);
/// gRPC's code for a method that is not served (`UNIMPLEMENTED`).
const UNIMPLEMENTED: &str = "12";

/// The name of the program that listens at `address`, if it is one of those that Linkspan works with.
pub async fn program(address: &Address) -> Option<&'static str> {
    if timeout(TIMEOUT, is_dockerd(address)).await.ok().flatten().is_some() {
        return Some("dockerd");
    }
    for (name, call) in CALLS {
        if timeout(TIMEOUT, is_served(address, call)).await.ok().flatten() == Some(true) {
            return Some(name);
        }
    }
    None
}

/// Whether dockerd's HTTP API responds (moby `api/swagger.yaml`, `/_ping`).
async fn is_dockerd(address: &Address) -> Option<()> {
    let stream = TokioIo::new(connect(address).await.ok()?);
    let (mut sender, connection) = http1::handshake(stream).await.ok()?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::get("/_ping").header(header::HOST, "docker").header(header::CONNECTION, "close");
    let response = sender.send_request(request.body(Empty::<Bytes>::new()).ok()?).await.ok()?;
    response.headers().contains_key("docker-experimental").then_some(())
}

/// Whether a gRPC server has a method.
async fn is_served(address: &Address, path: &str) -> Option<bool> {
    let stream = TokioIo::new(connect(address).await.ok()?);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.ok()?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let uri = Uri::builder().scheme("http").authority("localhost").path_and_query(path).build().ok()?;
    let request = Request::builder().method(Method::POST).uri(uri);
    let request = request.header(header::CONTENT_TYPE, "application/grpc").header(header::TE, "trailers");
    let response = sender.send_request(request.body(Full::new(EMPTY_MESSAGE)).ok()?).await.ok()?;
    let is_grpc = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    // What is not served is refused without a message: then the status is among the headers.
    Some(is_grpc && response.headers().get("grpc-status").is_none_or(|status| status != UNIMPLEMENTED))
}
