//! What no client shows: bytes on the socket.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
};

use crate::{
    both_ways::{BothWays, Container, Side, base},
    common::{Stack, read_some, until},
};

/// The whole response to `request`, until the server ends the connection; without the date.
#[track_caller]
fn response(side: &Side<'_>, request: &[u8]) -> String {
    let mut stream = side.connect();
    // A server need not read all that is wrong, and a connection that it ends with bytes unread is reset.
    let _ = stream.write_all(request);
    let mut response = Vec::new();
    let _ = stream.read_to_end(&mut response);
    let response = String::from_utf8_lossy(&response).into_owned();
    response.split_inclusive("\r\n").filter(|line| !line.starts_with("Date: ")).collect()
}

/// Reads a head.
#[track_caller]
pub(crate) fn head(stream: &mut UnixStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend_from_slice(&byte);
    }
    String::from_utf8(head).unwrap()
}

#[test]
fn dockerd_judges_whatever_has_a_clear_end() {
    let sides = BothWays::of(Stack::shared());
    let cases: [(&str, &str); 20] = [
        ("GET /_ping HTTP/1.0\r\n\r\n", "200"),
        ("GET /version HTTP/1.0\r\nHost: x\r\n\r\n", "200"),
        ("GET http://docker/_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "200"),
        ("HEAD /_ping HTTP/1.1\r\nhOST: x\r\nCONNECTION: close\r\n\r\n", "200"),
        ("GET /_ping HTTP/1.1\r\nConnection: close\r\n\r\n", "400"),
        ("GET /v1.44/info/not-there HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "404"),
        ("GET /v9.99/version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "400"),
        ("get /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "404"),
        ("OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "200"),
        ("CONNECT x:1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "301"),
        ("GET /_ping HTTP/1.1\r\nHost: x\r\nUpgrade: tcp\r\nConnection: close, Upgrade\r\n\r\n", "200"),
        ("GET /_ping HTTP/1.1\nHost: x\nConnection: close\n\n", "200"),
        ("POST /containers/create HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1\r\n\r\n{", "400"),
        (
            "POST /containers/create HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Transfer-Encoding: chunked\r\nTrailer: X\r\n\r\n1;e=x\r\n{\r\n1\r\n]\r\n0\r\nX: y\r\n\r\n",
            "400",
        ),
        (
            "POST /auth HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: 2\r\nContent-Length: 2\r\n\r\n[]",
            "400",
        ),
        // Two at once, the second of them the last.
        ("HEAD /_ping HTTP/1.1\r\nHost: x\r\n\r\nGET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "200"),
        // dockerd does not want the body, and says so before it is there.
        (
            "POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\
             Expect: 100-continue\r\nConnection: close\r\n\r\n",
            "400",
        ),
        ("GET /_ping HTTP/1.1\r\nHost: x\r\nExpect: miracles\r\nConnection: close\r\n\r\n", "417"),
        ("GET /_ping HTTP/1.1\r\nHost: x/y\r\nConnection: close\r\n\r\n", "400"),
        ("GET /containers/%2e%2e/json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "301"),
    ];
    for (request, status) in cases {
        let response = sides.compare(|side| response(side, request.as_bytes()));
        assert_eq!(response.split(' ').nth(1), Some(status), "{request}\n{response}");
    }
}

#[test]
fn what_has_no_clear_end_is_refused_in_dockers_form() {
    let sides = BothWays::of(Stack::shared());
    let long = format!("GET /_ping HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "a".repeat(2 << 20));
    let chunk = "POST /auth HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n";
    let cases = [
        ("POST /auth HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
        ("POST /auth HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n12345", "400"),
        ("POST /auth HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", "400"),
        ("POST /auth HTTP/1.1\r\nHost: x\r\nContent-Length : 1\r\n\r\n1", "400"),
        ("POST /auth HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "501"),
        ("GET /_ping HTTP/4.2\r\nHost: x\r\n\r\n", "505"),
        ("hello, is anybody there?\r\n\r\n", "400"),
        (chunk, "400"),
        (&long, "431"),
    ];
    for (request, status) in cases {
        let response = response(sides.through(), request.as_bytes());
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert_eq!(head.split(' ').nth(1), Some(status), "{response}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert!(body["message"].as_str().unwrap().starts_with("linkspan: "), "{body}");
    }
    // Where dockerd refuses the same, it does so with the same status.
    for (request, status) in cases.into_iter().filter(|(request, _)| !request.contains("Length: 4\r\nTransfer")) {
        let response = response(sides.direct(), request.as_bytes());
        let words: Vec<_> = response.split(' ').take(2).collect();
        // dockerd takes the length for granted and finds a request in what is left; or finds no JSON in the chunk.
        assert_eq!(words.get(1), Some(&status), "{}\n{response}", &request[..60.min(request.len())]);
    }
}

#[test]
fn a_body_is_sent_once_it_is_requested() {
    let sides = BothWays::of(Stack::shared());
    sides.compare(|side| {
        let mut stream = side.connect();
        let request = "POST /auth HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\
                       Expect: 100-continue\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let interim = head(&mut stream);
        assert_eq!(interim, "HTTP/1.1 100 Continue\r\n\r\n");
        stream.write_all(b"[]").unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        rest.lines().next().unwrap().to_owned()
    });
}

/// A container that says back what it hears until that ends.
fn echo<'a>(side: &Side<'a>, kind: &str) -> Container<'a> {
    let name = side.named(&format!("echo-{kind}"));
    side.docker(["create", "-i", "--network", "host", "--name", &name, base(side.stack), "cat"]).ok();
    let container = Container(side.stack, name.clone());
    side.docker(["start", &name]).ok();
    container
}

/// One frame of a stream without a terminal: which output, three zeroes, the length, the bytes.
fn frame(bytes: &[u8]) -> Vec<u8> {
    [&[1, 0, 0, 0][..], &u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

#[test]
fn streams_with_and_without_an_upgrade() {
    let sides = BothWays::of(Stack::shared());
    for (kind, headers) in [("hijack", ""), ("tcp", "Connection: Upgrade\r\nUpgrade: tcp\r\n")] {
        sides.compare(|side| {
            let container = echo(side, kind);
            let request = format!(
                "POST /v1.44/containers/{}/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: x\r\n{headers}\r\n",
                container.1
            );
            let mut stream = side.connect();
            stream.write_all(request.as_bytes()).unwrap();
            let head = head(&mut stream);
            stream.write_all(b"hello").unwrap();
            let mut received = [0; 13];
            stream.read_exact(&mut received).unwrap();
            assert_eq!(received.as_slice(), frame(b"hello"));
            stream.write_all(b"last").unwrap();
            // The end of the input, and not of the output: `cat` says the last and ends, then dockerd does.
            stream.shutdown(Shutdown::Write).unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).unwrap();
            assert_eq!(rest, frame(b"last"));
            head
        });
        // Bytes that come with the request are kept until there is a stream; dockerd itself would lose them.
        let side = sides.through();
        let container = echo(&sides.through().renamed("early"), kind);
        let request = format!(
            "POST /containers/{}/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: x\r\n{headers}\r\nearly",
            container.1
        );
        let mut stream = side.connect();
        stream.write_all(request.as_bytes()).unwrap();
        head(&mut stream);
        let mut received = [0; 13];
        stream.read_exact(&mut received).unwrap();
        assert_eq!(received.as_slice(), frame(b"early"));
    }
}

#[test]
fn http2_with_and_without_an_upgrade() {
    let sides = BothWays::of(Stack::shared());
    // The preface and an empty SETTINGS frame; the response is SETTINGS, and an acknowledgement of ours.
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let frames = |stream: &mut UnixStream| {
        let mut seen = Vec::new();
        while !seen.contains(&(4, 1)) {
            let mut header = [0; 9];
            stream.read_exact(&mut header).unwrap();
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
            std::io::copy(&mut stream.take(length.into()), &mut std::io::sink()).unwrap();
            seen.push((header[3], header[4]));
        }
        seen.contains(&(4, 0))
    };
    assert!(sides.compare(|side| {
        let mut stream = side.connect();
        stream.write_all(preface).unwrap();
        frames(&mut stream)
    }));
    let request = "POST /grpc HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    sides.compare(|side| {
        let mut stream = side.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let head = head(&mut stream);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        stream.write_all(preface).unwrap();
        assert!(frames(&mut stream));
        head
    });
    let mut stream = sides.through().connect();
    stream.write_all(&[request.as_bytes(), preface].concat()).unwrap();
    head(&mut stream);
    assert!(frames(&mut stream), "early bytes are kept here, too");
}

#[test]
fn a_connection_is_used_again_and_ends_when_it_is_idle() {
    let sides = BothWays::of(Stack::shared());
    let mut stream = sides.through().connect();
    for _ in 0..3 {
        stream.write_all(b"HEAD /_ping HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert!(head(&mut stream).starts_with("HTTP/1.1 200 OK\r\n"));
    }
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_some(&mut stream, &mut [0]).unwrap(), 0);
    // Many idle ones.
    let idle: Vec<_> = (0..200).map(|_| sides.through().connect()).collect();
    let memory = || {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", sides.linkspan.pid().as_raw_nonzero())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
    };
    let before = memory();
    for mut stream in &idle {
        stream.write_all(b"HEAD /_ping HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    }
    for stream in idle {
        head(&mut stream.try_clone().unwrap());
    }
    until("memory to be small", memory, |now| *now < before + (8 << 10));
}
