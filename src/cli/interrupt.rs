//! Work that a signal interrupts.

use super::{CommandError, Leftover};
use crate::daemon::Signals;
use crate::engine::EngineKind;
use crate::export::Exports;

/// What is said of images that were there when a signal came, and of those that the engine was making visible and did not end with.
const COMPLETED: &str = "what was complete by then stays";
const UNFINISHED: &str = "the engine was not waited for: names may still move to complete images";

/// Runs `work` until it ends, or until SIGINT or SIGTERM drops it; its files are removed when it is dropped.
pub(super) async fn interruptible<T>(work: impl Future<Output = Result<T, CommandError>>) -> Result<T, CommandError> {
    // Installed before the work begins, so that no signal ends the process without removing files.
    let mut signals = Signals::new().map_err(CommandError::Runtime)?;
    tokio::select! {
        result = work => result,
        signal = signals.next() => Err(CommandError::Interrupted { signal, left: Leftover::Nothing }),
    }
}

/// Runs `work`, which exports by `exports`, until it ends or a signal comes; the blobs sent by then are kept for the next try.
/// A second signal ends the process at once.
pub(super) async fn exporting<T>(
    exports: &Exports,
    work: impl Future<Output = Result<T, CommandError>>,
) -> Result<T, CommandError> {
    let mut signals = Signals::new().map_err(CommandError::Runtime)?;
    let interrupted = async {
        let signal = signals.next().await;
        exports.keep_interrupted();
        signal
    };
    let result = tokio::select! {
        result = work => result,
        signal = interrupted => {
            let left = match exports.engine().identity().kind {
                EngineKind::DockerApi => Leftover::Received,
                _ if exports.is_keeping() => Leftover::Kept,
                _ => Leftover::Nothing,
            };
            Err(CommandError::Interrupted { signal, left })
        }
    };
    tokio::select! {
        () = exports.finish() => result.map_err(|error| match error {
            // Known only now: what the engine was making visible may have become so, or may become so later.
            CommandError::Interrupted { signal, left } => {
                let mut said: Vec<_> = exports.names_left().into_iter().collect();
                said.extend((exports.unfinished() > 0).then(|| UNFINISHED.to_owned()));
                said.extend((exports.completed() > 0).then(|| COMPLETED.to_owned()));
                let left = match (&said[..], left) {
                    ([], left) => left,
                    ([one], Leftover::Received) if one == UNFINISHED => Leftover::Unfinished,
                    (_, left) => Leftover::Some(format!("{}; of the rest, {left}", said.join("; "))),
                };
                CommandError::Interrupted { signal, left }
            }
            error => error,
        }),
        signal = signals.next() => match result {
            Err(CommandError::Interrupted { left: Leftover::Nothing, .. }) => {
                Err(CommandError::Interrupted { signal, left: Leftover::Lease { is_complete: false } })
            }
            Err(CommandError::Interrupted { left: Leftover::Received, .. }) => {
                Err(CommandError::Interrupted { signal, left: Leftover::Unfinished })
            }
            Err(error) => Err(error),
            Ok(_) => Err(CommandError::Interrupted { signal, left: Leftover::Lease { is_complete: true } }),
        },
    }
}
