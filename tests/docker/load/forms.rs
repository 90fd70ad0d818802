//! The response to a load does not depend on how the request is written: versions, lengths, ends, expectations.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::archive::Image;
use super::two_engines::TwoEngines;

/// A response, without what two daemons say differently.
#[derive(Debug, PartialEq, Eq)]
struct Response {
    status: String,
    /// Names of headers that describe the response, not where it ends.
    headers: Vec<String>,
    body: String,
}

/// Sends `request` in the pieces that it is given in, and reads to the end of the response.
#[track_caller]
fn exchange(socket: &Path, request: &[Vec<u8>], closes: bool) -> Response {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    for piece in request {
        // Who is refused may be cut off.
        let _ = stream.write_all(piece);
    }
    if closes {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let (head, mut body) = read(&mut stream);
    let mut lines = head.lines();
    let status = lines.next().unwrap().split_once(' ').unwrap().1.to_owned();
    let headers: Vec<_> = lines.filter_map(|line| line.split_once(": ")).collect();
    let value =
        |header: &str| headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(header)).map(|(_, value)| *value);
    if value("Transfer-Encoding") == Some("chunked") {
        assert!(head.starts_with("HTTP/1.1 "), "there are no chunks in 1.0: {head}");
        body = unchunked(&body);
    }
    let mut names: Vec<_> = headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.retain(|name| !matches!(name.as_str(), "connection" | "transfer-encoding" | "content-length" | "date"));
    names.sort();
    Response { status, headers: names, body: String::from_utf8(body).unwrap() }
}

/// The head, interim ones left out, and all that follows until the connection's end, or the end of the chunks.
fn read(stream: &mut UnixStream) -> (String, Vec<u8>) {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    loop {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        let head = String::from_utf8(bytes.drain(..end).collect()).unwrap();
        if !head.starts_with("HTTP/1.1 1") {
            return (head, bytes);
        }
    }
}

fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    loop {
        let end = bytes.windows(2).position(|two| two == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return content;
        }
        content.extend_from_slice(&bytes[end + 2..end + 2 + size]);
        bytes = &bytes[end + 4 + size..];
    }
}

fn chunked(bytes: &[u8]) -> Vec<u8> {
    let mut coded = Vec::new();
    for chunk in bytes.chunks(4000) {
        coded.extend(format!("{:X};ext=1\r\n", chunk.len()).into_bytes());
        coded.extend_from_slice(chunk);
        coded.extend_from_slice(b"\r\n");
    }
    coded.extend_from_slice(b"0\r\nX-Trailer: 1\r\n\r\n");
    coded
}

#[test]
fn every_way_to_write_the_request_gets_the_response_of_dockerd() {
    let engines = TwoEngines::new();
    let image = Image::of(&[b"one", &[7; 300_000]]);
    let archive = image.oci("forms:1").end().0;
    let direct = engines.direct.docker_host().strip_prefix("unix://").unwrap().to_owned();
    let length = format!("Content-Length: {}\r\n", archive.len());
    let cases = [
        ("1.0 with a length", "/images/load", "1.0", length.clone(), archive.clone()),
        ("1.0 that would stay", "/images/load", "1.0", format!("Connection: keep-alive\r\n{length}"), archive.clone()),
        ("1.0 with a host", "/images/load?quiet=1", "1.0", format!("Host: x\r\n{length}"), archive.clone()),
        ("1.0 that expects", "/images/load", "1.0", format!("Expect: 100-continue\r\n{length}"), archive.clone()),
        ("1.0 without an archive", "/images/load", "1.0", String::new(), Vec::new()),
        ("1.0 of another version", "/v9.99/images/load", "1.0", length.clone(), archive.clone()),
        (
            "1.1 with a length",
            "/images/load",
            "1.1",
            format!("Host: x\r\nConnection: close\r\n{length}"),
            archive.clone(),
        ),
        (
            "1.1 in chunks with trailers",
            "/v1.51/images/load",
            "1.1",
            "Host: x\r\nConnection: close, TE\r\nTE: trailers\r\nTrailer: X-Trailer\r\nTransfer-Encoding: chunked\r\n"
                .to_owned(),
            chunked(&archive),
        ),
        ("1.1 without a host", "/images/load", "1.1", format!("Connection: close\r\n{length}"), archive.clone()),
        ("1.1 without an archive", "/images/load", "1.1", "Host: x\r\nConnection: close\r\n".to_owned(), Vec::new()),
        (
            "1.1 that asks to be asked",
            "/images/load",
            "1.1",
            format!("Host: x\r\nConnection: close\r\nExpect: 100-continue\r\n{length}"),
            archive.clone(),
        ),
        (
            "1.1 that expects what nobody gives",
            "/images/load",
            "1.1",
            format!("Host: x\r\nConnection: close\r\nExpect: miracles\r\n{length}"),
            Vec::new(),
        ),
        (
            "a wrong platform",
            "/images/load?platform=%7Bbroken",
            "1.1",
            format!("Host: x\r\nConnection: close\r\nExpect: 100-continue\r\n{length}"),
            Vec::new(),
        ),
    ];
    for round in ["absent", "present"] {
        for (name, path, version, headers, body) in &cases {
            let request = [format!("POST {path} HTTP/{version}\r\n{headers}\r\n").into_bytes(), body.clone()];
            let through = exchange(engines.door(), &request, false);
            let directly = exchange(Path::new(&direct), &request, false);
            assert_eq!(through, directly, "{name}, blobs {round}");
            engines.quiet();
        }
    }
    // And something was loaded in fact.
    engines.through(["inspect", "forms:1"]).ok();
}

#[test]
fn what_is_not_requested_is_not_sent() {
    let engines = TwoEngines::new();
    let archive = Image::of(&[b"one"]).oci("asked:1").end().0;
    let head = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            archive.len()
        )
    };
    let mut stream = UnixStream::connect(engines.door()).unwrap();
    stream.write_all(head("/images/load").as_bytes()).unwrap();
    assert_eq!(crate::raw::head(&mut stream), "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(&archive).unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.starts_with("HTTP/1.1 200 ") && rest.contains("Loaded image: asked:1"), "{rest}");
    // dockerd refuses this one by its head alone.
    let mut stream = UnixStream::connect(engines.door()).unwrap();
    stream.write_all(head("/v9.99/images/load").as_bytes()).unwrap();
    let refused = crate::raw::head(&mut stream);
    assert!(refused.starts_with("HTTP/1.1 400 "), "{refused}");
    engines.quiet();
}
