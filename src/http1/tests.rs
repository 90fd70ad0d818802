//! The relay, byte by byte, between a client and an upstream that the test controls.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::net::{Address, Upstream};

mod faults;
mod hooks;

/// A relay and the far ends of its client and upstream.
struct Rig {
    client: DuplexStream,
    upstream: DuplexStream,
    drain: CancellationToken,
    relay: JoinHandle<Result<(), RelayError>>,
}

fn nowhere() -> Upstream {
    Upstream::new(Address::Unix(Path::new("/nonexistent/engine.sock").into()), None).unwrap()
}

/// A connection whose upstream is already connected, and its two far ends; each pipe holds `room` bytes.
fn connection(room: usize, drain: &CancellationToken) -> (ClientConnection<DuplexStream>, DuplexStream, DuplexStream) {
    let ((client, near), (upstream, far)) = (duplex(room), duplex(room));
    let mut connection = ClientConnection::new(near, nowhere(), drain.clone());
    connection.upstream = Some(buffered::BufferedIo::new(Box::new(far)));
    (connection, client, upstream)
}

impl Rig {
    /// Relays every request unchanged.
    fn new() -> Self {
        Self::with_room(1 << 20)
    }

    fn with_room(room: usize) -> Self {
        let drain = CancellationToken::new();
        let (mut connection, client, upstream) = connection(room, &drain);
        let relay = tokio::spawn(async move {
            while let Some(exchange) = connection.next().await? {
                let Some(next) = exchange.pass().await? else { break };
                connection = next;
            }
            Ok(())
        });
        Self { client, upstream, drain, relay }
    }

    /// Waits until the relay can make no more progress.
    async fn run_until_idle(&self) {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
}

/// Reads as many bytes as `bytes` has, and compares them.
async fn expect(stream: &mut DuplexStream, bytes: impl AsRef<[u8]>) {
    let bytes = bytes.as_ref();
    let mut read = vec![0; bytes.len()];
    let outcome = stream.read_exact(&mut read).await;
    assert!(outcome.is_ok() && read == bytes, "{outcome:?}: {:?}", String::from_utf8_lossy(&read));
}

/// Reads to the end.
async fn rest(stream: &mut DuplexStream) -> String {
    let mut read = Vec::new();
    stream.read_to_end(&mut read).await.unwrap();
    String::from_utf8(read).unwrap()
}

const GET: &str = "GET /v1.55/info HTTP/1.1\r\nHost: docker\r\nUser-Agent: x\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK";

#[tokio::test]
async fn exchanges_pass_as_they_are_at_every_cut() {
    let exchanges = [
        (GET, OK),
        ("HEAD /_ping HTTP/1.1\r\nhOsT: docker\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"),
        (
            "POST /build HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: u\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding:chunked\r\nTrailer: Digest\r\n\r\n1\r\n{\r\n0\r\nDigest: z\r\n\r\n",
        ),
        (
            "PUT http://docker/x HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        ),
        ("GET /x HTTP/1.1\n\n", "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n"),
        ("GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ];
    let mut rig = Rig::new();
    for (request, response) in exchanges {
        for cut in 0..=request.len() {
            rig.client.write_all(&request.as_bytes()[..cut]).await.unwrap();
            rig.run_until_idle().await;
            rig.client.write_all(&request.as_bytes()[cut..]).await.unwrap();
            expect(&mut rig.upstream, request).await;
            let cut = cut.min(response.len());
            rig.upstream.write_all(&response.as_bytes()[..cut]).await.unwrap();
            rig.run_until_idle().await;
            rig.upstream.write_all(&response.as_bytes()[cut..]).await.unwrap();
            expect(&mut rig.client, response).await;
        }
    }
    drop(rig.client);
    assert_eq!(rest(&mut rig.upstream).await, "");
    rig.relay.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_body_is_passed_on_while_it_comes_and_so_is_the_response() {
    let mut rig = Rig::new();
    let head = "POST /build HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    rig.client.write_all(head.as_bytes()).await.unwrap();
    expect(&mut rig.upstream, head).await;
    // The response begins before the request has ended, and both are forwarded piece by piece.
    let response = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    rig.upstream.write_all(response.as_bytes()).await.unwrap();
    expect(&mut rig.client, response).await;
    for piece in ["5", "\r\nhe", "llo\r", "\n"] {
        rig.client.write_all(piece.as_bytes()).await.unwrap();
        expect(&mut rig.upstream, piece).await;
        rig.upstream.write_all(piece.as_bytes()).await.unwrap();
        expect(&mut rig.client, piece).await;
    }
    rig.upstream.write_all(b"0\r\n\r\n").await.unwrap();
    expect(&mut rig.client, "0\r\n\r\n").await;
    // The response is complete before the request, whose rest is still forwarded, and the next request after it.
    rig.client.write_all(format!("0\r\n\r\n{GET}").as_bytes()).await.unwrap();
    expect(&mut rig.upstream, format!("0\r\n\r\n{GET}")).await;
}

#[tokio::test]
async fn requests_get_their_responses_in_order() {
    let mut rig = Rig::new();
    let head = "POST /build HTTP/1.1\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";
    rig.client.write_all(head.as_bytes()).await.unwrap();
    expect(&mut rig.upstream, head).await;
    rig.upstream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
    expect(&mut rig.client, "HTTP/1.1 100 Continue\r\n\r\n").await;
    rig.client.write_all(b"body").await.unwrap();
    expect(&mut rig.upstream, "body").await;
    rig.upstream.write_all(OK.as_bytes()).await.unwrap();
    expect(&mut rig.client, OK).await;
    // The upstream rejects the head: no body is sent, and the upstream closes the connection.
    rig.client.write_all(head.as_bytes()).await.unwrap();
    expect(&mut rig.upstream, head).await;
    let no = "HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno";
    rig.upstream.write_all(no.as_bytes()).await.unwrap();
    expect(&mut rig.client, no).await;
    drop(rig.upstream);
    assert_eq!(rest(&mut rig.client).await, "");
}

#[tokio::test]
async fn requests_sent_ahead_wait_for_their_turn() {
    let mut rig = Rig::new();
    rig.client.write_all(format!("{GET}{GET}").as_bytes()).await.unwrap();
    rig.client.shutdown().await.unwrap();
    expect(&mut rig.upstream, GET).await;
    rig.run_until_idle().await;
    let mut nothing = [0; 1];
    assert!(futures_util::poll!(Box::pin(rig.upstream.read(&mut nothing))).is_pending(), "one at a time");
    rig.upstream.write_all(OK.as_bytes()).await.unwrap();
    expect(&mut rig.upstream, GET).await;
    // The client's end is forwarded only after its last request.
    assert_eq!(rest(&mut rig.upstream).await, "");
    rig.upstream.write_all(OK.as_bytes()).await.unwrap();
    assert_eq!(rest(&mut rig.client).await, format!("{OK}{OK}"));
    rig.relay.await.unwrap().unwrap();
}

/// Byte streams, begun in each of the three ways, with early bytes and directions that end independently.
#[tokio::test]
async fn streams_keep_early_bytes_and_half_closes() {
    let upgrade = |protocol: &str| {
        (
            format!("POST /x/attach HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n"),
            format!("HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n"),
        )
    };
    let hijack = (
        "POST /x/attach HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n".to_owned(),
    );
    for (request, response) in [upgrade("tcp"), upgrade("h2c"), hijack] {
        let mut rig = Rig::new();
        // Early bytes in one packet with the request, and in the next, followed by the client's half-close.
        rig.client.write_all(format!("{request}PRI").as_bytes()).await.unwrap();
        rig.client.write_all(b" * early").await.unwrap();
        rig.client.shutdown().await.unwrap();
        expect(&mut rig.upstream, &request).await;
        rig.run_until_idle().await;
        rig.upstream.write_all(format!("{response}\0first").as_bytes()).await.unwrap();
        assert_eq!(rest(&mut rig.upstream).await, "PRI * early");
        expect(&mut rig.client, format!("{response}\0first")).await;
        rig.upstream.write_all(b"last").await.unwrap();
        rig.upstream.shutdown().await.unwrap();
        assert_eq!(rest(&mut rig.client).await, "last");
        rig.relay.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn more_early_bytes_than_are_kept_wait_in_the_socket() {
    let mut rig = Rig::with_room(1 << 10);
    let request = "POST /attach HTTP/1.1\r\nUpgrade: tcp\r\n\r\n";
    let early = vec![b'e'; 1 << 20];
    let (mut reader, mut writer) = tokio::io::split(rig.client);
    let sent = early.clone();
    let sending = tokio::spawn(async move {
        writer.write_all(request.as_bytes()).await.unwrap();
        writer.write_all(&sent).await.unwrap();
        writer
    });
    expect(&mut rig.upstream, request).await;
    rig.upstream.write_all(b"HTTP/1.1 101 UPGRADED\r\n\r\n").await.unwrap();
    expect(&mut rig.upstream, &early).await;
    let mut response = [0; 25];
    reader.read_exact(&mut response).await.unwrap();
    assert_eq!(&response, b"HTTP/1.1 101 UPGRADED\r\n\r\n");
    sending.await.unwrap();
}

#[tokio::test]
async fn http2_passes_as_a_whole() {
    let mut rig = Rig::new();
    let listener_folder = tempfile::tempdir().unwrap();
    let path = listener_folder.path().join("engine");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let (mut client, near) = duplex(1 << 10);
    let upstream = Upstream::new(Address::Unix(path), None).unwrap();
    let connection = ClientConnection::new(near, upstream, rig.drain.clone());
    let relay = tokio::spawn(async move { connection.next().await.map(|next| next.is_some()) });
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let (mut far, _) = listener.accept().await.unwrap();
    let mut read = [0; 33];
    far.read_exact(&mut read).await.unwrap();
    assert!(read.starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04"));
    far.write_all(b"\0\0\0\x04\x01\0\0\0\0").await.unwrap();
    expect(&mut client, b"\0\0\0\x04\x01\0\0\0\0").await;
    drop(client);
    drop(far);
    assert!(!relay.await.unwrap().unwrap());
    // The preface counts only at the beginning of a connection; later it is a malformed request.
    rig.client.write_all(format!("{GET}PRI * HTTP/2.0\r\n\r\n").as_bytes()).await.unwrap();
    expect(&mut rig.upstream, GET).await;
    rig.upstream.write_all(OK.as_bytes()).await.unwrap();
    expect(&mut rig.client, OK).await;
    assert!(rest(&mut rig.client).await.starts_with("HTTP/1.1 505 HTTP Version Not Supported\r\n"));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_comes_at_the_end_gets_its_response() {
    let mut rig = Rig::new();
    async fn exchanged(rig: &mut Rig) {
        rig.client.write_all(GET.as_bytes()).await.unwrap();
        expect(&mut rig.upstream, GET).await;
        rig.upstream.write_all(OK.as_bytes()).await.unwrap();
        expect(&mut rig.client, OK).await;
    }
    exchanged(&mut rig).await;
    rig.drain.cancel();
    let pause = Duration::from_millis(200);
    tokio::time::sleep(pause).await;
    rig.client.write_all(&GET.as_bytes()[..9]).await.unwrap();
    tokio::time::sleep(4 * pause).await;
    rig.client.write_all(&GET.as_bytes()[9..]).await.unwrap();
    expect(&mut rig.upstream, GET).await;
    rig.upstream.write_all(OK.as_bytes()).await.unwrap();
    expect(&mut rig.client, OK).await;
    // Who asks again and again is served for a while, and who asks no more holds up nobody.
    let mut served = 0;
    while !rig.relay.is_finished() && served < 100 {
        exchanged(&mut rig).await;
        served += 1;
        tokio::time::sleep(pause).await;
    }
    assert!((2..100).contains(&served), "{served}");
    rig.relay.await.unwrap().unwrap();

    let mut rig = Rig::new();
    exchanged(&mut rig).await;
    rig.drain.cancel();
    let begun = tokio::time::Instant::now();
    assert_eq!(rest(&mut rig.client).await, "");
    rig.relay.await.unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1));
}

/// Any request and its response, as the bytes on the wire.
fn any_exchange() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let content = || prop::collection::vec(prop::collection::vec(any::<u8>(), 1..200), 0..6);
    let message = |first: String, chunks: Vec<Vec<u8>>, chunked: bool| {
        let mut message = first.into_bytes();
        if chunked {
            message.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            for chunk in &chunks {
                message.extend_from_slice(format!("{:X};e\r\n", chunk.len()).as_bytes());
                message.extend_from_slice(chunk);
                message.extend_from_slice(b"\r\n");
            }
            message.extend_from_slice(b"0\r\nTrailer: t\r\n\r\n");
        } else {
            let content = chunks.concat();
            message.extend_from_slice(format!("Content-Length: {}\r\n\r\n", content.len()).as_bytes());
            message.extend_from_slice(&content);
        }
        message
    };
    (content(), any::<bool>(), content(), any::<bool>(), any::<bool>()).prop_map(
        move |(up, up_chunked, down, down_chunked, interim)| {
            let first = if interim { "HTTP/1.1 100 Continue\r\n\r\n" } else { "" };
            (
                message("POST /x HTTP/1.1\r\nHost: d\r\n".to_owned(), up, up_chunked),
                message(format!("{first}HTTP/1.1 200 OK\r\n"), down, down_chunked),
            )
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// All bytes arrive unchanged, however they are split, sent ahead or not, and through pipes of any size.
    #[test]
    fn what_comes_in_comes_out(
        exchanges in prop::collection::vec(any_exchange(), 1..5),
        sizes in prop::collection::vec(1usize..500, 1..30),
        room in 1usize..2000,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut rig = Rig::with_room(room);
            let (mut reader, mut writer) = tokio::io::split(rig.client);
            let requests: Vec<u8> = exchanges.iter().flat_map(|(request, _)| request.clone()).collect();
            let sending = async {
                let mut left = requests.as_slice();
                for size in sizes.iter().cycle() {
                    let (piece, rest) = left.split_at((*size).min(left.len()));
                    writer.write_all(piece).await.unwrap();
                    left = rest;
                    if left.is_empty() {
                        break;
                    }
                }
                writer.shutdown().await.unwrap();
            };
            let responding = async {
                for (request, response) in &exchanges {
                    expect(&mut rig.upstream, request).await;
                    for piece in response.chunks(sizes[0]) {
                        rig.upstream.write_all(piece).await.unwrap();
                    }
                }
                assert_eq!(rest(&mut rig.upstream).await, "");
            };
            let reading = async {
                let mut read = Vec::new();
                reader.read_to_end(&mut read).await.unwrap();
                let responses: Vec<u8> = exchanges.iter().flat_map(|(_, response)| response.clone()).collect();
                assert!(read == responses);
            };
            tokio::join!(sending, responding, reading);
            rig.relay.await.unwrap().unwrap();
        });
    }
}
