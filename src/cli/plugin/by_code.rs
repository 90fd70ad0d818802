//! Ends by an exit code on a signal, from the beginning on.
//!
//! docker reports a plugin that a signal killed with code 255 (docker/cli `cmd/docker/docker.go`, `tryPluginRun`: Go's
//! `WaitStatus.ExitStatus` is -1), where its own commands end with 130 or 143. Work with handlers of its own ends by these, with such a
//! code. Before it begins, and between two pieces of it, this thread ends the process: whatever else waits, as for the writer of a
//! pipe that is being opened, for standard input or for ssh.

use std::io;
use std::process;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use crate::daemon::Signals;

/// Installs the handlers. Returns what is told of each signal.
pub(super) fn begin() -> io::Result<Receiver<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let signals = {
        let _context = runtime.enter();
        // Before anything that may wait.
        Signals::watching()?
    };
    let (seen, told) = channel();
    thread::Builder::new().name("signals".to_owned()).spawn(move || runtime.block_on(follow(signals, &seen)))?;
    Ok(told)
}

async fn follow(mut signals: Signals, seen: &Sender<()>) {
    loop {
        let signal = signals.next().await;
        // Who follows docker's socket may have ended.
        let _ = seen.send(());
        if !Signals::is_taken().await {
            // The other threads may wait for ever. What they have begun is left as a signal would leave it.
            process::exit(i32::from(Signals::code(signal)));
        }
    }
}
