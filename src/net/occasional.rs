//! What is said in the log now and then, however often it happens.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long nothing is said after something was.
const PAUSE: Duration = Duration::from_secs(60);

/// A line of the log that others may make come often.
#[derive(Debug)]
pub(crate) struct Occasional(Mutex<(Option<Instant>, u64)>);

impl Occasional {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new((None, 0)))
    }

    /// Whether it is to be said this time: then how often it was not since the last time.
    pub(crate) fn due(&self) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (said, unsaid) = &mut *state;
        if said.is_some_and(|said| said.elapsed() < PAUSE) {
            *unsaid += 1;
            return None;
        }
        *said = Some(Instant::now());
        Some(std::mem::take(unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_happens_often_is_said_now_and_then() {
        let line = Occasional::new();
        assert_eq!([line.due(), line.due(), line.due()], [Some(0), None, None]);
        tokio::time::advance(PAUSE).await;
        assert_eq!([line.due(), line.due()], [Some(2), None]);
    }
}
