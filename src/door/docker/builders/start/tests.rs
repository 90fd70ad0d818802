use tokio::io::{DuplexStream, duplex};

use super::*;
use crate::http1::ClientConnection;

/// A request as it is read from a client.
async fn request(target: &str) -> RequestHead {
    let (mut client, near) = duplex(1 << 12);
    client.write_all(format!("POST {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
    let nowhere = crate::net::Upstream::new("unix:///nowhere".parse().unwrap(), None).unwrap();
    let connection = ClientConnection::new(near, nowhere, tokio_util::sync::CancellationToken::new());
    connection.next().await.unwrap().unwrap().head().clone()
}

#[tokio::test]
async fn the_media_type_depends_on_the_requested_version() {
    let every = [("Api-Version", b"1.55".to_vec()), ("Server", b"Docker/29.7.2 (linux)".to_vec())];
    for (target, kind) in [
        ("/exec/1/start", "multiplexed"),
        ("/v1.42/exec/1/start", "multiplexed"),
        ("/v1.41/exec/1/start", "raw"),
        ("/v2.0/exec/1/start", "multiplexed"),
    ] {
        let head = String::from_utf8(switching(&request(target).await, &every)).unwrap();
        let expected = format!(
            "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.{kind}-stream\r\nConnection: Upgrade\r\nUpgrade: \
             tcp\r\nApi-Version: 1.55\r\nServer: Docker/29.7.2 (linux)\r\n\r\n"
        );
        assert_eq!(head, expected, "{target}");
    }
    let old = [("Api-Version", b"1.41".to_vec())];
    let head = String::from_utf8(switching(&request("/exec/1/start").await, &old)).unwrap();
    assert!(head.contains("raw-stream"), "{head}");
}

async fn rest(mut stream: PrefixedIo<DuplexStream>) -> Vec<u8> {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    rest
}

#[tokio::test(start_paused = true)]
async fn clients_are_judged_and_lose_nothing() {
    for (bytes, expected) in [
        (&[sniff::PREFACE, b"and more"].concat()[..], Protocol::Http2),
        (b"GET / HTTP/1.1\r\n", Protocol::Other),
        // Closed before there were enough bytes to tell.
        (b"", Protocol::Other),
        (b"PRI * HTTP/2", Protocol::Other),
    ] {
        let (mut client, near) = duplex(1 << 12);
        client.write_all(bytes).await.unwrap();
        let (stream, protocol) = client_protocol(near).await;
        assert_eq!(protocol, expected);
        drop(client);
        assert_eq!(rest(stream).await, bytes);
    }
}

#[tokio::test(start_paused = true)]
async fn processes_are_judged_and_lose_nothing() {
    const SETTINGS: &[u8] = b"\x01\0\0\0\0\0\0\x09\0\0\0\x04\0\0\0\0\0";
    const OOPS: &[u8] = b"\x02\0\0\0\0\0\0\x04oops";
    for (bytes, at_once, expected) in [
        (SETTINGS.to_vec(), &b""[..], Protocol::Http2),
        ([OOPS, SETTINGS].concat(), OOPS, Protocol::Http2),
        (b"\x01\0\0\0\0\0\0\x0chello, world".to_vec(), b"", Protocol::Other),
        (OOPS.to_vec(), OOPS, Protocol::Unclear),
        (b"\x01\0\0".to_vec(), b"", Protocol::Unclear),
    ] {
        let ((mut client, near), (mut process, far)) = (duplex(1 << 12), duplex(1 << 12));
        process.write_all(&bytes).await.unwrap();
        let (near, stream, protocol) = process_protocol(near, far).await.unwrap();
        drop((near, process));
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.unwrap();
        assert_eq!((&received[..], protocol), (at_once, expected));
        assert_eq!([received, rest(stream).await].concat(), bytes);
    }
}
