//! Logs, on stderr.
//!
//! Only our own events are shown at the configured level. The libraries beneath us carry other people's bytes: at `debug`
//! h2 logs header lists and at `trace` hyper logs buffers, and what passes through a door includes build secrets and
//! registry credentials. They are held at `warn`, whatever is configured.

use std::io::{self, IsTerminal};

use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::{Log, LogFormat};

/// Starts logging for the whole process; can be done once.
///
/// # Errors
/// When something else receives the process's logs already.
pub fn start(log: Log) -> Result<(), TryInitError> {
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    let lines = match log.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(filter(log.level))).try_init()
}

fn filter(level: Level) -> Targets {
    let others = level.min(Level::WARN);
    Targets::new().with_default(others).with_target(env!("CARGO_CRATE_NAME"), LevelFilter::from_level(level))
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
