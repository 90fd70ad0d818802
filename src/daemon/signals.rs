//! The signals that end a program.

use std::fs;
use std::future::pending;
use std::io;
use std::sync::LazyLock;
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

/// Whether this process was started with SIGHUP ignored, as `nohup` does: then it outlives its terminal.
static IGNORES_HANGUP: LazyLock<bool> = LazyLock::new(|| {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignored(&status) & (1 << (SignalKind::hangup().as_raw_value() - 1)) != 0
});

/// The signals that a process ignores, by its status file (proc(5), `SigIgn`).
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Receives SIGTERM, SIGINT, and SIGHUP, which a terminal sends when it is closed, unless that was ignored from the start.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
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
            // First, for who waits until the others are handled.
            hangup: if *IGNORES_HANGUP { None } else { Some(signal(SignalKind::hangup())?) },
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            work: None,
        })
    }

    /// Waits for the next signal and returns its name. A signal that arrives between two calls is kept.
    pub(crate) async fn next(&mut self) -> &'static str {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => pending().await,
            }
        };
        // `None` would mean that the runtime shuts down, and this process with it.
        let signal = tokio::select! {
            _ = self.terminate.recv() => TERM,
            _ = self.interrupt.recv() => "SIGINT",
            _ = hangup => HANGUP,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_ignores_is_in_its_status() {
        assert_eq!(ignored("Name:\tx\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\nSigCgt:\t1\n"), 0x1001);
        assert_eq!((ignored(""), ignored("SigIgn:\tx")), (0, 0));
    }
}
