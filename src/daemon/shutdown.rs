//! The end: signals, and the time that is left after one.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::DaemonError;

/// The signals that end the daemon.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on these signals no longer kill the process.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one and names it.
    pub(super) async fn next(&mut self) -> &'static str {
        // `None` would mean that the runtime ends, and then so do we.
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Waits until all `connections` are done, for `timeout` at most, or until another signal comes.
pub(super) async fn drain(
    connections: &TaskTracker,
    timeout: Duration,
    signals: &mut Signals,
) -> Result<(), DaemonError> {
    let reason = tokio::select! {
        biased;
        () = connections.wait() => return Ok(()),
        signal = signals.next() => format!("before a second signal ({signal})"),
        () = tokio::time::sleep(timeout) => format!("within {} s", timeout.as_secs()),
    };
    let connections = connections.len();
    warn!(connections, reason, "ending connections");
    Err(DaemonError::Cut { connections, reason })
}
