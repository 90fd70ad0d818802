//! Waiting for a condition instead of for a time.

use std::{
    fmt::Debug,
    thread::{self, sleep},
    time::{Duration, Instant},
};

/// How long a condition may take. Generous, because it is only ever used up by a failure.
const DEADLINE: Duration = Duration::from_secs(180);

/// How long one test may wait in all, for conditions and for commands: what never comes must not cost its limit again and
/// again. The longest test takes three minutes beside two busy loops.
const TEST: Duration = Duration::from_secs(900);

thread_local! {
    /// When this thread waited first. Each test has a thread of its own.
    static BEGUN: Instant = Instant::now();
}

/// When something ends that may take `limit`, in this test.
pub(crate) fn deadline(limit: Duration) -> Instant {
    let end = Instant::now() + limit;
    // With `--test-threads 1` the main thread runs all tests.
    let is_test = thread::current().name().is_some_and(|name| name != "main");
    if is_test { end.min(BEGUN.with(|begun| *begun + TEST)) } else { end }
}

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(20);

/// Polls `look` until `good` accepts what it returned, and hands that back.
///
/// # Panics
/// After three minutes, or when the test has waited for a quarter of an hour in all, with `what` and the last value seen.
#[track_caller]
pub(crate) fn until<T: Debug>(what: &str, look: impl FnMut() -> T, good: impl Fn(&T) -> bool) -> T {
    until_every(INTERVAL, what, look, good)
}

/// The same for a condition that is soon over, or expensive to look at.
#[track_caller]
pub(crate) fn until_every<T: Debug>(
    interval: Duration,
    what: &str,
    mut look: impl FnMut() -> T,
    good: impl Fn(&T) -> bool,
) -> T {
    let (begun, end) = (Instant::now(), deadline(DEADLINE));
    loop {
        let seen = look();
        if good(&seen) {
            return seen;
        }
        assert!(Instant::now() < end, "waited {:?} for {what}; last seen: {seen:?}", begun.elapsed());
        sleep(interval);
    }
}

/// The same for what is looked up by a call, which is to have a limit of its own.
pub(crate) async fn until_called<T: Debug>(
    what: &str,
    mut look: impl AsyncFnMut() -> T,
    good: impl Fn(&T) -> bool,
) -> T {
    let (begun, end) = (Instant::now(), deadline(DEADLINE));
    loop {
        let seen = look().await;
        if good(&seen) {
            return seen;
        }
        assert!(Instant::now() < end, "waited {:?} for {what}; last seen: {seen:?}", begun.elapsed());
        tokio::time::sleep(INTERVAL).await;
    }
}
