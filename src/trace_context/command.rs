//! The trace of a command: what its calls to a daemon belong to, so that they are one trace there.
//!
//! A command sends no spans of its own. Its trace is that of `TRACEPARENT`, where whoever runs it has one; else a new one, whose root
//! nobody has.

#[cfg(feature = "cli")]
use std::hash::{BuildHasher as _, RandomState};
use std::sync::OnceLock;
#[cfg(feature = "cli")]
use std::time::SystemTime;

static COMMAND: OnceLock<String> = OnceLock::new();

/// From now on this process has a trace: that of `variable`, if it names one, or else one of its own.
#[cfg(feature = "cli")]
pub(crate) fn begin(variable: Option<String>) {
    let given = variable.filter(|given| is_traceparent(given));
    COMMAND.get_or_init(|| {
        given.unwrap_or_else(|| {
            // Each RandomState is seeded by the system.
            let half = || RandomState::new().hash_one(SystemTime::now());
            format!("00-{:016x}{:016x}-{:016x}-01", half(), half(), half() | 1)
        })
    });
}

/// What `traceparent` is in the calls of this process, if it is a command.
pub(crate) fn of_command() -> Option<&'static str> {
    COMMAND.get().map(String::as_str)
}

/// Whether `text` is a `traceparent` of version 00 (W3C Trace Context, section 3.2).
#[cfg(feature = "cli")]
fn is_traceparent(text: &str) -> bool {
    let is_id = |part: &str, length: usize| {
        let is_hex = part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        part.len() == length && is_hex && part.bytes().any(|byte| byte != b'0')
    };
    match text.split('-').collect::<Vec<_>>()[..] {
        ["00", trace, parent, flags] => is_id(trace, 32) && is_id(parent, 16) && matches!(flags, "00" | "01"),
        _ => false,
    }
}

#[cfg(all(test, feature = "cli"))]
mod tests {
    use super::*;

    #[test]
    fn a_command_has_one_trace() {
        let given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(is_traceparent(given));
        for wrong in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        ] {
            assert!(!is_traceparent(wrong), "{wrong}");
        }
        begin(None);
        let own = of_command().unwrap();
        assert!(is_traceparent(own), "{own}");
        begin(Some(given.to_owned()));
        assert_eq!(of_command(), Some(own));
    }
}
