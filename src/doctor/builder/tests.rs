//! Builders of every age and mood, without BuildKit.

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
use crate::proxy::{Body, full, serve, with_trailers};

/// A builder's socket, and the configuration that names it.
fn listen() -> (TempDir, UnixListener, Builder) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("buildkitd.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let (address, listen) = (Address::Unix(path), Address::Unix(folder.path().join("door.sock")));
    (folder, listener, Builder { place: address.into(), tls: None, listen, plain_is_load: false })
}

/// What is found of a builder that gives this answer to every call.
async fn found(answer: impl Fn() -> Response<Body> + Send + Sync + 'static) -> Probed {
    let (_folder, listener, builder) = listen();
    let server = async {
        let (stream, _) = listener.accept().await.unwrap();
        let answer = &answer;
        let handler = move |request: http::Request<_>| {
            assert_eq!(request.uri().path(), "/moby.buildkit.v1.Control/Info");
            let answer = answer();
            async move { Ok(answer) }
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

fn says(version: &str) -> Response<Body> {
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

#[tokio::test]
async fn a_builder_that_says_its_version() {
    assert_eq!(found(|| says("v0.32.2")).await.answer, Answer::Version(Some("v0.32.2".to_owned())));
    assert_eq!(found(|| says("0.0.0+unknown")).await.answer, Answer::Version(None));
    assert_eq!(found(|| says("")).await.answer, Answer::Version(None));
}

#[tokio::test]
async fn a_builder_without_the_call_is_too_old() {
    let found = found(|| refuses("12", "unknown method Info for service moby.buildkit.v1.Control")).await;
    assert_eq!(found.answer, Answer::TooOld);
}

#[tokio::test]
async fn a_refusal_is_passed_on() {
    let Answer::Silent(reason) = found(|| refuses("7", "not you")).await.answer else { panic!("it refused") };
    assert_eq!(reason, "it does not answer as a builder does: not you");
}

#[tokio::test]
async fn nobody_there() {
    let (_folder, listener, builder) = listen();
    drop(listener);
    let found = probe(&builder).await;
    let Answer::Silent(reason) = found.answer else { panic!("nobody is there") };
    assert!(reason.contains("Connection refused"), "{reason}");
    assert!(!found.door_open);
}

#[tokio::test]
async fn something_else_there() {
    let (_folder, listener, builder) = listen();
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await.unwrap();
        // Its end, when the client gives up, is what is waited for; how it comes does not matter.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    };
    let (found, ()) = tokio::join!(probe(&builder), server);
    assert!(matches!(found.answer, Answer::Silent(_)), "{:?}", found.answer);
}

#[tokio::test(start_paused = true)]
async fn one_that_never_answers_is_given_up() {
    let (_folder, _listener, builder) = listen();
    let Answer::Silent(reason) = probe(&builder).await.answer else { panic!("it said nothing") };
    assert!(reason.ends_with("did not answer within 5 s"), "{reason}");
}

#[tokio::test]
async fn an_open_door_is_seen() {
    let (folder, listener, builder) = listen();
    drop(listener);
    let _door = UnixListener::bind(folder.path().join("door.sock")).unwrap();
    assert!(probe(&builder).await.door_open);
}

#[tokio::test]
async fn wrong_tls_settings_are_named() {
    let (_folder, _listener, mut builder) = listen();
    builder.place = "tcp://127.0.0.1:1".parse::<Address>().unwrap().into();
    builder.tls = Some(crate::proxy::Tls { ca: Some("/nonexistent/ca.pem".into()), ..Default::default() });
    let Answer::Silent(reason) = probe(&builder).await.answer else { panic!("there is no such file") };
    assert!(reason.contains("/nonexistent/ca.pem"), "{reason}");
}
