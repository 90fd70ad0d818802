//! A limit on how long a client may take none of the bytes that it is sent.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep};

/// A stream whose writes fail when the client stops reading.
#[derive(Debug)]
pub(super) struct StallLimit<S> {
    stream: S,
    limit: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S: Unpin> StallLimit<S> {
    /// Each write may wait for the client for `limit`.
    pub(super) fn new(stream: S, limit: Duration) -> Self {
        Self { stream, limit, waiting: None }
    }

    fn limited(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let written = write(Pin::new(&mut self.stream), context);
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let limit = self.limit;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(limit)));
        let stalled = || Err(io::Error::new(ErrorKind::TimedOut, "the client stopped reading"));
        waiting.as_mut().poll(context).map(|()| stalled())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StallLimit<S> {
    forward!(read stream);
}

impl<S: AsyncWrite + Unpin> AsyncWrite for StallLimit<S> {
    forward!(write stream through limited);
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(120);

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stops_reading_is_given_up_and_a_slow_one_is_not() {
        let (near, mut far) = duplex(4);
        let mut near = StallLimit::new(near, LIMIT);
        let slow = tokio::spawn(async move {
            let mut bytes = [0; 4];
            for _ in 0..3 {
                sleep(LIMIT / 2).await;
                far.read_exact(&mut bytes).await.unwrap();
            }
            far
        });
        near.write_all(&[0; 16]).await.unwrap();
        let _far = slow.await.unwrap();
        assert_eq!(near.write_all(&[0; 16]).await.unwrap_err().kind(), ErrorKind::TimedOut);
    }
}
