//! The signals that end a program.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::timeout;

const TERM: &str = "SIGTERM";
const HANGUP: &str = "SIGHUP";

/// How many pieces of work there are that end by themselves on a signal.
static WORKS: AtomicUsize = AtomicUsize::new(0);
/// Whether one of them has got a signal, and the first time that one does.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);
static TAKEN: Notify = Notify::const_new();
/// How long such work may take until it looks at a signal. It waits for nothing else in its own thread.
const LOOK: Duration = Duration::from_secs(2);

/// Receives SIGTERM, SIGINT, and SIGHUP, which a terminal sends when it is closed.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// The work that ends by these; `None` for who only watches.
    work: Option<Work>,
}

/// Counted in [`WORKS`].
#[derive(Debug)]
struct Work;

impl Work {
    fn begin() -> Self {
        WORKS.fetch_add(1, Ordering::SeqCst);
        Self
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        WORKS.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Signals {
    /// Installs the handlers for work that ends on a signal: from now on the signals no longer kill the process.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { work: Some(Work::begin()), ..Self::watching()? })
    }

    /// The same for who only watches, and ends what has no handlers of its own.
    pub(crate) fn watching() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            work: None,
        })
    }

    /// Waits for the next signal and returns its name. A signal that arrives between two calls is kept.
    pub(crate) async fn next(&mut self) -> &'static str {
        // `None` would mean that the runtime shuts down, and this process with it.
        let signal = tokio::select! {
            _ = self.terminate.recv() => TERM,
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.hangup.recv() => HANGUP,
        };
        if self.work.is_some() {
            IS_TAKEN.store(true, Ordering::SeqCst);
            TAKEN.notify_one();
        }
        signal
    }

    /// Whether work that ends by itself takes a signal that has just come. What began in the same moment may have missed it,
    /// and what waits for a file in its own thread does not look.
    pub(crate) async fn is_taken() -> bool {
        WORKS.load(Ordering::SeqCst) > 0
            && (IS_TAKEN.load(Ordering::SeqCst) || timeout(LOOK, TAKEN.notified()).await.is_ok())
    }

    /// The exit code after `signal`, as shells report it: 128 plus the signal's number.
    pub(crate) fn code(signal: &str) -> u8 {
        match signal {
            TERM => 143,
            HANGUP => 129,
            _ => 130,
        }
    }
}
