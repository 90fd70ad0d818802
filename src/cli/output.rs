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
    let stderr = io::stderr();
    let width = stderr.is_terminal().then(|| width_of(&stderr)).flatten();
    let mut stderr = stderr.lock();
    let _ = writeln!(stderr, "{}", wrapped(&visible(&format!("linkspan: error: {text}")), width));
    if let Some(hint) = hint {
        let _ = writeln!(stderr, "{}", wrapped(&visible(&format!("linkspan: hint: {hint}")), width));
    }
}

/// `text` without what a terminal would take for a command: names and words of archives, registries and engines are in messages.
fn visible(text: &str) -> String {
    let is_plain = |letter: char| !letter.is_control() || matches!(letter, '\n' | '\t');
    text.chars()
        .map(|letter| if is_plain(letter) { letter.to_string() } else { letter.escape_debug().to_string() })
        .collect()
}

/// `text` in lines for a terminal of `width` columns, unless it has lines of its own.
fn wrapped(text: &str, width: Option<usize>) -> String {
    const INDENT: &str = "  ";
    match width.map(|width| width.clamp(NARROWEST, WIDEST)) {
        Some(width) if !text.contains('\n') && text.chars().count() > width => {
            let lines = crate::doctor::wrap_words(text, width - INDENT.len());
            lines.join(&format!("\n{INDENT}"))
        }
        _ => text.to_owned(),
    }
}

/// The widths that are used: longer lines are hard to read.
pub(super) const NARROWEST: usize = 40;
pub(super) const WIDEST: usize = 120;

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
    width_of(&stdout)
}

/// The width of a terminal, if it knows it.
fn width_of(terminal: &impl std::os::fd::AsFd) -> Option<usize> {
    rustix::termios::tcgetwinsize(terminal).ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0)
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
    let _ = writeln!(io::stderr().lock(), "{}", visible(text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_message_has_commands_for_a_terminal() {
        assert_eq!(visible("a\u{1b}[2Jb\r\u{9b}1m\u{7f}c\n\td é"), "a\\u{1b}[2Jb\\r\\u{9b}1m\\u{7f}c\n\td é");
    }

    #[test]
    fn an_error_fits_a_terminal_and_is_one_line_elsewhere() {
        let text =
            "linkspan: error: docker at unix:///var/run/docker.sock cannot be reached: many more words follow here";
        assert_eq!(wrapped(text, None), text);
        assert_eq!(wrapped(text, Some(200)), text);
        let lines = wrapped(text, Some(60));
        assert_eq!(lines.lines().count(), 2, "{lines}");
        assert!(
            lines.lines().all(|line| line.len() <= 60) && lines.lines().nth(1).unwrap().starts_with("  cannot"),
            "{lines}"
        );
        assert_eq!(lines.split_whitespace().collect::<Vec<_>>(), text.split_whitespace().collect::<Vec<_>>());
        let own = format!("{text}\n  | its own lines, as of a file");
        assert_eq!(wrapped(&own, Some(60)), own);
    }
}
