//! Waits for programs that may ask a person for something, as ssh does for a passphrase.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, timeout};

/// How long a person may take.
const PERSON: Duration = Duration::from_secs(90);
/// How often a process is looked at meanwhile.
const LOOK: Duration = Duration::from_secs(1);
/// The most processes that are looked at: ssh, what it runs, and what that runs.
const PROCESSES: usize = 16;
/// What a program that asks holds open (readpassphrase(3)).
const TERMINAL: &str = "/dev/tty";

/// Awaits `future` for `limit`, not counting the time, a minute and a half at most, in which `is_asking` a person.
///
/// # Errors
/// How long was waited.
pub(crate) async fn with_person<F: Future>(
    limit: Duration,
    is_asking: impl Fn() -> bool,
    future: F,
) -> Result<F::Output, Duration> {
    let mut future = pin!(future);
    let begun = Instant::now();
    let mut asked = begun;
    loop {
        if let Ok(output) = timeout(LOOK.min(limit), &mut future).await {
            return Ok(output);
        }
        if is_asking() {
            asked = Instant::now();
        }
        if asked.elapsed() >= limit || begun.elapsed() >= limit + PERSON {
            return Err(begun.elapsed());
        }
    }
}

/// Whether `process`, or one that it started, has the terminal open by its name.
pub(super) fn is_asking(process: u32) -> bool {
    let mut waiting = VecDeque::from([process]);
    for _ in 0..PROCESSES {
        let Some(process) = waiting.pop_front() else { return false };
        // One that has ended has neither.
        let files = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
        let mut files = files.filter_map(|file| fs::read_link(file.path()).ok());
        if files.any(|file| file == Path::new(TERMINAL)) {
            return true;
        }
        let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
        waiting.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
    }
    false
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::pending;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(40);

    #[tokio::test(start_paused = true)]
    async fn the_time_of_a_person_is_not_counted_and_has_an_end() {
        assert_eq!(with_person(LIMIT, || false, async { 7 }).await, Ok(7));
        assert_eq!(with_person(LIMIT, || false, pending::<()>()).await, Err(LIMIT));
        assert_eq!(with_person(LIMIT, || true, pending::<()>()).await, Err(LIMIT + PERSON));
        let looks = Cell::new(0);
        let is_asking = || {
            looks.set(looks.get() + 1);
            looks.get() <= 20
        };
        assert_eq!(with_person(LIMIT, is_asking, pending::<()>()).await, Err(LIMIT + 20 * LOOK));
    }

    #[test]
    fn a_process_without_the_terminal_asks_nobody() {
        assert!(!is_asking(std::process::id()));
    }
}
