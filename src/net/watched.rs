//! A stream that ends when nothing moves on it, in either direction.
//!
//! For connections whose other side always has something to say, such as responses to pings of HTTP/2. The bytes are what
//! counts, and not the time that a ping takes: on a slow network it waits behind megabytes that are on their way.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// By how much the end of the wait may be missed. Whoever misses it by more was stopped itself, and begins to wait anew.
const SLACK: Duration = Duration::from_secs(5);

/// Why a stream ended on which nothing moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no response within {} s", .0.as_secs())]
struct Silence(Duration);

/// A stream that fails when no byte was read or written for a while.
#[derive(Debug)]
pub(crate) struct Watched<S> {
    stream: S,
    limit: Duration,
    moved: Instant,
    timer: Pin<Box<Sleep>>,
}

impl<S> Watched<S> {
    /// Fails reads and writes of `stream` when nothing moves for `limit`.
    pub(crate) fn new(stream: S, limit: Duration) -> Self {
        let moved = Instant::now();
        Self { stream, limit, moved, timer: Box::pin(sleep_until(moved + limit)) }
    }

    /// Ready when nothing has moved for too long.
    fn poll_silence(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            ready!(self.timer.as_mut().poll(context));
            let (now, end) = (Instant::now(), self.moved + self.limit);
            if now >= end + SLACK {
                self.moved = now;
            } else if now >= end {
                return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, Silence(self.limit)));
            }
            self.timer.as_mut().reset(self.moved + self.limit);
        }
    }
}

impl<S: Unpin> Watched<S> {
    fn watched(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match write(Pin::new(&mut self.stream), context) {
            Poll::Ready(written) => {
                self.moved = Instant::now();
                Poll::Ready(written)
            }
            Poll::Pending => self.poll_silence(context).map(Err),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(context, into) {
            Poll::Ready(read) => {
                self.moved = Instant::now();
                Poll::Ready(read)
            }
            Poll::Pending => self.poll_silence(context).map(Err),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    forward!(write stream through watched);
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::{advance, sleep};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_reader_and_a_writer_that_wait_in_vain_are_told() {
        let (near, _far) = tokio::io::duplex(8);
        let mut stream = Watched::new(near, LIMIT);
        let error = stream.read_u8().await.unwrap_err();
        assert_eq!((error.kind(), error.to_string()), (io::ErrorKind::TimedOut, "no response within 30 s".to_owned()));
        let (near, _far) = tokio::io::duplex(8);
        let error = Watched::new(near, LIMIT).write_all(&[0; 9]).await.unwrap_err();
        assert_eq!(error.to_string(), "no response within 30 s");
    }

    #[tokio::test(start_paused = true)]
    async fn every_byte_in_either_direction_begins_the_wait_anew() {
        let (near, mut far) = tokio::io::duplex(1);
        let mut stream = Watched::new(near, LIMIT);
        let slow = tokio::spawn(async move {
            for byte in 0..4 {
                sleep(LIMIT - Duration::from_secs(1)).await;
                assert_eq!(far.read_u8().await.unwrap(), byte);
            }
            for byte in 0..4 {
                far.write_u8(byte).await.unwrap();
                sleep(LIMIT - Duration::from_secs(1)).await;
            }
            far
        });
        stream.write_all(&[0, 1, 2, 3]).await.unwrap();
        let mut read = [0; 4];
        stream.read_exact(&mut read).await.unwrap();
        assert_eq!(read, [0, 1, 2, 3]);
        drop(slow.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_stopped_itself_waits_once_more() {
        let (near, mut far) = tokio::io::duplex(8);
        let mut stream = Watched::new(near, LIMIT);
        let begun = futures_util::poll!(Box::pin(stream.read_u8()));
        assert!(begun.is_pending());
        advance(2 * LIMIT).await;
        assert!(futures_util::poll!(Box::pin(stream.read_u8())).is_pending());
        far.write_u8(7).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), 7);
    }
}
