//! The trace of a command: what its calls to a daemon belong to, so that they are one trace there.
//!
//! A command sends no spans of its own. Its trace is that of `TRACEPARENT`, where whoever runs it has one; else a new one, whose root
//! nobody has.

#[cfg(feature = "cli")]
use std::hash::{BuildHasher as _, RandomState};
use std::sync::OnceLock;
#[cfg(feature = "cli")]
use std::time::SystemTime;

#[cfg(feature = "cli")]
use super::traceparent;

static COMMAND: OnceLock<String> = OnceLock::new();

/// From now on this process has a trace: that of `variable`, if it names one, or else one of its own.
#[cfg(feature = "cli")]
pub(crate) fn begin(variable: Option<String>) {
    let given = variable.and_then(|given| traceparent::known(&given));
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

#[cfg(all(test, feature = "cli"))]
mod tests {
    use super::*;

    #[test]
    fn a_command_has_one_trace() {
        let given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        begin(None);
        let own = of_command().unwrap();
        assert_eq!(traceparent::known(own).as_deref(), Some(own));
        begin(Some(given.to_owned()));
        assert_eq!(of_command(), Some(own));
    }
}
