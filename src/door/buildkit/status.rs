//! The progress stream of a build: passed on, and kept open until our export is done.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::builds::Build;
use crate::http2::{Body, BodyError};

/// The builder ends this stream just before it answers `Solve`. Our work begins with that answer, so its
/// frames come between the builder's last one and the trailers.
pub(super) fn hold_open(response: Response<Incoming>, build: Arc<Build>) -> Response<Body> {
    if response.body().is_end_stream() {
        // Only a status, in the headers: there is nothing to hold open, and it must stay a single frame.
        return response.map(|body| body.map_err(BodyError::from).boxed_unsync());
    }
    let (parts, body) = response.into_parts();
    // One frame at a time: the client's pace is the builder's.
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(pass_on(body, build, sender));
    Response::from_parts(parts, StreamBody::new(ReceiverStream::new(receiver)).boxed_unsync())
}

/// Ends early when the client has gone, which drops the builder's stream too.
async fn pass_on(mut body: Incoming, build: Arc<Build>, sender: mpsc::Sender<Result<Frame<Bytes>, BodyError>>) {
    let mut trailers = None;
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = sender.closed() => return,
        };
        match frame {
            Some(Ok(frame)) if frame.is_trailers() => trailers = Some(frame),
            Some(Ok(frame)) => {
                if sender.send(Ok(frame)).await.is_err() {
                    return;
                }
            }
            Some(Err(error)) => {
                // The reset code in it reaches the client; if that has gone, nobody needs it.
                let _ = sender.send(Err(error.into())).await;
                return;
            }
            None => break,
        }
    }
    let mut watch = build.watch();
    loop {
        let frames = tokio::select! {
            frames = watch.next() => frames,
            () = sender.closed() => return,
        };
        let Some(frames) = frames else { break };
        for frame in frames {
            if sender.send(Ok(Frame::data(frame))).await.is_err() {
                return;
            }
        }
    }
    if let Some(trailers) = trailers {
        let _ = sender.send(Ok(trailers)).await;
    }
}
