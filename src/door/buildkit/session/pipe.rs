//! A bounded pipe that turns written bytes into a body of `BytesMessage`s.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame};

use super::messages::{HEAD, seal};
use crate::http2::BodyError;

/// A message's data at most; larger ones would save nothing.
const MESSAGE: usize = 64 << 10;
/// How many messages wait for their reader at most.
const WAITING: usize = 4;
/// Room for a message of a few small frames.
const SMALL: usize = 4 << 10;

/// How a body ends.
#[derive(Debug)]
pub(super) enum End {
    /// By itself, perhaps with trailers.
    Whole(Option<HeaderMap>),
    /// With an error, whose HTTP/2 reset code is passed on.
    Broken(BodyError),
}

/// The end of a pipe that is written, with how the body ends. Clones are the same end.
#[derive(Debug, Clone)]
pub(super) struct Pipe(Arc<Mutex<PipeState>>);

/// The body that a pipe makes.
#[derive(Debug)]
pub(super) struct PipeBody(Arc<Mutex<PipeState>>);

#[derive(Debug, Default)]
struct PipeState {
    waiting: VecDeque<Bytes>,
    /// The message that is being written, with room for its head; empty if none is.
    open: BytesMut,
    end: Option<End>,
    is_closed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl PipeState {
    fn seal(&mut self) {
        if !self.open.is_empty() {
            let open = std::mem::take(&mut self.open);
            self.waiting.push_back(seal(open));
        }
    }

    /// Adds what there is room for.
    fn write(&mut self, bytes: &[u8]) -> usize {
        if self.open.is_empty() {
            let room = if bytes.len() > SMALL { MESSAGE } else { SMALL };
            self.open = BytesMut::with_capacity(HEAD + room);
            self.open.resize(HEAD, 0);
        }
        let length = bytes.len().min(HEAD + MESSAGE - self.open.len());
        if self.open.capacity() - self.open.len() < length {
            self.open.reserve(HEAD + MESSAGE - self.open.len());
        }
        self.open.extend_from_slice(&bytes[..length]);
        if self.open.len() == HEAD + MESSAGE {
            self.seal();
        }
        length
    }

    fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING
    }
}

/// A pipe, and the body that it makes.
pub(super) fn pipe() -> (Pipe, PipeBody) {
    let state = Arc::default();
    (Pipe(Arc::clone(&state)), PipeBody(state))
}

fn lock(state: &Mutex<PipeState>) -> MutexGuard<'_, PipeState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

impl Pipe {
    /// Writes as much of `parts` as there is room for.
    pub(super) fn poll_write<'a>(
        &self,
        context: &mut Context<'_>,
        parts: impl IntoIterator<Item = &'a [u8]>,
    ) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.0);
        if state.is_closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let mut written = 0;
        for mut part in parts {
            while !part.is_empty() && !state.is_full() {
                let length = state.write(part);
                (part, written) = (&part[length..], written + length);
            }
        }
        if state.is_full() {
            wake(&mut state.reader);
            if written == 0 {
                state.writer = Some(context.waker().clone());
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(written))
    }

    /// Lets the reader have what was written.
    pub(super) fn flush(&self) {
        wake(&mut lock(&self.0).reader);
    }

    /// Whether nothing more can be written.
    pub(super) fn is_ended(&self) -> bool {
        lock(&self.0).is_closed
    }

    /// Ends the body, behind what was written; from now on nothing can be. The first end counts.
    pub(super) fn end(&self, end: End) {
        let mut state = lock(&self.0);
        if !state.is_closed {
            (state.end, state.is_closed) = (Some(end), true);
        }
        wake(&mut state.reader);
        wake(&mut state.writer);
    }
}

impl HttpBody for PipeBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut state = lock(&self.0);
        if state.waiting.is_empty() {
            state.seal();
        }
        if let Some(message) = state.waiting.pop_front() {
            wake(&mut state.writer);
            return Poll::Ready(Some(Ok(Frame::data(message))));
        }
        match state.end.take() {
            Some(End::Whole(trailers)) => Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers)))),
            Some(End::Broken(error)) => Poll::Ready(Some(Err(error))),
            None if state.is_closed => Poll::Ready(None),
            None => {
                state.reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for PipeBody {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.is_closed = true;
        state.waiting.clear();
        wake(&mut state.writer);
    }
}
