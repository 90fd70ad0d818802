//! gRPC messages inside HTTP bodies: one length-prefixed frame each way for a unary call.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use http_body_util::{BodyExt, Limited};
use tonic::Status;

use crate::http2::{Body, BodyError, MAX_MESSAGE_BYTES, full, with_trailers};

/// The metadata key that ties gateway calls to their build (BuildKit `client/buildid`).
pub(super) const BUILD_ID: &str = "buildkit-controlapi-buildid";

/// Length of a frame's header: a compression flag and a 32-bit length.
pub(super) const FRAME_HEADER: usize = 5;

/// A whole body: its bytes (frame header included) and its trailers.
#[derive(Debug, Clone)]
pub(super) struct Unary {
    pub(super) body: Bytes,
    pub(super) trailers: Option<HeaderMap>,
}

impl Unary {
    /// Reads a body to its end; at most one gRPC message.
    pub(super) async fn read<B>(body: B) -> Result<Self, BodyError>
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: Into<BodyError>,
    {
        let collected = Limited::new(body, MAX_MESSAGE_BYTES).collect().await?;
        let trailers = collected.trailers().cloned();
        Ok(Self { body: collected.to_bytes(), trailers })
    }

    /// The message in the body, if it is a single uncompressed one.
    pub(super) fn message(&self) -> Option<Bytes> {
        let header = self.body.get(..FRAME_HEADER)?;
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        (header[0] == 0 && self.body.len() == FRAME_HEADER + length).then(|| self.body.slice(FRAME_HEADER..))
    }

    /// Converts back into a body.
    pub(super) fn into_body(self) -> Body {
        with_trailers(self.body, self.trailers)
    }
}

/// A frame around `message`.
pub(super) fn frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(FRAME_HEADER + message.len());
    frame.put_u8(0);
    // A message is bounded by MAX_MESSAGE_BYTES, far below 4 GiB.
    frame.put_u32(message.len() as u32);
    frame.put_slice(message);
    frame.freeze()
}

/// The status of a finished call: in the trailers, or in the headers when there is no body.
pub(super) fn status(headers: &HeaderMap, trailers: Option<&HeaderMap>) -> Option<Status> {
    trailers.and_then(Status::from_header_map).or_else(|| Status::from_header_map(headers))
}

/// A successful response with `frame` as its message.
pub(super) fn grpc_response(frame: Bytes) -> Response<Body> {
    let trailers = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    let mut response = Response::new(with_trailers(frame, Some(trailers)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// A response that is only a status.
pub(super) fn error_response(status: &Status) -> Response<Body> {
    status.clone().into_http::<http_body_util::Empty<Bytes>>().map(|_| full(Bytes::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_single_uncompressed_messages_are_taken() {
        let read = |body: Bytes| Unary::read(full(body));
        let whole = read(frame(b"abc")).await.unwrap();
        assert_eq!(whole.message().as_deref(), Some(&b"abc"[..]));
        let compressed: Bytes = [&[1][..], &frame(b"abc")[1..]].concat().into();
        let two: Bytes = [frame(b"a"), frame(b"b")].concat().into();
        for body in [compressed, two, frame(b"abc").slice(..6), Bytes::new()] {
            assert_eq!(read(body).await.unwrap().message(), None);
        }
    }
}
