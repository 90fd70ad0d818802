use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;

const LIMITS: Limits = Limits {
    first: Duration::from_secs(5),
    head: Duration::from_secs(6),
    idle: Duration::from_secs(90),
    response: Some(Duration::from_secs(10)),
    stall: Duration::from_secs(60),
};
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

/// Connects to a server whose responses have `size` bytes. They are held back until `go`, where there is one.
fn connect(begun: &CancellationToken, size: usize, go: Option<Arc<Notify>>) -> (DuplexStream, JoinHandle<()>) {
    let (client, io) = duplex(1 << 10);
    let connection = Connection { io, peer: Principal::Unix { uid: 0, gid: 0, pid: None } };
    let drain = Drain::from(begun.clone());
    let respond = move |_request, _peer| {
        let go = go.clone();
        async move {
            if let Some(go) = go {
                go.notified().await;
            }
            Response::new(Full::new(Bytes::from(vec![b'x'; size])))
        }
    };
    (client, tokio::spawn(async move { serve(connection, "test", drain, LIMITS, respond).await }))
}

/// Reads a response of one byte.
async fn response(client: &mut DuplexStream) -> String {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\nx") {
        let byte = client.read_u8().await.unwrap_or_else(|_| panic!("no response: {}", String::from_utf8_lossy(&read)));
        read.push(byte);
    }
    String::from_utf8(read).unwrap()
}

#[tokio::test(start_paused = true)]
async fn who_takes_too_long_is_closed() {
    let half = &REQUEST[..9];
    for (sent, size, limit) in
        [(&b""[..], 1, LIMITS.first), (half, 1, LIMITS.head), (REQUEST, 1 << 20, Duration::from_secs(10))]
    {
        let begun = Instant::now();
        let (mut client, served) = connect(&CancellationToken::new(), size, None);
        client.write_all(sent).await.unwrap();
        // One who sends or reads in drops is no faster.
        for _ in 0..3 {
            tokio::time::sleep(limit / 4).await;
            match (sent.len(), size) {
                (0, _) => {}
                (_, 1) => client.write_all(b"x").await.unwrap(),
                _ => drop(client.read(&mut [0; 100]).await.unwrap()),
            }
        }
        served.await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), limit.as_secs(), "{sent:?}");
    }
    // A connection that is kept may be quiet for longer.
    let (mut client, served) = connect(&CancellationToken::new(), 1, None);
    for _ in 0..3 {
        client.write_all(REQUEST).await.unwrap();
        response(&mut client).await;
        tokio::time::sleep(LIMITS.idle - Duration::from_secs(1)).await;
    }
    served.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_that_comes_at_the_end_gets_its_response() {
    for is_kept in [false, true] {
        let begun = CancellationToken::new();
        let (mut client, served) = connect(&begun, 1, None);
        if is_kept {
            client.write_all(REQUEST).await.unwrap();
            assert!(!response(&mut client).await.contains("close"));
        }
        begun.cancel();
        tokio::time::sleep(LAST_REQUEST / 2).await;
        client.write_all(&REQUEST[..9]).await.unwrap();
        tokio::time::sleep(LAST_HEAD / 2).await;
        client.write_all(&REQUEST[9..]).await.unwrap();
        assert!(response(&mut client).await.contains("connection: close\r\n"), "kept: {is_kept}");
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        served.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_under_way_is_the_last_and_who_is_silent_holds_up_nobody() {
    let (begun, go) = (CancellationToken::new(), Arc::new(Notify::new()));
    let (mut client, served) = connect(&begun, 1, Some(go.clone()));
    client.write_all(REQUEST).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    begun.cancel();
    tokio::time::sleep(5 * LAST_REQUEST).await;
    assert!(!served.is_finished());
    go.notify_one();
    assert!(response(&mut client).await.contains("connection: close\r\n"));
    served.await.unwrap();

    let started = Instant::now();
    let (_silent, served) = connect(&begun, 1, None);
    served.await.unwrap();
    assert!(started.elapsed() <= 2 * LAST_REQUEST);
}
