//! Sessions over real HTTP/2 on all sides, held, passed and split.

mod rig;

use http_body::Frame;
use http_body_util::StreamBody;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;

use self::rig::{InputEnd, Rig, reason, well};
use super::*;
use crate::http2::{UpstreamConnection, full, serve, with_trailers};

const AUTH: &str = "/moby.filesync.v1.Auth/Credentials";
const WRITE: &str = "/containerd.services.content.v1.Content/Write";
const STORE: &str = "buildkit-attachable-store-id";

/// What becomes of a session in a test, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// The door has no content of its own.
    Forwarded,
    FilesOnly,
    Bytes,
    Split,
    SplitBefore,
    /// No build comes.
    Late,
}

const ALL: [How; 6] = [How::Forwarded, How::FilesOnly, How::Bytes, How::Split, How::SplitBefore, How::Late];

impl How {
    fn is_split(self) -> bool {
        matches!(self, Self::Split | Self::SplitBefore | Self::Late)
    }
}

struct Opened {
    rig: Rig,
    /// The builder's connection inside the session.
    builder: UpstreamConnection,
    builder_output: super::pipe::Pipe,
    builder_input: InputEnd,
    client_output: super::pipe::Pipe,
    client_input: InputEnd,
    /// Ends with the client's HTTP/2.
    served: tokio::task::JoinHandle<Result<(), hyper::Error>>,
}

/// A session in which the client responds as [`respond`] does.
async fn session(how: How) -> Opened {
    let rig = Rig::new(how != How::Forwarded).await;
    if how == How::SplitBefore {
        assert!(rig.sessions.decide("s", true));
    }
    let methods = if how == How::FilesOnly { &["/moby.FileSync.v1.FileSync/DiffCopy"][..] } else { &[AUTH] };
    let (client, builder) = rig.open("s", methods).await;
    match how {
        How::Forwarded => assert!(!rig.sessions.decide("s", true)),
        How::FilesOnly => assert!(!rig.sessions.decide("s", true)),
        How::Bytes => assert!(!rig.sessions.decide("s", false)),
        How::Split => assert!(rig.sessions.decide("s", true)),
        How::SplitBefore | How::Late => {}
    }
    let (builder_output, client_output) = (builder.output.clone(), client.output.clone());
    let ((client, client_input), (builder, builder_input)) = (client.stream(), builder.stream());
    let served = tokio::spawn(serve(client, CancellationToken::new(), |request| async { Ok(respond(request).await) }));
    let builder = UpstreamConnection::inside(builder).await.unwrap();
    Opened { rig, builder, builder_output, builder_input, client_output, client_input, served }
}

/// The client's services.
async fn respond(request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let mut seen: Vec<_> = parts.headers.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    seen.sort();
    let seen = format!("{} {} {seen:?}", parts.method, parts.uri);
    match parts.uri.path() {
        "/echo" => {
            let trailers = HeaderMap::from_iter([("x-end".parse().unwrap(), "of it".parse().unwrap())]);
            let end = futures_util::stream::once(async { Ok(Frame::trailers(trailers)) });
            let frames = http_body_util::BodyStream::new(body.map_err(BodyError::from));
            Response::new(
                StreamBody::new(frames.filter(|frame| !frame.as_ref().is_ok_and(Frame::is_trailers)).chain(end))
                    .boxed_unsync(),
            )
        }
        "/status" => Response::builder().header("grpc-status", "5").body(full("".into())).unwrap(),
        "/refuse" => {
            let error: BodyError = Box::new(h2::Error::from(h2::Reason::REFUSED_STREAM));
            let frames = [Ok(Frame::data("some".into())), Err(error)];
            Response::new(StreamBody::new(tokio_stream::iter(frames)).boxed_unsync())
        }
        "/drop" => {
            // Whatever the caller does, this records how the request ended.
            let ended = body.collect().await.err().and_then(|error| reason(&error));
            ENDED.lock().unwrap().push(ended);
            Response::new(full("".into()))
        }
        "/stall" => std::future::pending().await,
        "/large" => {
            let length: usize = parts.headers["x-length"].to_str().unwrap().parse().unwrap();
            let chunk = bytes::Bytes::from(vec![3; 1 << 20]);
            let frames = (0..length).map(move |_| Ok(Frame::data(chunk.clone())));
            Response::new(StreamBody::new(tokio_stream::iter(frames)).boxed_unsync())
        }
        _ => {
            let length = body.collect().await.map_or(0, |body| body.to_bytes().len());
            let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
            let mut response = Response::new(with_trailers(format!("{seen} {length}").into(), Some(trailers)));
            response.headers_mut().append("x-many", "1".parse().unwrap());
            response.headers_mut().append("x-many", "2".parse().unwrap());
            response
        }
    }
}

static ENDED: std::sync::Mutex<Vec<Option<h2::Reason>>> = std::sync::Mutex::new(Vec::new());

fn request(path: &str) -> http::request::Builder {
    Request::post(format!("http://somewhere:7{path}"))
}

async fn read(response: Response<Incoming>) -> (String, Option<HeaderMap>) {
    let body = response.into_body().collect().await.unwrap();
    let trailers = body.trailers().cloned();
    (String::from_utf8(body.to_bytes().to_vec()).unwrap(), trailers)
}

async fn text(builder: &UpstreamConnection, request: Request<Body>) -> String {
    read(builder.send(request).await.unwrap()).await.0
}

#[tokio::test(start_paused = true)]
async fn calls_pass_with_all_that_belongs_to_them() {
    let mut seen = Vec::new();
    for how in ALL {
        let open = session(how).await;
        let long = "x".repeat(200_000);
        let call = request("/moby.secrets/Get")
            .header("x-key", "1")
            .header("x-key", "2")
            .header("x-bin", "AAAA")
            .header("te", "trailers")
            .header("grpc-timeout", "5S")
            .header("x-long", long)
            .body(full("request".into()));
        let response = open.builder.send(call.unwrap()).await.unwrap();
        let mut headers = response.headers().clone();
        headers.remove("date");
        seen.push((headers, read(response).await));

        let response = open.builder.send(request("/status").body(full("".into())).unwrap()).await.unwrap();
        assert!(http_body::Body::is_end_stream(response.body()), "{how:?}: a status comes with the headers");
        assert_eq!(response.headers()["grpc-status"], "5");
    }
    assert!(seen[0].1.0.contains("http://somewhere:7/moby.secrets/Get"), "{}", &seen[0].1.0[..100]);
    for other in &seen[1..] {
        assert!(seen[0] == *other, "{:?}", other.0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_gets_responses_while_it_is_open_and_half_closed() {
    for how in ALL {
        let open = session(how).await;
        let (sender, frames) = mpsc::unbounded_channel();
        let body = StreamBody::new(UnboundedReceiverStream::new(frames)).boxed_unsync();
        let mut response = open.builder.send(request("/echo").body(body).unwrap()).await.unwrap().into_body();
        for word in ["one", "two"] {
            sender.send(Ok(Frame::data(word.into()))).unwrap();
            assert_eq!(response.frame().await.unwrap().unwrap().into_data().unwrap(), word, "{how:?}");
        }
        drop(sender);
        let end = response.frame().await.unwrap().unwrap();
        assert_eq!(end.trailers_ref().unwrap()["x-end"], "of it", "{how:?}");
        assert!(response.frame().await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn resets_pass_with_their_reasons() {
    for how in ALL {
        let open = session(how).await;
        // A reset may overtake what was sent before it.
        let code = match open.builder.send(request("/refuse").body(full("".into())).unwrap()).await {
            Ok(response) => reason(&response.into_body().collect().await.unwrap_err()),
            Err(error) => reason(&error),
        };
        assert_eq!(code, Some(h2::Reason::REFUSED_STREAM), "{how:?}");

        let (sender, frames) = mpsc::unbounded_channel();
        let body = StreamBody::new(UnboundedReceiverStream::new(frames)).boxed_unsync();
        let call = open.builder.send(request("/drop").body(body).unwrap());
        sender.send(Ok(Frame::data("some".into()))).unwrap();
        let cancel: BodyError = Box::new(h2::Error::from(h2::Reason::CANCEL));
        sender.send(Err(cancel)).unwrap();
        assert!(call.await.is_err());
        // Behind all that went before.
        text(&open.builder, request("/x").body(full("".into())).unwrap()).await;
        while ENDED.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(ENDED.lock().unwrap().pop(), Some(Some(h2::Reason::CANCEL)), "{how:?}");
    }
}

#[tokio::test]
async fn large_streams_pass_both_ways_while_others_stall() {
    const MIB: usize = 48;
    for how in [How::Bytes, How::Split] {
        let open = session(how).await;
        let chunk = bytes::Bytes::from(vec![1; 1 << 20]);
        let send = |chunk: bytes::Bytes| {
            let frames = (0..MIB).map(move |_| Ok(Frame::data(chunk.clone())));
            StreamBody::new(tokio_stream::iter(frames)).boxed_unsync()
        };
        let mut stalled = Vec::new();
        for _ in 0..16 {
            // Responses that nobody reads.
            let call = request("/large").header("x-length", "8").body(full("".into())).unwrap();
            stalled.push(open.builder.send(call).await.unwrap());
        }
        let up = text(&open.builder, request("/x").body(send(chunk.clone())).unwrap());
        let down = request("/large").header("x-length", MIB).body(full("".into())).unwrap();
        let down =
            async { open.builder.send(down).await.unwrap().into_body().collect().await.unwrap().to_bytes().len() };
        let (up, down) = tokio::join!(up, down);
        assert!(up.ends_with(&(MIB << 20).to_string()), "{how:?}: {up}");
        assert_eq!(down, MIB << 20, "{how:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn calls_are_ours_by_the_first_store_that_they_name() {
    let stores: [(&str, &[&str], bool); 8] = [
        (WRITE, &["local:linkspan:n/e0"], true),
        (WRITE, &["local:linkspan:n/e0", "local:/cache"], true),
        (WRITE, &["local:/cache", "local:linkspan:n/e0"], false),
        (WRITE, &["export"], false),
        (WRITE, &["LOCAL:linkspan/n/e0"], false),
        (WRITE, &["local:linkspan"], false),
        (WRITE, &[], false),
        (AUTH, &["local:linkspan:n/e0"], false),
    ];
    for how in ALL {
        let open = session(how).await;
        for (path, stores, is_ours) in stores {
            let mut call = request(path);
            for store in stores {
                call = call.header(STORE, *store);
            }
            let response = text(&open.builder, call.body(full("abc".into())).unwrap()).await;
            let expected = is_ours && how.is_split();
            assert_eq!(response.starts_with("ours: "), expected, "{how:?} {path} {stores:?}: {response}");
            if expected {
                assert_eq!(response, "ours: local:linkspan:n/e0 3");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_closes_gets_the_builders_end() {
    for how in ALL {
        let open = session(how).await;
        let call = tokio::spawn({
            let builder = open.builder.clone();
            async move { builder.send(request("/stall").body(full("".into())).unwrap()).await.err() }
        });
        text(&open.builder, request("/x").body(full("".into())).unwrap()).await;
        open.client_output.end(well(None));
        // The builder receives an end, and its calls no reset.
        assert_eq!(open.builder_input.end().await, Ok(None), "{how:?}");
        let error = call.await.unwrap().unwrap();
        assert!(!error.is_reset(), "{how:?}: {error:?}");
        let status = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
        open.builder_output.end(well(Some(status.clone())));
        assert_eq!(open.client_input.end().await, Ok(Some(status)), "{how:?}");
        let _ = open.served.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_builder_that_ends_a_session_sends_its_status() {
    for how in ALL {
        let open = session(how).await;
        text(&open.builder, request("/x").body(full("".into())).unwrap()).await;
        let status = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "14".parse().unwrap())]);
        open.builder_output.end(well(Some(status.clone())));
        assert_eq!(open.client_input.end().await, Ok(Some(status)), "{how:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_side_that_breaks_off_breaks_the_other_off() {
    for how in ALL {
        let open = session(how).await;
        text(&open.builder, request("/x").body(full("".into())).unwrap()).await;
        let cancel: BodyError = Box::new(h2::Error::from(h2::Reason::CANCEL));
        open.client_output.end(super::pipe::End::Broken(cancel));
        assert_eq!(open.builder_input.end().await, Err(Some(h2::Reason::CANCEL)), "{how:?}");
        open.rig.forgets("s").await;

        let open = session(how).await;
        text(&open.builder, request("/x").body(full("".into())).unwrap()).await;
        open.rig.kill.cancel();
        assert!(open.client_input.end().await.is_err(), "{how:?}");
        open.client_output.end(well(None));
        open.rig.forgets("s").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_builder_that_sends_goaway_ends_the_session() {
    for how in ALL {
        let open = session(how).await;
        text(&open.builder, request("/x").body(full("".into())).unwrap()).await;
        // GOAWAY, as when a session's health check has failed; the call that carries the session goes on.
        drop(open.builder);
        let _ = open.served.await.unwrap();
        open.client_output.end(well(None));
        assert_eq!(open.builder_input.end().await, Ok(None), "{how:?}");
        open.builder_output.end(well(None));
        assert_eq!(open.client_input.end().await, Ok(None), "{how:?}");
        open.rig.forgets("s").await;
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_before_a_build_comes_are_held_and_the_end_is_not() {
    let rig = Rig::new(true).await;
    let (client, builder) = rig.open("held", &[AUTH]).await;
    let (mut client, client_input) = client.stream();
    let (mut builder, _builder_input) = builder.stream();
    builder.write_all(b"preface").await.unwrap();
    builder.flush().await.unwrap();
    client.write_all(b"settings").await.unwrap();
    client.flush().await.unwrap();
    let (mut received, begin) = ([0; 8], tokio::time::Instant::now());
    tokio::select! {
        biased;
        _ = client.read_exact(&mut received[..7]) => unreachable!(),
        () = tokio::time::sleep(std::time::Duration::from_millis(1900)) => {}
    }
    assert!(!rig.sessions.decide("held", false));
    client.read_exact(&mut received[..7]).await.unwrap();
    assert_eq!(&received[..7], b"preface");
    builder.read_exact(&mut received).await.unwrap();
    assert_eq!(&received, b"settings");
    drop((client, client_input));

    let (client, builder) = rig.open("ended", &[AUTH]).await;
    let before = begin.elapsed();
    let (_stream, input) = {
        let (mut stream, input) = builder.stream();
        let output = client.output.clone();
        output.end(well(None));
        assert_eq!(stream.read(&mut [0; 9]).await.unwrap(), 0);
        (stream, input)
    };
    assert_eq!(input.end().await, Ok(None));
    assert_eq!(begin.elapsed(), before, "an end is passed on at once");
}

#[tokio::test(start_paused = true)]
async fn a_side_without_http2_ends_a_split_session() {
    let rig = Rig::new(true).await;
    let (client, builder) = rig.open("bad", &[AUTH]).await;
    assert!(rig.sessions.decide("bad", true));
    let (mut client, client_input) = client.stream();
    let (_builder, builder_input) = builder.stream();
    client.write_all(&[b'x'; 100]).await.unwrap();
    client.flush().await.unwrap();
    let mut drain = Vec::new();
    let _ = client.read_to_end(&mut drain).await;
    assert_eq!(client_input.end().await, Err(Some(h2::Reason::INTERNAL_ERROR)));
    drop(builder_input);
}
