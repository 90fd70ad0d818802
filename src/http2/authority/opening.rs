//! The time that a client has for its connection preface: who only connects keeps others out.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

/// The length of the preface (RFC 9113, section 3.4).
const PREFACE: usize = 24;
/// How long a client may take for it.
pub(super) const LIMIT: Duration = Duration::from_secs(30);

/// A connection that has to be opened by its client.
#[derive(Debug)]
pub(super) struct Opening {
    /// How many bytes of the preface have not come yet.
    pub(super) left: usize,
    late: Option<Pin<Box<Sleep>>>,
}

impl Default for Opening {
    fn default() -> Self {
        Self { left: PREFACE, late: None }
    }
}

impl Opening {
    /// What to say of a connection that has nothing to read: an error if it is too late for the preface.
    pub(super) fn poll_late(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.left == 0 {
            self.late = None;
            return Poll::Pending;
        }
        ready!(self.late.get_or_insert_with(|| Box::pin(sleep(LIMIT))).as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client has not begun to speak HTTP/2 in time")))
    }
}
