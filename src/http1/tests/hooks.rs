//! Handlers that do something other than relay a request.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::StatusCode;

use super::*;

/// A connection that has read `bytes`, and its far ends.
async fn exchange_of(bytes: &str) -> (Exchange<DuplexStream>, DuplexStream, DuplexStream) {
    let (connection, mut client, upstream) = connection(1 << 20, &CancellationToken::new());
    client.write_all(bytes.as_bytes()).await.unwrap();
    (connection.next().await.unwrap().unwrap(), client, upstream)
}

const CREATE: &str = "POST /v1.55/containers/c/exec HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
const CREATED: &str = "HTTP/1.1 201 Created\r\nContent-Length: 8\r\n\r\n{\"Id\":1}";

#[tokio::test]
async fn who_watches_knows_before_the_client_does() {
    for (limit, expected) in [(8, Some("{\"Id\":1}")), (7, None)] {
        let (exchange, mut client, mut upstream) = exchange_of(CREATE).await;
        let seen: Arc<Mutex<Option<TappedExchange>>> = Arc::default();
        let into = Arc::clone(&seen);
        let watching = tokio::spawn(exchange.watch(limit, move |watched| *into.lock().unwrap() = Some(watched)));
        expect(&mut upstream, CREATE).await;
        upstream.write_all(&CREATED.as_bytes()[..CREATED.len() - 1]).await.unwrap();
        expect(&mut client, &CREATED[..CREATED.len() - 1]).await;
        assert!(seen.lock().unwrap().is_none());
        upstream.write_all(b"}").await.unwrap();
        expect(&mut client, "}").await;
        let watched = seen.lock().unwrap().take().unwrap();
        assert_eq!(watched.response.status(), 201);
        assert_eq!(watched.request_body, Some(Bytes::from_static(b"{}")));
        assert_eq!(watched.response_body.as_deref(), expected.map(str::as_bytes));
        assert!(watching.await.unwrap().unwrap().is_some());
    }
}

#[tokio::test]
async fn an_exchange_that_breaks_is_not_shown() {
    let (exchange, mut client, mut upstream) = exchange_of(CREATE).await;
    let watching = tokio::spawn(exchange.watch(100, |watched| panic!("{watched:?}")));
    expect(&mut upstream, CREATE).await;
    upstream.write_all(&CREATED.as_bytes()[..CREATED.len() - 1]).await.unwrap();
    drop(upstream);
    assert!(watching.await.unwrap().is_ok_and(|next| next.is_none()));
    assert_eq!(rest(&mut client).await, CREATED[..CREATED.len() - 1]);
}

const START: &str = "POST /exec/1/start HTTP/1.1\r\nUpgrade: tcp\r\nContent-Length: 2\r\n\r\n{}";

#[tokio::test]
async fn a_switched_pair_is_handed_over_with_what_came_early() {
    for response in ["HTTP/1.1 101 UPGRADED\r\nUpgrade: tcp\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"] {
        let (exchange, mut client, mut upstream) = exchange_of(&format!("{START}early")).await;
        let upgrading = tokio::spawn(exchange.upgrade());
        expect(&mut upstream, START).await;
        upstream.write_all(format!("{response}first").as_bytes()).await.unwrap();
        let Upgrade::Switched(switched) = upgrading.await.unwrap().unwrap() else { panic!("not switched") };
        assert_eq!(switched.head().raw(), response.as_bytes());
        let (mut down, mut up) = switched.into_streams();
        let mut early = [0; 5];
        down.read_exact(&mut early).await.unwrap();
        assert_eq!(&early, b"early");
        up.read_exact(&mut early).await.unwrap();
        assert_eq!(&early, b"first");
        // The client has not got a response.
        down.write_all(b"own answer").await.unwrap();
        expect(&mut client, "own answer").await;
        up.write_all(b"own request").await.unwrap();
        expect(&mut upstream, "own request").await;
    }
}

#[tokio::test]
async fn a_switched_pair_can_be_passed_on_after_all() {
    let (exchange, mut client, mut upstream) = exchange_of(&format!("{START}early")).await;
    let upgrading = tokio::spawn(exchange.upgrade());
    expect(&mut upstream, START).await;
    upstream.write_all(b"HTTP/1.1 101 UPGRADED\r\n\r\nfirst").await.unwrap();
    let Upgrade::Switched(switched) = upgrading.await.unwrap().unwrap() else { panic!("not switched") };
    tokio::spawn(switched.splice());
    expect(&mut client, "HTTP/1.1 101 UPGRADED\r\n\r\nfirst").await;
    expect(&mut upstream, "early").await;
}

#[tokio::test]
async fn an_upgrade_that_is_declined_passes() {
    let (exchange, mut client, mut upstream) = exchange_of(START).await;
    let upgrading = tokio::spawn(exchange.upgrade());
    expect(&mut upstream, START).await;
    upstream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}").await.unwrap();
    expect(&mut client, "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}").await;
    assert!(matches!(upgrading.await.unwrap().unwrap(), Upgrade::Declined(Some(_))));
}

#[tokio::test]
async fn a_request_can_get_its_response_here() {
    let (exchange, mut client, mut upstream) = exchange_of(&format!("{CREATE}early")).await;
    let mut stream = exchange.respond(b"HTTP/1.1 101 UPGRADED\r\n\r\n").await.unwrap();
    expect(&mut client, "HTTP/1.1 101 UPGRADED\r\n\r\n").await;
    client.write_all(b" bytes").await.unwrap();
    let mut early = [0; 11];
    stream.read_exact(&mut early).await.unwrap();
    assert_eq!(&early, b"early bytes");
    assert_eq!(rest(&mut upstream).await, "");

    let (exchange, mut client, _upstream) = exchange_of(CREATE).await;
    let ((), response) = tokio::join!(exchange.reject(StatusCode::CONFLICT, "not now"), rest(&mut client));
    assert!(response.starts_with("HTTP/1.1 409 Conflict\r\n"), "{response}");
    assert!(response.ends_with("{\"message\":\"linkspan: not now\"}\n"), "{response}");
}

#[tokio::test]
async fn a_stream_can_be_had_as_if_nothing_was_read() {
    let (exchange, mut client, _upstream) = exchange_of(&format!("{CREATE}{GET}")).await;
    let mut stream = exchange.take();
    client.shutdown().await.unwrap();
    let mut read = String::new();
    stream.read_to_string(&mut read).await.unwrap();
    assert_eq!(read, format!("{CREATE}{GET}"));
}

#[tokio::test]
async fn a_body_can_be_read_first() {
    let (mut exchange, mut client, mut upstream) = exchange_of(&CREATE[..CREATE.len() - 3]).await;
    {
        let mut reading = Box::pin(exchange.body(2));
        assert!(futures_util::poll!(reading.as_mut()).is_pending());
        client.write_all(&CREATE.as_bytes()[CREATE.len() - 3..]).await.unwrap();
        assert_eq!(reading.await.unwrap(), Some(Bytes::from_static(b"{}")));
    }
    assert_eq!(exchange.body(1).await.unwrap(), None, "longer than that");
    let passing = tokio::spawn(exchange.pass());
    expect(&mut upstream, CREATE).await;
    upstream.write_all(CREATED.as_bytes()).await.unwrap();
    expect(&mut client, CREATED).await;
    assert!(passing.await.unwrap().unwrap().is_some());

    let (mut exchange, ..) = exchange_of("POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n").await;
    assert_eq!(exchange.body(8).await.unwrap(), None, "known to be longer");
    let (mut exchange, ..) = exchange_of("POST / HTTP/1.1\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n").await;
    assert_eq!(exchange.body(8).await.unwrap(), None, "would never come");
}
