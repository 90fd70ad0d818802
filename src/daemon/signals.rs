//! The signals that end a program.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

const TERM: &str = "SIGTERM";
const HANGUP: &str = "SIGHUP";

/// Receives SIGTERM, SIGINT, and SIGHUP, which a terminal sends when it is closed.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Installs the handlers: from now on the signals no longer kill the process.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next signal and returns its name. A signal that arrives between two calls is kept.
    pub(crate) async fn next(&mut self) -> &'static str {
        // `None` would mean that the runtime shuts down, and this process with it.
        tokio::select! {
            _ = self.terminate.recv() => TERM,
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.hangup.recv() => HANGUP,
        }
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
