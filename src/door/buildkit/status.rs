//! The progress stream of a build: forwarded, and kept open until our export is done.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::builds::Build;
use super::cache::renamed;
use super::grpc::FRAME_HEADER;
use crate::http2::{Body, BodyError, MAX_MESSAGE_BYTES, is_reset};

/// The builder's progress of a build, of which the first frame has come. The headers come before the builder looks for the build
/// (BuildKit `control/control.go`, `sendTimestampHeader`).
pub(super) struct StatusStream {
    response: Response<Incoming>,
    first: Option<Result<Frame<Bytes>, hyper::Error>>,
}

impl StatusStream {
    pub(super) async fn begin(mut response: Response<Incoming>) -> Self {
        let first = if response.body().is_end_stream() { None } else { response.body_mut().frame().await };
        Self { response, first }
    }

    /// Whether it is only a status.
    pub(super) fn has_no_message(&self) -> bool {
        self.first.as_ref().is_none_or(|first| first.as_ref().is_ok_and(Frame::is_trailers))
    }
}

/// Keeps the stream open. The builder ends it just before its response to `Solve`; the frames of an export that begins with that
/// response are sent between the builder's last one and the trailers, those of one inside the build among the builder's.
pub(super) fn hold_open(stream: StatusStream, build: Arc<Build>) -> Response<Body> {
    let StatusStream { response, first } = stream;
    if first.is_none() {
        // Only a status, in the headers: there is no stream to keep open, and it must stay a single frame.
        return response.map(|body| body.map_err(BodyError::from).boxed_unsync());
    }
    let (parts, body) = response.into_parts();
    // One frame at a time: the client's backpressure reaches the builder.
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(pass_on(first, body, build, sender));
    Response::from_parts(parts, StreamBody::new(ReceiverStream::new(receiver)).boxed_unsync())
}

/// The first frame, then the others.
async fn next(
    first: &mut Option<Result<Frame<Bytes>, hyper::Error>>,
    body: &mut Incoming,
) -> Option<Result<Frame<Bytes>, hyper::Error>> {
    match first.take() {
        Some(frame) => Some(frame),
        None => body.frame().await,
    }
}

/// Ends early when the client disconnects, which drops the builder's stream too.
async fn pass_on(
    mut first: Option<Result<Frame<Bytes>, hyper::Error>>,
    mut body: Incoming,
    build: Arc<Build>,
    sender: mpsc::Sender<Result<Frame<Bytes>, BodyError>>,
) {
    let (mut trailers, mut watch, mut messages) = (None, build.frames.watch(), Messages::default());
    loop {
        let frames = tokio::select! {
            // The builder's own frames come first.
            biased;
            frame = next(&mut first, &mut body) => match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => messages.split(data).into_iter().map(|message| shown(&build, message)).collect(),
                    Err(frame) => {
                        trailers = Some(frame);
                        continue;
                    }
                },
                Some(Err(error)) => {
                    // The error's reset code reaches the client, unless that has disconnected.
                    let end = if is_reset(&error) { Err(error.into()) } else { Ok(Frame::trailers(lost())) };
                    let _ = sender.send(end).await;
                    return;
                }
                None => break,
            },
            frames = watch.live(), if messages.is_empty() => frames,
            () = sender.closed() => return,
        };
        if !send(&sender, frames).await {
            return;
        }
    }
    if !send(&sender, messages.rest()).await {
        return;
    }
    loop {
        let frames = tokio::select! {
            frames = watch.next() => match frames {
                Some(frames) => frames,
                None => break,
            },
            () = sender.closed() => return,
        };
        if !send(&sender, frames).await {
            return;
        }
    }
    if let Some(trailers) = trailers {
        let _ = sender.send(Ok(trailers)).await;
    }
}

/// The trailers of a call whose builder is gone: what a client says whose own connection to the builder has ended (grpc-go).
fn lost() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    // It can only fail for details, of which there are none.
    let _ = Status::unavailable("error reading from server: EOF").add_header(&mut trailers);
    trailers
}

/// Sends frames; returns whether the client still reads.
async fn send(sender: &mpsc::Sender<Result<Frame<Bytes>, BodyError>>, frames: Vec<Bytes>) -> bool {
    for frame in frames {
        if sender.send(Ok(Frame::data(frame))).await.is_err() {
            return false;
        }
    }
    true
}

/// A message of the builder, as it is sent to the client of `build`.
fn shown(build: &Build, message: Bytes) -> Bytes {
    build.read_progress(&message);
    match build.cache() {
        Some(cache) => renamed(message, |vertex| cache.vertex_name(vertex)),
        None => message,
    }
}

/// Reassembles the messages of a stream, whose boundaries are not those of HTTP/2 frames.
#[derive(Debug, Default)]
struct Messages(BytesMut);

impl Messages {
    /// Whether the last message is complete.
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The messages that `data` completes, each with its gRPC header. Data too long for a message passes unchanged.
    fn split(&mut self, mut data: Bytes) -> Vec<Bytes> {
        // Copied only if a message continues in the next frame.
        if !self.0.is_empty() {
            self.0.extend_from_slice(&data);
            data = self.0.split().freeze();
        }
        let mut whole = Vec::new();
        while let Some(header) = data.first_chunk::<FRAME_HEADER>() {
            let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
            if length > MAX_MESSAGE_BYTES {
                whole.push(std::mem::take(&mut data));
            } else if data.len() >= FRAME_HEADER + length {
                whole.push(data.split_to(FRAME_HEADER + length));
            } else {
                break;
            }
        }
        self.0.extend_from_slice(&data);
        whole
    }

    /// The bytes of the last, incomplete message.
    fn rest(&mut self) -> Vec<Bytes> {
        let rest = self.0.split().freeze();
        if rest.is_empty() { Vec::new() } else { vec![rest] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::door::buildkit::grpc::frame;

    #[test]
    fn messages_are_found_wherever_frames_end() {
        let messages = [frame(b"one"), frame(b""), frame(b"three")];
        let stream = messages.concat();
        for size in 1..=stream.len() {
            let mut split = Messages::default();
            let found: Vec<_> =
                stream.chunks(size).flat_map(|part| split.split(Bytes::copy_from_slice(part))).collect();
            assert_eq!(found, messages, "{size}");
            assert!(split.is_empty());
        }
        let mut split = Messages::default();
        assert!(split.split(Bytes::from_static(b"\0\0\0")).is_empty());
        assert_eq!(split.rest(), [Bytes::from_static(b"\0\0\0")]);
    }
}
