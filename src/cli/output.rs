//! What the program says about itself.

use std::error::Error;
use std::io::{self, Write};

use super::CommandError;

/// One line on stderr for an error and its causes, one for the remedy. If stderr is closed nobody can be told.
pub(super) fn complain(error: &dyn Error, hint: Option<String>) {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Many messages include their cause already.
        let reason = error.to_string();
        if !text.contains(&reason) {
            text = format!("{text}: {reason}");
        }
        cause = error.source();
    }
    if crate::telemetry::complain(&text, hint.as_deref()) {
        return;
    }
    let mut stderr = io::stderr().lock();
    let _ = writeln!(stderr, "linkspan: error: {text}");
    if let Some(hint) = hint {
        let _ = writeln!(stderr, "linkspan: hint: {hint}");
    }
}

/// A result, on stdout. A reader that went away early (`| head`) has seen what it wanted.
pub(super) fn print(text: &str) -> Result<(), CommandError> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(CommandError::Output),
    }
}

/// A document, on stdout, as it is.
pub(super) fn raw(bytes: &[u8]) -> Result<(), CommandError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(CommandError::Output),
    }
}

/// A remark beside a result, on stderr. If that is closed nobody can be told.
pub(super) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
