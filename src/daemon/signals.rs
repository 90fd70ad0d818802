//! The signals that end a program.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

const TERM: &str = "SIGTERM";

/// SIGTERM and SIGINT, received rather than deadly.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on they no longer kill the process.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one and names it. One that comes while nobody waits is kept.
    pub(crate) async fn next(&mut self) -> &'static str {
        // `None` would mean that the runtime ends, and then so do we.
        tokio::select! {
            _ = self.terminate.recv() => TERM,
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// What shells say of a program that `signal` ended: 128 and its number.
    pub(crate) fn code(signal: &str) -> u8 {
        if signal == TERM { 143 } else { 130 }
    }
}
