//! Bodies that a proxy passes on or makes itself.

use bytes::Bytes;
use futures_util::stream;
use http::HeaderMap;
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};

/// Why a body broke off. The HTTP/2 reset code, if there was one, is found in its sources and passed on.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Any body.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// A body of known bytes.
pub fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// A body of known bytes with trailers behind it.
///
/// Without either, the stream ends with the headers. A gRPC answer that is nothing but a status ("trailers-only",
/// gRPC over HTTP/2 "Responses") must arrive like that: clients take an empty DATA frame behind it for a broken answer.
pub fn with_trailers(bytes: Bytes, trailers: Option<HeaderMap>) -> Body {
    if bytes.is_empty() && trailers.is_none() {
        return full(bytes);
    }
    let frames = [Some(Frame::data(bytes)), trailers.map(Frame::trailers)];
    StreamBody::new(stream::iter(frames.into_iter().flatten().map(Ok))).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;

    use super::*;

    #[test]
    fn a_body_of_nothing_ends_with_the_headers() {
        assert!(with_trailers(Bytes::new(), None).is_end_stream());
        assert!(!with_trailers(Bytes::new(), Some(HeaderMap::new())).is_end_stream());
        assert!(!with_trailers(Bytes::from_static(b"x"), None).is_end_stream());
    }
}
