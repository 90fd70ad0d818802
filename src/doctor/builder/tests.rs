//! Probes of simulated builders: every response, and none.

use bollard_buildkit_proto::moby::buildkit::v1::InfoResponse;
use bollard_buildkit_proto::moby::buildkit::v1::types::BuildkitVersion;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response};
use prost::Message;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::http2::{Body, full, serve, with_trailers};
use crate::net::{Address, Upstream};

/// A builder's socket, and what leads to it.
fn listen() -> (TempDir, UnixListener, Upstream) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("buildkitd.sock");
    let listener = UnixListener::bind(&path).unwrap();
    (folder, listener, Upstream::new(Address::Unix(path), None).unwrap())
}

/// What is found of a builder that responds to calls like this, each by its name.
async fn found(respond: impl Fn(&str) -> Response<Body> + Send + Sync + 'static) -> BuilderProbe {
    let (_folder, listener, builder) = listen();
    let server = async {
        let (stream, _) = listener.accept().await.unwrap();
        let respond = &respond;
        let handler = move |request: http::Request<_>| {
            let response = respond(request.uri().path().rsplit('/').next().unwrap());
            async move { Ok(response) }
        };
        serve(stream, CancellationToken::new(), handler).await
    };
    let (found, served) = tokio::join!(probe(&builder), server);
    served.unwrap();
    found
}

fn grpc() -> http::response::Builder {
    Response::builder().header("content-type", "application/grpc")
}

fn version_response(version: &str) -> Response<Body> {
    let version = BuildkitVersion { version: version.to_owned(), ..BuildkitVersion::default() };
    let message = InfoResponse { buildkit_version: Some(version) }.encode_to_vec();
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap());
    frame.put_slice(&message);
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))]);
    grpc().body(with_trailers(frame.freeze(), Some(trailers))).unwrap()
}

fn refuses(code: &'static str, message: &'static str) -> Response<Body> {
    grpc().header("grpc-status", code).header("grpc-message", message).body(full(Bytes::new())).unwrap()
}

const UNKNOWN_CALL: &str = "unknown method Info for service moby.buildkit.v1.Control";
const UNKNOWN_SERVICE: &str = "unknown service moby.buildkit.v1.Control";

#[tokio::test]
async fn a_builder_that_reports_its_version() {
    assert_eq!(found(|_| version_response("v0.32.2")).await, BuilderProbe::Version(Some("v0.32.2".to_owned())));
    assert_eq!(found(|_| version_response("0.0.0+unknown")).await, BuilderProbe::Version(None));
    assert_eq!(found(|_| version_response("")).await, BuilderProbe::Version(None));
}

#[tokio::test]
async fn a_builder_without_the_call_is_too_old() {
    let found = found(|call| if call == "Info" { refuses("12", UNKNOWN_CALL) } else { version_response("") }).await;
    assert_eq!(found, BuilderProbe::TooOld);
}

#[tokio::test]
async fn a_server_that_is_no_builder_is_called_that() {
    assert_eq!(found(|_| refuses("12", UNKNOWN_SERVICE)).await, BuilderProbe::NoBuilder);
    for status in [404, 405, 400, 200] {
        let page = move |_: &str| {
            let page = Response::builder().status(status).header("content-type", "text/html");
            page.body(full(Bytes::from_static(b"<html>"))).unwrap()
        };
        assert_eq!(found(page).await, BuilderProbe::NoBuilder, "{status}");
    }
}

#[tokio::test]
async fn a_refusal_is_passed_on() {
    let BuilderProbe::Unreachable(reason) = found(|_| refuses("7", "not you")).await else { panic!("it refused") };
    assert_eq!(reason, "it does not respond as a builder does: not you");

    // What the door says of the builder behind it.
    let BuilderProbe::Unreachable(reason) = found(|_| refuses("14", "linkspan: cannot connect to unix:///b")).await
    else {
        panic!("it refused")
    };
    assert_eq!(reason, "cannot connect to unix:///b");
}

#[tokio::test]
async fn a_closed_socket_is_silent() {
    let (_folder, listener, builder) = listen();
    drop(listener);
    let BuilderProbe::Unreachable(reason) = probe(&builder).await else { panic!("nothing listens") };
    assert!(reason.contains("Connection refused"), "{reason}");
}

#[tokio::test]
async fn another_server_is_no_builder() {
    let (_folder, listener, builder) = listen();
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await.unwrap();
        // Its end, when the client gives up, is what is waited for; how it comes does not matter.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    };
    let (found, ()) = tokio::join!(probe(&builder), server);
    assert!(matches!(found, BuilderProbe::Unreachable(_)), "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn one_that_never_responds_is_given_up() {
    let (_folder, _listener, builder) = listen();
    let BuilderProbe::Unreachable(reason) = probe(&builder).await else { panic!("it said nothing") };
    assert!(reason.ends_with("did not respond within 5 s"), "{reason}");
}
