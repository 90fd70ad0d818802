//! Traces from the start of a daemon to its end.

use std::sync::Arc;

use tracing::warn;

use crate::telemetry::{RunningTraces, Traces, announce};

/// Says how many spans were not sent.
pub(super) type DroppedSpans = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Begins to send traces, if there is a collector.
pub(super) fn start(traces: Result<Option<Traces>, String>) -> (Option<RunningTraces>, DroppedSpans) {
    let none = || 0_u64;
    let (traces, dropped): (_, DroppedSpans) = match traces {
        Ok(None) => return (None, Arc::new(none)),
        Ok(Some(traces)) => {
            let dropped = traces.dropped();
            (traces.start(), dropped)
        }
        Err(error) => (Err(error), Arc::new(none)),
    };
    match traces {
        Ok((traces, endpoint)) => {
            announce(&format!("traces go to {}", shown(&endpoint)));
            (Some(traces), dropped)
        }
        Err(error) => {
            warn!(error, "no traces are sent: the OTEL_* variables cannot be followed");
            (None, dropped)
        }
    }
}

/// An endpoint without what may be a password in it.
fn shown(endpoint: &str) -> String {
    match endpoint.split_once("://") {
        Some((scheme, rest)) => format!("{scheme}://{}", rest.rsplit_once('@').map_or(rest, |(_, host)| host)),
        None => endpoint.to_owned(),
    }
}
