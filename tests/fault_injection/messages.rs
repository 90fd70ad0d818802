//! The gRPC messages inside an HTTP/2 body, looked at one by one.

use std::{collections::VecDeque, sync::Arc};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::stream;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use linkspan::http2::{Body, BodyError, MAX_MESSAGE_BYTES};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::proxy::{Direction, Message, Passed, State};

/// A compression flag and a length of 32 bits go before each message.
const HEADER: usize = 5;

/// A call, of which each direction has its messages.
pub(super) struct Call {
    pub(super) state: Arc<State>,
    /// Cancelled when the connection is cut.
    pub(super) cut: CancellationToken,
    pub(super) path: String,
    pub(super) number: usize,
}

/// One direction of one call.
pub(super) struct Messages {
    call: Arc<Call>,
    direction: Direction,
    body: Option<Incoming>,
    buffer: BytesMut,
    index: usize,
    ready: VecDeque<Frame<Bytes>>,
}

impl Messages {
    pub(super) fn new(call: Arc<Call>, direction: Direction, body: Incoming) -> Self {
        Self { call, direction, body: Some(body), buffer: BytesMut::new(), index: 0, ready: VecDeque::new() }
    }

    /// The body that goes on, pulled at the receiver's pace.
    pub(super) fn into_body(self) -> Body {
        let frames = stream::unfold(self, |mut messages| async move {
            let frame = messages.next().await?;
            Some((frame, messages))
        });
        StreamBody::new(frames).boxed_unsync()
    }

    async fn next(&mut self) -> Option<Result<Frame<Bytes>, BodyError>> {
        let cut = self.call.cut.clone();
        let cut_off = || Some(Err("the proxy cut the connection".into()));
        cut.run_until_cancelled(self.pull()).await.unwrap_or_else(cut_off)
    }

    async fn pull(&mut self) -> Option<Result<Frame<Bytes>, BodyError>> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Some(Ok(frame));
            }
            if let Some(message) = self.take() {
                self.judge(message).await;
                continue;
            }
            match self.body.as_mut()?.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(trailers) => {
                        // The end of a call is as much held back as its messages.
                        self.call.state.thawed().await;
                        self.ready.push_back(trailers);
                    }
                },
                Some(Err(error)) => return Some(Err(error.into())),
                None => {
                    self.body = None;
                    assert!(self.buffer.is_empty(), "{}: a message broke off", self.call.path);
                }
            }
        }
    }

    /// The next whole message.
    fn take(&mut self) -> Option<Bytes> {
        let length = self.buffer.get(1..HEADER)?.get_u32() as usize;
        assert!(length < MAX_MESSAGE_BYTES, "{}: a message of {length} bytes", self.call.path);
        if self.buffer.len() < HEADER + length {
            return None;
        }
        Some(self.buffer.split_to(HEADER + length).freeze().slice(HEADER..))
    }

    async fn judge(&mut self, bytes: Bytes) {
        let (call, direction) = (&self.call, self.direction);
        let message = Message { path: &call.path, call: call.number, direction, index: self.index, bytes: &bytes };
        let passed = self.call.state.judge(&message).await;
        self.index += 1;
        match passed {
            Passed::Messages(messages) => self.ready.extend(messages.iter().map(|bytes| Frame::data(frame(bytes)))),
            Passed::End(code, message) => {
                self.body = None;
                self.buffer.clear();
                let trailers = Status::new(code, message).into_http::<()>().headers().clone();
                self.ready.push_back(Frame::trailers(trailers));
            }
        }
    }
}

fn frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEADER + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap());
    frame.put_slice(message);
    frame.freeze()
}
