//! Hears what dockerd answers when it does not take the whole request.
//!
//! A dockerd that refuses a load (a full disk, an authorization plugin) answers and closes while the archive is still being
//! sent. hyper gives up on a connection as soon as a write fails, even if the answer came in just before (its
//! `proto/h1/dispatch.rs` reads, then writes, and reads again only after both went well). So a write that the peer
//! no longer takes waits here instead: reading goes on, and ends with the answer or with the end of the connection.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream whose broken writes never end, for a reader that sees the peer close.
#[derive(Debug)]
pub(super) struct Heard<S> {
    stream: S,
    closed: bool,
}

impl<S> Heard<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, closed: false }
    }

    /// What became of a write. Nobody has to be woken for one that waits: the reader is, when the peer's end comes.
    fn written<T>(&mut self, outcome: io::Result<T>) -> Poll<io::Result<T>> {
        match outcome {
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                self.closed = true;
                Poll::Pending
            }
            outcome => Poll::Ready(outcome),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.closed {
            return Poll::Pending;
        }
        let outcome = ready!(Pin::new(&mut self.stream).poll_write(context, bytes));
        self.written(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.closed {
            return Poll::Pending;
        }
        let outcome = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, bytes));
        self.written(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn what_was_said_before_the_end_is_heard_after_a_write_that_failed() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut near = Heard::new(near);
        near.write_all(b"never read").await.unwrap();
        far.write_all(b"no").await.unwrap();
        drop(far);
        let mut writing = Box::pin(near.write(b"more"));
        assert!(futures_util::poll!(writing.as_mut()).is_pending());
        drop(writing);
        let mut said = [0; 2];
        near.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"no");
        assert!(futures_util::poll!(Box::pin(near.write(b"more"))).is_pending());
        // The kernel tells of the unread bytes to whoever asks first.
        match near.read(&mut said).await {
            Ok(count) => assert_eq!(count, 0),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
}
