//! Waiting for an engine that starts when we do, as when a machine does.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::engine::EngineError;
use crate::engine::select::{Selected, Selection, select};
use crate::telemetry::say;

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(250);

/// The engine that `selection` asks for; one that is not up is waited for, for `timeout` at most. What is wrong otherwise
/// does not become right by waiting.
pub(super) async fn wait(selection: &Selection, timeout: Duration) -> Result<Selected, EngineError> {
    let end = Instant::now() + timeout;
    let mut said = false;
    loop {
        match select(selection).await {
            Err(error) if is_absent(&error) && Instant::now() < end => {
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

/// Whether the engine may still come. dockerd can be up before the containerd that it says it uses.
fn is_absent(error: &EngineError) -> bool {
    matches!(error, EngineError::Unreachable { .. } | EngineError::Stopped { .. } | EngineError::NotProven { .. })
}
