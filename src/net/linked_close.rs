//! The end of one stream, known to another before anything that follows from it.
//!
//! When an upstream's stream ends, HTTP/2 answers the calls that were under way with resets and statuses. A client that
//! stands on that stream alone would have seen nothing of the kind, only the end. So the end is noted where it is read,
//! before HTTP/2 learns of it, and a [`Cut`] stream passes nothing on from then.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A stream that notes its end: the peer's, an error, or our own.
#[derive(Debug)]
pub(crate) struct Noted<S> {
    stream: S,
    ended: CancellationToken,
    _dropped: DropGuard,
}

/// A stream that nothing more is written to once another has ended.
#[derive(Debug)]
pub struct Cut<S> {
    stream: S,
    other: CancellationToken,
}

impl<S> Noted<S> {
    /// Cancels `ended` when `stream` ends.
    pub(crate) fn new(stream: S, ended: CancellationToken) -> Self {
        Self { stream, _dropped: ended.clone().drop_guard(), ended }
    }

    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|_| self.ended.cancel())
    }
}

impl<S> Cut<S> {
    /// Refuses writes to `stream` once `other` is cancelled.
    pub fn new(stream: S, other: CancellationToken) -> Self {
        Self { stream, other }
    }

    fn check(&self) -> io::Result<()> {
        if self.other.is_cancelled() { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Noted<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (before, room) = (into.filled().len(), into.remaining());
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, into));
        if read.is_ok() && room > 0 && into.filled().len() == before {
            self.ended.cancel();
        }
        Poll::Ready(self.note(read))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noted<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes));
        Poll::Ready(self.note(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, bytes));
        Poll::Ready(self.note(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Cut<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Cut<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn nothing_is_written_once_the_other_stream_has_ended() {
        let ended = CancellationToken::new();
        let (here, mut there) = tokio::io::duplex(64);
        let (mut upstream, mut peer) = (Noted::new(here, ended.clone()), Cut::new(tokio::io::sink(), ended.clone()));
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
        drop(Noted::new(tokio::io::sink(), ended.clone()));
        assert!(ended.is_cancelled());
    }
}
