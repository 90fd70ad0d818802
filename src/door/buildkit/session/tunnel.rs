//! One side of a split session as the byte stream that its HTTP/2 runs on.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use super::messages::Messages;
use super::pipe::{End, Pipe};
use super::source::Source;

/// A byte stream to one side.
///
/// The end of that side's output is the end of the other side's input, and of nothing else: whatever becomes of the two
/// HTTP/2 connections, the calls that carry the session end as they would without us. So the other side's [`Pipe`] is ended
/// here, before HTTP/2 learns that there is nothing more to read, and resets calls.
pub(super) struct Tunnel {
    /// The output of this side; none behind its end.
    source: Option<Source>,
    messages: Messages,
    piece: Bytes,
    /// The input of this side.
    near: Pipe,
    /// The input of the other side.
    far: Pipe,
    /// The end of this side's output, which the other side has not received yet.
    ending: Option<End>,
    /// Ready when it may receive it.
    may_end: BoxFuture<'static, ()>,
    /// Where the source goes when HTTP/2 is done with it.
    back: Option<oneshot::Sender<Source>>,
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Tunnel {
    /// A stream whose input is `source`, and whose output goes to `near`. With the source `far` ends, as soon as `may_end` is ready. The
    /// receiver gets the source when nobody reads the stream any more.
    pub(super) fn new(
        source: Source,
        near: Pipe,
        far: Pipe,
        may_end: BoxFuture<'static, ()>,
    ) -> (Self, oneshot::Receiver<Source>) {
        let (back, returned) = oneshot::channel();
        let (messages, piece) = Default::default();
        let (source, back, ending) = (Some(source), Some(back), None);
        (Self { source, messages, piece, near, far, ending, may_end, back }, returned)
    }
}

/// The end of `source`, if it comes next. `Ok` is data.
pub(super) fn poll_source(source: &mut Source, context: &mut Context<'_>) -> Poll<Result<Bytes, End>> {
    source.poll_next(context).map(|next| match next {
        Some(Ok(frame)) => frame.into_data().map_err(|frame| End::Whole(frame.into_trailers().ok())),
        Some(Err(error)) => Err(End::Broken(error)),
        None => Err(End::Whole(None)),
    })
}

impl AsyncRead for Tunnel {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        loop {
            let length = this.piece.len().min(into.remaining());
            into.put_slice(&this.piece[..length]);
            this.piece.advance(length);
            if into.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let malformed = |error| io::Error::new(io::ErrorKind::InvalidData, error);
            if let Some(piece) = this.messages.next().map_err(malformed)? {
                this.piece = piece;
                continue;
            }
            let has_some = into.filled().len() > before;
            let Some(source) = &mut this.source else {
                if this.ending.is_some() && !has_some {
                    ready!(this.may_end.poll_unpin(context));
                    this.ending.take().into_iter().for_each(|end| this.far.end(end));
                }
                return Poll::Ready(Ok(()));
            };
            match poll_source(source, context) {
                Poll::Ready(Ok(data)) => this.messages.feed(data),
                Poll::Ready(Err(end)) => {
                    this.source = None;
                    this.ending = Some(end);
                }
                Poll::Pending if has_some => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.near.poll_write(context, [bytes])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.near.poll_write(context, parts.iter().map(|part| &**part))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.near.flush();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The call that carries the session ends with the other side, not with HTTP/2.
        self.poll_flush(context)
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if let Some(end) = self.ending.take() {
            self.far.end(end);
        }
        if let (Some(source), Some(back)) = (self.source.take(), self.back.take()) {
            // Nobody takes it back when the session is over.
            let _ = back.send(source);
        }
    }
}
