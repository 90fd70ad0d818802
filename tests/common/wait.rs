//! Waiting for a condition instead of for a time.

use std::{
    fmt::Debug,
    thread::sleep,
    time::{Duration, Instant},
};

/// How long a condition may take. Generous, because it is only ever used up by a failure.
const DEADLINE: Duration = Duration::from_secs(180);

/// Polls `look` until `good` accepts what it returned, and hands that back.
///
/// # Panics
/// After three minutes, with `what` and the last value seen.
#[track_caller]
pub(crate) fn until<T: Debug>(what: &str, mut look: impl FnMut() -> T, good: impl Fn(&T) -> bool) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        let seen = look();
        if good(&seen) {
            return seen;
        }
        assert!(Instant::now() < end, "waited {DEADLINE:?} for {what}; last seen: {seen:?}");
        sleep(Duration::from_millis(20));
    }
}
