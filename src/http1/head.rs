//! Heads of requests and responses: finds their ends, parses their headers, and derives the framing of their bodies.
//!
//! The rules are those of RFC 9112, section 6.3, applied strictly: a request whose end is ambiguous is rejected,
//! because another reader might take the rest for another request. All other errors are left to the upstream.

use std::fmt;

use bytes::Bytes;
use http::StatusCode;

use super::body::Framing;

/// The longest head; the limit of Go's servers (`net/http` `DefaultMaxHeaderBytes`, and 4096 of "slop").
pub const HEAD_BYTES: usize = (1 << 20) + 4096;

/// The number of headers that the parser has room for at first; it retries with more.
const USUAL_HEADERS: usize = 64;
/// The most headers that fit in [`HEAD_BYTES`]: each takes at least `a:` and a line end.
const MAX_HEADERS: usize = HEAD_BYTES / 3;

/// The preface of HTTP/2 with prior knowledge (RFC 9113, section 3.4), up to its first empty line.
pub(super) const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// Why a request's head is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadHead {
    /// It is longer than [`HEAD_BYTES`].
    #[error("the request's head is longer than {HEAD_BYTES} bytes")]
    TooLong,
    /// It is not HTTP/1.
    #[error("the request is malformed: {0}")]
    Syntax(&'static str),
    /// Its version is neither 1.0 nor 1.1.
    #[error("the request's HTTP version is not supported: expected 1.0 or 1.1")]
    Version,
    /// Its end is ambiguous.
    #[error("the request's length is ambiguous: {0}")]
    Length(&'static str),
    /// Its end cannot be known.
    #[error("the request's transfer coding is not supported: expected `chunked`")]
    Coding,
}

impl BadHead {
    /// The status of the response; that of Go's server where it rejects the same (`net/http/server.go`).
    pub fn status(self) -> StatusCode {
        match self {
            Self::TooLong => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::Coding => StatusCode::NOT_IMPLEMENTED,
            Self::Syntax(_) | Self::Length(_) => StatusCode::BAD_REQUEST,
        }
    }
}

/// Finds the end of a head that arrives in pieces, examining each byte once.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    /// How many bytes were examined.
    seen: usize,
    /// Whether the head has begun: empty lines before it are skipped (RFC 9112, section 2.2).
    begun: bool,
    /// Whether the current line is empty so far.
    empty_line: bool,
}

impl Scanner {
    /// The length of the head at the beginning of `bytes`, which begin with the bytes of the last call.
    pub(super) fn end(&mut self, bytes: &[u8]) -> Option<usize> {
        while let Some(&byte) = bytes.get(self.seen) {
            self.seen += 1;
            match byte {
                b'\n' if self.begun && self.empty_line => {
                    let end = self.seen;
                    *self = Self::default();
                    return Some(end);
                }
                b'\n' => self.empty_line = true,
                b'\r' => {}
                _ => (self.begun, self.empty_line) = (true, false),
            }
        }
        None
    }
}

/// The head of a request.
#[derive(Debug, Clone)]
pub struct RequestHead {
    raw: Bytes,
    method: Bytes,
    target: Bytes,
    headers: Headers,
    framing: Framing,
}

/// The headers of a head, in order and in their original spelling.
#[derive(Clone)]
pub struct Headers(Vec<(Bytes, Bytes)>);

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values can be credentials (`X-Registry-Auth`).
        f.debug_list().entries(self.0.iter().map(|(name, _)| String::from_utf8_lossy(name))).finish()
    }
}

impl RequestHead {
    /// Parses `raw`, whose end a [`Scanner`] found.
    pub(super) fn parse(raw: Bytes) -> Result<Self, BadHead> {
        let mut room = vec![httparse::EMPTY_HEADER; USUAL_HEADERS];
        let request = loop {
            let mut request = httparse::Request::new(&mut room);
            match request.parse(&raw) {
                Ok(httparse::Status::Complete(length)) if length == raw.len() => break request,
                Ok(_) => return Err(BadHead::Syntax("it has no end")),
                Err(httparse::Error::TooManyHeaders) if room.len() < MAX_HEADERS => {}
                Err(httparse::Error::Version) => return Err(BadHead::Version),
                Err(error) => return Err(BadHead::Syntax(name(error))),
            }
            room = vec![httparse::EMPTY_HEADER; room.len() * 8];
        };
        let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
            return Err(BadHead::Syntax("it has no request line"));
        };
        let headers = Headers::of(&raw, request.headers);
        let (method, target) = (raw.slice_ref(method.as_bytes()), raw.slice_ref(target.as_bytes()));
        // Without either header a request has no body (RFC 9112, section 6.3, rule 7).
        let framing = headers.framing(minor)?.unwrap_or(Framing::Length(0));
        Ok(Self { raw, method, target, headers, framing })
    }

    /// The bytes, as they came.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// The method, which is case-sensitive.
    pub fn method(&self) -> &str {
        text(&self.method)
    }

    /// The request target: path and query. The scheme and host of the absolute form, which mean nothing to a server on
    /// a unix socket, are left out; other forms (`*`, `host:port`) are unchanged.
    pub fn target(&self) -> &str {
        origin_form(text(&self.target))
    }

    /// The headers.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    pub(super) fn framing(&self) -> Framing {
        self.framing
    }
}

impl Headers {
    fn of(raw: &Bytes, headers: &[httparse::Header<'_>]) -> Self {
        let pair = |header: &httparse::Header<'_>| (raw.slice_ref(header.name.as_bytes()), raw.slice_ref(header.value));
        Self(headers.iter().map(pair).collect())
    }

    /// The values of header `name`, which is case-insensitive.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value.as_ref())
    }

    /// The first value of header `name`.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value.as_ref())
    }

    /// The framing that the headers of an HTTP/1.`minor` message define; `None` if they define none.
    fn framing(&self, minor: u8) -> Result<Option<Framing>, BadHead> {
        let mut codings = self.all("transfer-encoding");
        let mut lengths = self.all("content-length");
        match (codings.next(), lengths.next()) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(BadHead::Length("it has both Content-Length and Transfer-Encoding")),
            // RFC 9112, section 6.1: "handled as if the framing is faulty".
            (Some(_), None) if minor == 0 => Err(BadHead::Length("HTTP/1.0 has no Transfer-Encoding")),
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") && codings.next().is_none() => {
                Ok(Some(Framing::Chunked))
            }
            (Some(_), None) => Err(BadHead::Coding),
            (None, Some(first)) if lengths.all(|other| other == first) => {
                length(first).map(|length| Some(Framing::Length(length)))
            }
            (None, Some(_)) => Err(BadHead::Length("it has several Content-Length headers that differ")),
        }
    }
}

/// Digits up to the largest signed 64-bit number, the type that Go's servers use.
fn length(value: &[u8]) -> Result<u64, BadHead> {
    let bad = BadHead::Length("its Content-Length is not a number of bytes");
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(bad);
    }
    text(value).parse::<i64>().ok().and_then(|length| u64::try_from(length).ok()).ok_or(bad)
}

/// The head of a response.
#[derive(Debug, Clone)]
pub struct ResponseHead {
    raw: Bytes,
    status: u16,
    headers: Headers,
    framing: Framing,
}

impl ResponseHead {
    /// Parses `raw`, whose end a [`Scanner`] found, as the response to a request with `method`. `None` if it is not
    /// HTTP/1 or its framing is invalid: then only the connection's end ends it.
    pub(super) fn parse(raw: Bytes, method: &str) -> Option<Self> {
        let mut room = vec![httparse::EMPTY_HEADER; USUAL_HEADERS];
        let response = loop {
            let mut response = httparse::Response::new(&mut room);
            match response.parse(&raw) {
                Ok(httparse::Status::Complete(length)) if length == raw.len() => break response,
                Err(httparse::Error::TooManyHeaders) if room.len() < MAX_HEADERS => {}
                _ => return None,
            }
            room = vec![httparse::EMPTY_HEADER; room.len() * 8];
        };
        let (status, minor) = (response.code?, response.version?);
        let headers = Headers::of(&raw, response.headers);
        let framing = match status {
            // Another protocol follows, or the bytes of a CONNECT tunnel.
            101 => Framing::UntilEnd,
            200..=299 if method == "CONNECT" => Framing::UntilEnd,
            _ if method == "HEAD" => Framing::Length(0),
            100..=199 | 204 | 304 => Framing::Length(0),
            _ => headers.framing(minor).ok()?.unwrap_or(Framing::UntilEnd),
        };
        Some(Self { raw, status, headers, framing })
    }

    /// The bytes, as they came.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// The status code.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The headers.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    pub(super) fn framing(&self) -> Framing {
        self.framing
    }

    /// Whether it is an interim response, which another head follows.
    pub(super) fn is_interim(&self) -> bool {
        matches!(self.status, 100..=199) && self.status != 101
    }
}

/// A target without scheme and host, as Go's servers recognise them (`net/url`, `parse`): `http:/path` has a scheme and
/// no host, and `http:path` has no path and is left unchanged.
fn origin_form(target: &str) -> &str {
    let Some((scheme, rest)) = target.split_once(':') else { return target };
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    if !is_scheme || !rest.starts_with('/') {
        return target;
    }
    let Some(host) = rest.strip_prefix("//") else { return rest };
    match host.find(['/', '?']) {
        Some(end) if host[end..].starts_with('/') => &host[end..],
        _ => "/",
    }
}

/// Methods, targets and numbers as text: httparse accepts them only as ASCII or UTF-8.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

fn name(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "a header's name is not a word",
        httparse::Error::HeaderValue => "a header's value holds a byte that cannot be there",
        httparse::Error::NewLine => "a line does not end as it should",
        httparse::Error::Token => "its first line is not a request",
        httparse::Error::TooManyHeaders => "it has too many headers",
        httparse::Error::Version => "its version is unknown",
        httparse::Error::Status => "its status is not a number",
    }
}

#[cfg(test)]
mod tests;
