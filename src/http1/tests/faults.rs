//! Faults: rejected requests, peers that disconnect, upstreams that cannot be reached.

use super::*;

/// The response to a client that sends `bytes` and nothing more; the upstream must receive nothing.
async fn refused(bytes: &[u8]) -> String {
    let mut rig = Rig::with_room(4 << 20);
    rig.client.write_all(bytes).await.unwrap();
    let response = rest(&mut rig.client).await;
    drop(rig.client);
    assert_eq!(rest(&mut rig.upstream).await, "");
    rig.relay.await.unwrap().unwrap_err();
    response
}

#[tokio::test]
async fn smuggled_requests_are_refused_in_dockers_form() {
    let both =
        "POST /x HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /y HTTP/1.1\r\n\r\n";
    let body = "{\"message\":\"linkspan: the request's length is ambiguous: it has both Content-Length and \
                Transfer-Encoding\"}\n";
    let response = format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(refused(both.as_bytes()).await, response);
    for (request, status) in [
        ("POST /x HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", "400 Bad Request"),
        ("POST /x HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n", "501 Not Implemented"),
        ("POST /x HTTP/1.1\r\nContent-Length : 5\r\n\r\n", "400 Bad Request"),
        ("\x16\x03\x01\x02\r\n\r\n", "400 Bad Request"),
        ("GET /x HTTP/3.0\r\n\r\n", "505 HTTP Version Not Supported"),
    ] {
        let response = refused(request.as_bytes()).await;
        assert!(response.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{request:?}: {response}");
        assert!(response.contains("{\"message\":\"linkspan: "), "{request:?}: {response}");
    }
}

#[tokio::test]
async fn a_head_has_a_longest_length() {
    let long = |length: usize| {
        let mut head = b"GET / HTTP/1.1\r\nA: ".to_vec();
        head.resize(length - 4, b'a');
        head.extend_from_slice(b"\r\n\r\n");
        head
    };
    let response = refused(&long(HEAD_BYTES + 100_000)).await;
    assert!(response.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\n"), "{response}");
    let mut rig = Rig::with_room(4 << 20);
    rig.client.write_all(&long(HEAD_BYTES)).await.unwrap();
    expect(&mut rig.upstream, long(HEAD_BYTES)).await;
}

#[tokio::test]
async fn broken_chunks_end_both_sides() {
    let head = "POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut rig = Rig::new();
    rig.client.write_all(format!("{head}1\r\na\r\nxyz\r\n").as_bytes()).await.unwrap();
    let response = rest(&mut rig.client).await;
    assert!(response.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{response}");
    assert!(
        response.ends_with("linkspan: the body's chunked coding is broken: a chunk has no size\"}\n"),
        "{response}"
    );
    drop(rig.client);
    // Neither the broken chunk nor the bytes that came with it were forwarded.
    assert!(head.starts_with(&rest(&mut rig.upstream).await));
    assert!(matches!(rig.relay.await.unwrap().unwrap_err(), RelayError::Body(_)));

    // Once the response has begun, no error response can be sent.
    let mut rig = Rig::new();
    rig.client.write_all(head.as_bytes()).await.unwrap();
    expect(&mut rig.upstream, head).await;
    rig.upstream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
    expect(&mut rig.client, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    rig.client.write_all(b"xyz").await.unwrap();
    assert_eq!(rest(&mut rig.client).await, "");
    assert_eq!(rest(&mut rig.upstream).await, "");
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_a_503() {
    for method in ["GET", "HEAD"] {
        let (mut client, near) = duplex(1 << 10);
        let connection = ClientConnection::new(near, nowhere(), CancellationToken::new());
        client.write_all(format!("{method} /_ping HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
        let exchange = connection.next().await.unwrap().unwrap();
        let (outcome, response) = tokio::join!(exchange.pass(), rest(&mut client));
        assert!(matches!(outcome.unwrap_err(), RelayError::Upstream(_)));
        let body = "{\"message\":\"linkspan: cannot connect to unix:///nonexistent/engine.sock: No such file or directory \
                    (os error 2)\"}\n";
        let head = format!(
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            body.len()
        );
        assert_eq!(response, if method == "HEAD" { head } else { head + body });
    }
}

#[tokio::test]
async fn a_client_that_goes_ends_what_is_done_for_it() {
    for (request, response) in [
        (GET, ""),
        (GET, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"),
        ("POST /b HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf", ""),
        ("POST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhal", "HTTP/1.1 100 Continue\r\n\r\n"),
    ] {
        // After a disconnect and after a half-close alike, the upstream sees the end of the request.
        for leaves in [true, false] {
            let mut rig = Rig::new();
            rig.client.write_all(request.as_bytes()).await.unwrap();
            expect(&mut rig.upstream, request).await;
            rig.upstream.write_all(response.as_bytes()).await.unwrap();
            expect(&mut rig.client, response).await;
            if leaves {
                drop(rig.client);
                assert_eq!(rest(&mut rig.upstream).await, "", "{request}");
                drop(rig.upstream);
                rig.relay.await.unwrap().unwrap();
            } else {
                rig.client.shutdown().await.unwrap();
                assert_eq!(rest(&mut rig.upstream).await, "", "{request}");
                // It still receives the end of the response.
                let last = if response.contains("chunked") { "0\r\n\r\n" } else { OK };
                rig.upstream.write_all(last.as_bytes()).await.unwrap();
                assert_eq!(rest(&mut rig.client).await, last);
            }
        }
    }
}

#[tokio::test]
async fn a_client_that_takes_no_more_ends_the_upstream() {
    let mut rig = Rig::with_room(64);
    rig.client.write_all(b"GET /events HTTP/1.1\r\n\r\n").await.unwrap();
    expect(&mut rig.upstream, "GET /events HTTP/1.1\r\n\r\n").await;
    drop(rig.client);
    let stream = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}", 1 << 20, "x".repeat(1 << 20));
    rig.upstream.write_all(stream.as_bytes()).await.unwrap_err();
    assert!(matches!(rig.relay.await.unwrap(), Err(RelayError::Client(_))));
}

#[tokio::test]
async fn an_upstream_that_goes_ends_the_client() {
    // The upstream closes before the head, within it, within the body, or after the response: all bytes are forwarded.
    for response in ["", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", OK] {
        let mut rig = Rig::new();
        rig.client.write_all(GET.as_bytes()).await.unwrap();
        expect(&mut rig.upstream, GET).await;
        rig.upstream.write_all(response.as_bytes()).await.unwrap();
        drop(rig.upstream);
        assert_eq!(rest(&mut rig.client).await, response);
        rig.relay.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn an_upstream_that_takes_no_more_may_have_responded() {
    let mut rig = Rig::with_room(64);
    let head = format!("POST /images/load HTTP/1.1\r\nContent-Length: {}\r\n\r\n", 1 << 20);
    rig.client.write_all(head.as_bytes()).await.unwrap();
    expect(&mut rig.upstream, &head).await;
    rig.upstream.write_all(OK.as_bytes()).await.unwrap();
    drop(rig.upstream);
    let (mut reader, mut writer) = tokio::io::split(rig.client);
    let mut response = String::new();
    let (_, read) = tokio::join!(writer.write_all(&[0; 1 << 20]), reader.read_to_string(&mut response));
    read.unwrap();
    assert_eq!(response, OK);
}

#[tokio::test]
async fn a_response_that_is_none_passes_as_bytes() {
    for response in
        ["220 smtp.example ESMTP\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx"]
    {
        let mut rig = Rig::new();
        rig.client.write_all(GET.as_bytes()).await.unwrap();
        expect(&mut rig.upstream, GET).await;
        rig.upstream.write_all(response.as_bytes()).await.unwrap();
        rig.upstream.shutdown().await.unwrap();
        assert_eq!(rest(&mut rig.client).await, response);
        rig.client.write_all(b"no request any more").await.unwrap();
        expect(&mut rig.upstream, "no request any more").await;
    }
}

#[tokio::test]
async fn broken_chunks_in_a_response_end_it() {
    let mut rig = Rig::new();
    rig.client.write_all(GET.as_bytes()).await.unwrap();
    expect(&mut rig.upstream, GET).await;
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    rig.upstream.write_all(head.as_bytes()).await.unwrap();
    expect(&mut rig.client, head).await;
    rig.upstream.write_all(b"xyz\r\n").await.unwrap();
    assert_eq!(rest(&mut rig.client).await, "");
    assert!(matches!(rig.relay.await.unwrap().unwrap_err(), RelayError::Response(_)));
}

#[tokio::test]
async fn an_upstream_sends_only_responses() {
    let mut rig = Rig::new();
    rig.client.write_all(GET.as_bytes()).await.unwrap();
    expect(&mut rig.upstream, GET).await;
    rig.upstream.write_all(format!("{OK}{OK}").as_bytes()).await.unwrap();
    assert_eq!(rest(&mut rig.client).await, OK, "a response to nothing could be taken for the next one's");
    assert!(matches!(rig.relay.await.unwrap().unwrap_err(), RelayError::Unsolicited));
}

#[tokio::test(start_paused = true)]
async fn who_has_just_come_when_a_drain_begins_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("engine");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let drain = CancellationToken::new();
    drain.cancel();
    let come = || {
        let (client, near) = duplex(1 << 10);
        let upstream = Upstream::new(Address::Unix(path.clone()), None).unwrap();
        (client, ClientConnection::new(near, upstream, drain.clone()))
    };
    let (mut client, connection) = come();
    client.write_all(GET.as_bytes()).await.unwrap();
    let served = async {
        let next = connection.next().await.unwrap().unwrap().pass().await.unwrap().unwrap();
        assert!(next.next().await.unwrap().is_none());
    };
    let upstream = async {
        let (mut upstream, _) = listener.accept().await.unwrap();
        let mut head = [0; GET.len()];
        upstream.read_exact(&mut head).await.unwrap();
        upstream.write_all(OK.as_bytes()).await.unwrap();
        let mut more = Vec::new();
        upstream.read_to_end(&mut more).await.unwrap();
        assert_eq!(more, b"");
    };
    tokio::join!(served, upstream);
    assert_eq!(rest(&mut client).await, OK);

    let (mut silent, connection) = come();
    assert!(connection.next().await.unwrap().is_none());
    assert_eq!(rest(&mut silent).await, "");
}

#[tokio::test]
async fn a_drain_ends_idle_connections_and_finishes_the_rest() {
    let mut idle = Rig::new();
    idle.run_until_idle().await;
    idle.drain.cancel();
    assert_eq!(rest(&mut idle.client).await, "");
    idle.relay.await.unwrap().unwrap();

    let mut busy = Rig::new();
    busy.client.write_all(GET.as_bytes()).await.unwrap();
    expect(&mut busy.upstream, GET).await;
    busy.drain.cancel();
    busy.run_until_idle().await;
    busy.upstream.write_all(OK.as_bytes()).await.unwrap();
    expect(&mut busy.client, OK).await;
    // It is not known to the client that the connection ends.
    busy.client.write_all(GET.as_bytes()).await.unwrap();
    expect(&mut busy.upstream, GET).await;
    busy.upstream.write_all(OK.as_bytes()).await.unwrap();
    assert_eq!(rest(&mut busy.client).await, OK);
    assert_eq!(rest(&mut busy.upstream).await, "");

    let mut begun = Rig::new();
    begun.client.write_all(&GET.as_bytes()[..9]).await.unwrap();
    begun.run_until_idle().await;
    begun.drain.cancel();
    begun.client.write_all(&GET.as_bytes()[9..]).await.unwrap();
    expect(&mut begun.upstream, GET).await;

    let mut stream = Rig::new();
    stream.client.write_all(GET.as_bytes()).await.unwrap();
    expect(&mut stream.upstream, GET).await;
    stream.upstream.write_all(b"HTTP/1.1 101 UPGRADED\r\n\r\n").await.unwrap();
    expect(&mut stream.client, "HTTP/1.1 101 UPGRADED\r\n\r\n").await;
    stream.drain.cancel();
    stream.client.write_all(b"still").await.unwrap();
    expect(&mut stream.upstream, "still").await;
}

#[tokio::test(start_paused = true)]
async fn half_a_head_is_not_waited_for_for_ever() {
    let mut rig = Rig::new();
    rig.client.write_all(b"GET / HT").await.unwrap();
    assert_eq!(rest(&mut rig.client).await, "");
    rig.relay.await.unwrap().unwrap();
}
