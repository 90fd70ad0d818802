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
pub fn with_trailers(bytes: Bytes, trailers: Option<HeaderMap>) -> Body {
    let frames = [Some(Frame::data(bytes)), trailers.map(Frame::trailers)];
    StreamBody::new(stream::iter(frames.into_iter().flatten().map(Ok))).boxed_unsync()
}
