//! Why a stream over a process ended, or is none of the protocol that was expected.

use std::sync::{Arc, Mutex, PoisonError};

use super::person;

/// How many of the first bytes are kept.
const KEPT: usize = 120;

/// Why a process is no stream, or no longer one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{program} {ended}{}", said(words))]
pub struct CommandError {
    /// The program, such as `ssh`.
    pub program: String,
    /// How it ended, as in `ended with status 255`.
    pub ended: String,
    /// The last lines of its standard error, joined with `; `.
    pub words: String,
}

fn said(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(": {words}") }
}

/// Why a stream ended, where a program says so.
#[derive(Debug, Clone, Default)]
pub struct StreamFailure(Arc<Mutex<Known>>);

/// What is known of a stream.
#[derive(Debug, Default)]
struct Known {
    ended: Option<CommandError>,
    /// Its first bytes.
    begin: Vec<u8>,
    /// The program's process.
    process: Option<u32>,
}

impl StreamFailure {
    /// The program's reason, or what its output begins with, if that is neither HTTP/1 nor HTTP/2; `None` if it has not failed, or
    /// if there is no program.
    pub fn reason(&self) -> Option<String> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = known.ended.as_ref().map(ToString::to_string);
        ended.or_else(|| {
            Some(format!("text comes before the stream on its standard output: `{}`", text_of(&known.begin)?))
        })
    }

    /// Whether the program asks a person for something at this moment.
    pub(crate) fn is_asking(&self) -> bool {
        let process = self.0.lock().unwrap_or_else(PoisonError::into_inner).process;
        process.is_some_and(person::is_asking)
    }

    /// Which process the program is.
    pub(super) fn of_process(process: Option<u32>) -> Self {
        Self(Arc::new(Mutex::new(Known { process, ..Known::default() })))
    }

    /// How the program ended.
    pub(super) fn end(&self, ended: Option<CommandError>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).ended = ended;
    }

    /// Notes bytes that were read.
    pub(super) fn read(&self, bytes: &[u8]) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = KEPT - known.begin.len();
        known.begin.extend(&bytes[..bytes.len().min(left)]);
    }
}

/// The first line of `begin`, if that is no response of HTTP. A frame of HTTP/2 begins with the upper byte of its length, which is
/// zero in the settings that a server sends first.
fn text_of(begin: &[u8]) -> Option<String> {
    const HTTP1: &[u8] = b"HTTP/1.";
    let first = *begin.first()?;
    if first == 0 || begin.starts_with(HTTP1) || HTTP1.starts_with(begin) {
        return None;
    }
    let text = String::from_utf8_lossy(begin);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    Some(line.chars().filter(|it| !it.is_control()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_response_is_told() {
        let reason = |pieces: &[&[u8]]| {
            let failure = StreamFailure::default();
            pieces.iter().for_each(|piece| failure.read(piece));
            failure.reason()
        };
        let text = |line: &str| Some(format!("text comes before the stream on its standard output: `{line}`"));
        assert_eq!(reason(&[]), None);
        assert_eq!(reason(&[b"\0\0\x24\x04\0"]), None);
        assert_eq!(reason(&[b"HT", b"TP/1.1 200 OK\r\n"]), None);
        assert_eq!(reason(&[b"HT"]), None);
        assert_eq!(reason(&[b"\n\x1b[1mWel", b"come\nmore\n"]), text("[1mWelcome"));
        assert_eq!(reason(&[b"HTML\n"]), text("HTML"));
        assert_eq!(reason(&[&[b'a'; 500], b"b"]), text(&"a".repeat(KEPT)));
    }
}
