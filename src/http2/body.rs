//! Bodies that are forwarded, or made here.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};

use crate::net::Call;

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
/// Without either, the stream ends with the headers. A gRPC response that is only a status ("trailers-only", gRPC over
/// HTTP/2 "Responses") must arrive like that: clients take an empty DATA frame behind it for a broken response.
pub fn with_trailers(bytes: Bytes, trailers: Option<HeaderMap>) -> Body {
    if bytes.is_empty() && trailers.is_none() {
        return full(bytes);
    }
    let frames = [Some(Frame::data(bytes)), trailers.map(Frame::trailers)];
    StreamBody::new(stream::iter(frames.into_iter().flatten().map(Ok))).boxed_unsync()
}

/// `body`, with whose end (or loss) `call` ends.
pub fn until_end_of(body: Body, call: Call) -> Body {
    Counted { body, _call: call }.boxed_unsync()
}

/// A body, and the call that ends with it.
struct Counted {
    body: Body,
    _call: Call,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::net::Drain;

    #[tokio::test]
    async fn a_call_ends_with_its_response() {
        let drain = Drain::from(CancellationToken::new());
        let _tunnel = drain.tunnel();
        let body = until_end_of(full("response".into()), drain.call());
        assert!(drain.must_wait());
        assert_eq!(body.collect().await.unwrap().to_bytes(), "response");
    }

    #[test]
    fn a_body_of_nothing_ends_with_the_headers() {
        assert!(with_trailers(Bytes::new(), None).is_end_stream());
        assert!(!with_trailers(Bytes::new(), Some(HeaderMap::new())).is_end_stream());
        assert!(!with_trailers(Bytes::from_static(b"x"), None).is_end_stream());
    }
}
