//! Closes one stream when another one ends.
//!
//! When an upstream's stream ends, HTTP/2 ends every call under way with a reset or a status. A client that is
//! connected to the upstream directly would see only the end of the stream. So [`EofSignal`] signals the end when it
//! is read, before HTTP/2 processes it, and from then on a [`CloseWith`] stream writes nothing.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A stream that signals its end: the peer's end of stream, an error, or its own drop.
#[derive(Debug)]
pub(crate) struct EofSignal<S> {
    stream: S,
    ended: CancellationToken,
    _dropped: DropGuard,
}

/// A stream that refuses writes once another one has ended.
#[derive(Debug)]
pub struct CloseWith<S> {
    stream: S,
    other: CancellationToken,
}

impl<S> EofSignal<S> {
    /// Cancels `ended` when `stream` ends.
    pub(crate) fn new(stream: S, ended: CancellationToken) -> Self {
        Self { stream, _dropped: ended.clone().drop_guard(), ended }
    }

    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|_| self.ended.cancel())
    }
}

impl<S: Unpin> EofSignal<S> {
    fn noted(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        write(Pin::new(&mut self.stream), context).map(|written| self.note(written))
    }
}

impl<S> CloseWith<S> {
    /// Refuses writes to `stream` once `other` is cancelled.
    pub fn new(stream: S, other: CancellationToken) -> Self {
        Self { stream, other }
    }
}

impl<S: Unpin> CloseWith<S> {
    fn checked(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.other.is_cancelled() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        write(Pin::new(&mut self.stream), context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for EofSignal<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (before, room) = (into.filled().len(), into.remaining());
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, into));
        if read.is_ok() && room > 0 && into.filled().len() == before {
            self.ended.cancel();
        }
        Poll::Ready(self.note(read))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for EofSignal<S> {
    forward!(write stream through noted);
}

impl<S: AsyncRead + Unpin> AsyncRead for CloseWith<S> {
    forward!(read stream);
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CloseWith<S> {
    forward!(write stream through checked);
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn nothing_is_written_once_the_other_stream_has_ended() {
        let ended = CancellationToken::new();
        let (here, mut there) = tokio::io::duplex(64);
        let (mut upstream, mut peer) =
            (EofSignal::new(here, ended.clone()), CloseWith::new(tokio::io::sink(), ended.clone()));
        there.write_all(b"last words").await.unwrap();
        upstream.read_exact(&mut [0; 10]).await.unwrap();
        peer.write_all(b"last words").await.unwrap();
        drop(there);
        assert_eq!(upstream.read(&mut [0; 10]).await.unwrap(), 0);
        assert_eq!(peer.write_all(b"more").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn an_end_of_our_own_is_one_too() {
        let ended = CancellationToken::new();
        drop(EofSignal::new(tokio::io::sink(), ended.clone()));
        assert!(ended.is_cancelled());
    }
}
