//! A stream whose other end is looked up while nothing moves on it.
//!
//! For servers that are silent while they work, and take no pings (containerd ends a connection of which it gets more than one in
//! five minutes): that nothing moves says nothing there, and somebody else knows whether the server can go on.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// How long nothing may move until it is looked up: the first time, less than a call may take; then twice as long each time, so
/// that idle connections cost next to nothing, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(600));

/// Says why the other end cannot go on; `None` if it can, or if nobody knows.
pub(crate) type LookUp = Box<dyn Fn() -> BoxFuture<'static, Option<String>> + Send>;

/// A stream that fails when nothing moves and the other end cannot go on.
pub(crate) struct Attended<S> {
    stream: S,
    look_up: LookUp,
    moved: Instant,
    pause: Duration,
    timer: Pin<Box<Sleep>>,
    looking: Option<BoxFuture<'static, Option<String>>>,
}

impl<S: fmt::Debug> fmt::Debug for Attended<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attended").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl<S> Attended<S> {
    /// Fails reads and writes of `stream` with what `look_up` says.
    pub(crate) fn new(stream: S, look_up: LookUp) -> Self {
        let (moved, pause) = (Instant::now(), PAUSES.0);
        Self { stream, look_up, moved, pause, timer: Box::pin(sleep_until(moved + pause)), looking: None }
    }

    fn note_move(&mut self) {
        self.moved = Instant::now();
        self.pause = PAUSES.0;
        self.looking = None;
    }

    /// Ready when nothing moves any more.
    fn poll_silence(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            if let Some(looking) = &mut self.looking {
                let reason = ready!(looking.as_mut().poll(context));
                self.looking = None;
                if let Some(reason) = reason {
                    return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, reason));
                }
                self.moved = Instant::now();
                self.pause = PAUSES.1.min(self.pause * 2);
            }
            let end = self.moved + self.pause;
            if self.timer.deadline() != end {
                self.timer.as_mut().reset(end);
            }
            ready!(self.timer.as_mut().poll(context));
            self.looking = Some((self.look_up)());
        }
    }
}

impl<S: Unpin> Attended<S> {
    fn attended(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match write(Pin::new(&mut self.stream), context) {
            Poll::Ready(written) => {
                self.note_move();
                Poll::Ready(written)
            }
            Poll::Pending => self.poll_silence(context).map(Err),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Attended<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(context, into) {
            Poll::Ready(read) => {
                self.note_move();
                Poll::Ready(read)
            }
            Poll::Pending => self.poll_silence(context).map(Err),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Attended<S> {
    forward!(write stream through attended);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Says that it cannot go on the `bad`th time, and counts.
    fn look_up(bad: usize) -> (LookUp, Arc<AtomicUsize>) {
        let count = Arc::<AtomicUsize>::default();
        let counting = count.clone();
        let look_up: LookUp = Box::new(move || {
            let count = counting.fetch_add(1, Ordering::Relaxed) + 1;
            Box::pin(async move { (count == bad).then(|| "it is paused".to_owned()) })
        });
        (look_up, count)
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_or_writes_in_vain_is_told_why() {
        let begun = Instant::now();
        let (near, _far) = tokio::io::duplex(8);
        let error = Attended::new(near, look_up(1).0).read_u8().await.unwrap_err();
        assert_eq!((error.to_string(), begun.elapsed()), ("it is paused".to_owned(), PAUSES.0));
        let (near, _far) = tokio::io::duplex(8);
        let error = Attended::new(near, look_up(1).0).write_all(&[0; 9]).await.unwrap_err();
        assert_eq!((error.to_string(), begun.elapsed()), ("it is paused".to_owned(), 2 * PAUSES.0));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_works_in_silence_is_waited_for() {
        let (near, mut far) = tokio::io::duplex(8);
        let (look_up, count) = look_up(3);
        let mut stream = Attended::new(near, look_up);
        let working = async {
            tokio::time::sleep(4 * PAUSES.0).await;
            far.write_u8(7).await.unwrap();
        };
        let (read, ()) = tokio::join!(stream.read_u8(), working);
        assert_eq!((read.unwrap(), count.load(Ordering::Relaxed)), (7, 2), "after one pause, and after two more");
        // What moves begins the wait anew.
        let begun = Instant::now();
        stream.read_u8().await.unwrap_err();
        assert_eq!(begun.elapsed(), PAUSES.0);
    }
}
