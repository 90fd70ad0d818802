//! Requests as bytes, and what comes back.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;

/// How long a response may be silent.
const PATIENCE: Duration = Duration::from_secs(180);

/// A response.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// The value of a header, which is there once at most.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        let first = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} comes twice: {self:?}");
        first
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The code of a refusal, whose other parts are there as well.
    #[track_caller]
    pub(crate) fn code(&self) -> String {
        let document = self.json();
        let error = &document["errors"][0];
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{document}");
        assert_eq!(self.header("content-type"), Some("application/json"));
        error["code"].as_str().unwrap().to_owned()
    }

    /// Where `Link` leads, if there is another page.
    pub(crate) fn next(&self) -> Option<String> {
        let link = self.header("link")?;
        Some(link.strip_prefix('<')?.strip_suffix(">; rel=\"next\"")?.to_owned())
    }
}

/// A byte stream.
pub(crate) trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// A connection to `address` (`HOST:PORT` or `unix:///…`).
#[track_caller]
pub(crate) fn connect(address: &str) -> Box<dyn Stream> {
    if let Some(path) = address.strip_prefix("unix://") {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        return Box::new(stream);
    }
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Box::new(stream)
}

/// Sends a request without content to `address` (`HOST:PORT` or `unix:///…`).
#[track_caller]
pub(crate) fn request(address: &str, method: &str, target: &str, headers: &[(&str, &str)]) -> Response {
    let mut text = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        text.push_str("Host: localhost\r\n");
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    exchange(address, text.as_bytes(), method == "HEAD")
}

/// Sends `bytes`, which are a request that asks for the end of the connection, and reads the response.
#[track_caller]
pub(crate) fn exchange(address: &str, bytes: &[u8], is_head: bool) -> Response {
    let mut stream = connect(address);
    stream.write_all(bytes).unwrap();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    parse(&received, is_head)
}

/// Sends a GET whose response is read no further than its first byte.
#[track_caller]
pub(crate) fn begin(address: &str, target: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    stream
}

#[track_caller]
fn parse(received: &[u8], is_head: bool) -> Response {
    let shown = || String::from_utf8_lossy(&received[..received.len().min(500)]).into_owned();
    let end = received.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or_else(|| panic!("{}", shown()));
    let head = std::str::from_utf8(&received[..end]).unwrap();
    let (status, lines) = head.split_once("\r\n").unwrap();
    let status = status.strip_prefix("HTTP/1.1 ").or_else(|| status.strip_prefix("HTTP/1.0 ")).unwrap();
    let headers: Vec<_> = lines
        .split("\r\n")
        .map(|line| line.split_once(": ").unwrap_or_else(|| panic!("{line}")))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let response = Response { status: status[..3].parse().unwrap(), headers, body: received[end + 4..].to_vec() };
    let length: Option<usize> = response.header("content-length").map(|length| length.parse().unwrap());
    match (is_head, length) {
        (true, _) => assert!(response.body.is_empty(), "{response:?}"),
        (false, Some(length)) => assert_eq!(response.body.len(), length, "{}", shown()),
        (false, None) => assert!(matches!(response.status, 204 | 304), "a length is missing: {}", shown()),
    }
    response
}
/// Sends a request with content.
#[track_caller]
pub(crate) fn send(address: &str, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    let mut text = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\nHost: localhost\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    exchange(address, &[text.as_bytes(), body].concat(), method == "HEAD")
}

/// The same with content of which the length is not said.
#[track_caller]
pub(crate) fn stream(address: &str, method: &str, target: &str, body: &[u8]) -> Response {
    let head = format!(
        "{method} {target} HTTP/1.1\r\nConnection: close\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let mut bytes = head.into_bytes();
    for chunk in body.chunks(10_000) {
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    exchange(address, &bytes, false)
}
