//! Reads a response that dockerd sends before it has read the whole request.
//!
//! A dockerd that refuses a load (a full disk, an authorization plugin) responds and closes while the archive is still being
//! sent. hyper gives up a connection as soon as a write fails, even if the response has just arrived (its
//! `proto/h1/dispatch.rs` reads, then writes, and reads again only after both succeeded). So a failed write stays pending here:
//! reading continues until the response, or the end of the connection.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite};

/// A stream whose failed writes stay pending; the reader sees the peer close.
#[derive(Debug)]
pub(super) struct EarlyResponseStream<S> {
    stream: S,
    closed: bool,
}

impl<S> EarlyResponseStream<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, closed: false }
    }
}

impl<S: Unpin> EarlyResponseStream<S> {
    /// A failed write stays pending without a waker: the reader is woken when the peer closes.
    fn lasting(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.closed {
            return Poll::Pending;
        }
        match ready!(write(Pin::new(&mut self.stream), context)) {
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                self.closed = true;
                Poll::Pending
            }
            outcome => Poll::Ready(outcome),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for EarlyResponseStream<S> {
    forward!(read stream);
}

impl<S: AsyncWrite + Unpin> AsyncWrite for EarlyResponseStream<S> {
    forward!(write stream through lasting);
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn what_was_sent_before_the_end_is_received_after_a_write_that_failed() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut near = EarlyResponseStream::new(near);
        near.write_all(b"never read").await.unwrap();
        far.write_all(b"no").await.unwrap();
        drop(far);
        let mut writing = Box::pin(near.write(b"more"));
        assert!(futures_util::poll!(writing.as_mut()).is_pending());
        drop(writing);
        let mut received = [0; 2];
        near.read_exact(&mut received).await.unwrap();
        assert_eq!(&received, b"no");
        assert!(futures_util::poll!(Box::pin(near.write(b"more"))).is_pending());
        // The kernel reports the unread bytes (ECONNRESET) to the first call.
        match near.read(&mut received).await {
            Ok(count) => assert_eq!(count, 0),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
}
