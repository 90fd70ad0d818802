//! Waiting for an engine that starts when we do, as when a machine does.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::engine::EngineError;
use crate::engine::select::{Selected, Selection, select};
use crate::telemetry::say;

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(250);

/// How long a containerd is waited for that is not dockerd's own.
const UNPROVEN: Duration = Duration::from_secs(5);

/// The engine that `selection` asks for; one that is not up is waited for, for `timeout` at most. What is wrong otherwise
/// does not become right by waiting.
pub(super) async fn wait(selection: &Selection, timeout: Duration) -> Result<Selected, EngineError> {
    let (begun, end) = (Instant::now(), Instant::now() + timeout);
    let mut said = false;
    loop {
        match select(selection).await {
            Err(error) if Instant::now() < patience(&error, begun, timeout) => {
                if !said {
                    say(&format!("waiting for the engine, {} s at most: {error}", timeout.as_secs()));
                    said = true;
                }
                sleep(PAUSE.min(end.saturating_duration_since(Instant::now()))).await;
            }
            outcome => return outcome,
        }
    }
}

/// Until when the engine may still come.
fn patience(error: &EngineError, begun: Instant, timeout: Duration) -> Instant {
    match error {
        EngineError::Unreachable { .. } | EngineError::Stopped { .. } => begun + timeout,
        // dockerd can be up a moment before its containerd answers. Otherwise another containerd was named.
        EngineError::NotProven { .. } => begun + timeout.min(UNPROVEN),
        _ => begun,
    }
}
