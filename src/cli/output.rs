//! Standard output and standard error of commands.

use std::error::Error;
use std::io::{self, IsTerminal as _, Write};

use super::CommandError;

/// Writes a line on stderr for an error with its causes, and one for the hint. A closed stderr is ignored.
pub(super) fn complain(error: &dyn Error, hint: Option<String>) {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Many messages already include their cause.
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

/// Prints a result on stdout. A reader that closes early (`| head`) is no failure.
pub(super) fn print(text: &str) -> Result<(), CommandError> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(CommandError::Output),
    }
}

/// The width of the terminal that tables are cut to: `None` if stdout is none, or nothing is to be cut.
pub(super) fn columns(whole: bool) -> Option<usize> {
    let stdout = io::stdout();
    if whole || !stdout.is_terminal() {
        return None;
    }
    // Some terminals do not know their size.
    rustix::termios::tcgetwinsize(&stdout).ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Prints a document on stdout, byte for byte.
pub(super) fn raw(bytes: &[u8]) -> Result<(), CommandError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(CommandError::Output),
    }
}

/// Writes a remark on stderr. A closed stderr is ignored.
pub(super) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
