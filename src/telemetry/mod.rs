//! Logs, on stderr; and traces, to a collector (`traces`).
//!
//! Only our own events are shown at the configured level. The libraries beneath us carry other people's bytes: at `debug`
//! h2 logs header lists and at `trace` hyper logs buffers, and what passes through a door includes build secrets and
//! registry credentials. They are held at `warn`, whatever is configured.

mod json;
mod otlp;
mod queue;
mod traces;
mod variables;

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterExt as _, Targets, filter_fn};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::{Log, LogFormat};
use json::ExportLines;
pub(crate) use traces::{RunningTraces, Traces};

/// What announcements and errors are logged as where lines are JSON: shown at every level.
const ANNOUNCEMENTS: &str = "announcement";

/// The form of announcements, once logging has started.
static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// A line on stderr that scripts wait for; unlike a log line it has one form and is always there. Where log lines are JSON,
/// it is one of them, so that whoever reads them need not tell two kinds apart. If stderr is closed, nobody waits.
pub fn announce(line: &str) {
    if is_json() {
        tracing::info!(target: ANNOUNCEMENTS, "{line}");
    } else {
        let _ = writeln!(io::stderr(), "linkspan: {line}");
    }
}

/// Reports why the process ends, and what can be done about it, if lines are JSON; `false` if they are not.
pub fn complain(error: &str, hint: Option<&str>) -> bool {
    if is_json() {
        tracing::error!(target: ANNOUNCEMENTS, hint, "{error}");
    }
    is_json()
}

fn is_json() -> bool {
    FORMAT.get() == Some(&LogFormat::Json)
}

/// Starts logging for the whole process; can be done once.
///
/// # Errors
/// When something else receives the process's logs already.
pub fn start(log: Log) -> Result<(), TryInitError> {
    start_with(log, None)
}

/// The same, with the spans of this process as those of `traces`.
///
/// # Errors
/// As [`start`].
pub(crate) fn start_with(log: Log, traces: Option<&Traces>) -> Result<(), TryInitError> {
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    let lines = match log.format {
        LogFormat::Text => lines.with_filter(filter(log.level)).boxed(),
        // Whatever the level of a line, its spans say which export it belongs to.
        LogFormat::Json => {
            let filter = filter(log.level).or(filter_fn(|metadata| {
                let is_ours = metadata.target().starts_with(env!("CARGO_CRATE_NAME"));
                metadata.is_span() && is_ours && *metadata.level() <= Level::INFO
            }));
            lines.json().event_format(ExportLines::new()).with_filter(filter).boxed()
        }
    };
    let traces = traces.map(Traces::layer);
    tracing_subscriber::registry().with(lines).with(traces).try_init()?;
    let _ = FORMAT.set(log.format);
    Ok(())
}

fn filter(level: Level) -> Targets {
    let others = level.min(Level::WARN);
    Targets::new()
        .with_default(others)
        .with_target(env!("CARGO_CRATE_NAME"), LevelFilter::from_level(level))
        .with_target(ANNOUNCEMENTS, LevelFilter::INFO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_stay_quiet_at_every_level() {
        for level in [Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE] {
            let filter = filter(level);
            assert!(filter.would_enable("linkspan::door", &level), "own events at {level}");
            assert!(filter.would_enable("h2::codec", &Level::WARN), "warnings of libraries at {level}");
            for chatty in [Level::INFO, Level::DEBUG, Level::TRACE] {
                assert!(!filter.would_enable("h2::codec", &chatty), "h2 at {chatty} with {level} configured");
            }
        }
        assert!(!filter(Level::ERROR).would_enable("h2::codec", &Level::WARN));
    }
}
