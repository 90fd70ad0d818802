//! One flight per digest: when several exports of this process miss the same blob, one of them sends it.
//!
//! Each reads from its own source, and one source may have stopped (a builder that is suspended, a link that is gone) or
//! drip (a link that loses most of what is sent) while another is well. So an export that waits for a blob sends it itself
//! when the source behind it is silent, or slower than a link that anybody builds over.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::image::Digest;

/// How long the source of a blob may be silent before another export, which waits for the blob, sends it itself. A blob
/// that is sent twice costs time but does no harm: each export writes a copy of its own, and the engine keeps one.
const STALLED: Duration = Duration::from_secs(5);

/// What a source has to give while it is waited for, lest another export sends the blob itself: so many bytes in that time,
/// which is 128 KiB a second: at that rate a gigabyte takes more than two hours.
const LEAST: (u64, Duration) = (2 << 20, Duration::from_secs(16));

/// How often those who wait look whether the source is silent.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The blobs that are on their way.
#[derive(Debug, Default, Clone)]
pub(super) struct SingleFlight(Arc<Mutex<HashMap<Digest, Arc<Transfer>>>>);

/// One blob on its way.
#[derive(Debug, Default)]
struct Transfer {
    landed: CancellationToken,
    pace: Mutex<Pace>,
}

/// How fast a source gives what is waited for.
#[derive(Debug, Default)]
struct Pace {
    /// Since when its source has been waited for; `None` while the engine has the bytes.
    silent_since: Option<Instant>,
    /// How long it has been waited for since the window began, up to then.
    waited: Duration,
    /// What came of it meanwhile.
    bytes: u64,
    /// Whether it was too slow in the window before.
    was_slow: bool,
}

impl Pace {
    fn wait(&mut self) {
        self.silent_since = Some(Instant::now());
    }

    /// So many bytes have come.
    fn came(&mut self, bytes: u64) {
        self.waited += self.silent_since.take().map_or(Duration::ZERO, |since| since.elapsed());
        self.bytes += bytes;
        let (least, window) = LEAST;
        if self.waited >= window {
            *self = Self { was_slow: self.bytes < least, ..Self::default() };
        }
    }

    fn has_stalled(&self) -> bool {
        let silent = self.silent_since.map_or(Duration::ZERO, |since| since.elapsed());
        let (least, window) = LEAST;
        silent >= STALLED || self.was_slow || (self.waited + silent >= window && self.bytes < least)
    }
}

impl Transfer {
    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to send a blob. Dropping it, for whatever reason, lets the next one in line look.
#[derive(Debug)]
pub(super) struct FlightGuard {
    digest: Digest,
    flights: SingleFlight,
    under_way: Arc<Transfer>,
    /// Whether another export sends the blob, too, and has made no progress.
    pub(super) is_taken_over: bool,
}

impl SingleFlight {
    /// Waits until no other export sends `digest`, or until the source of the one that does is silent or slow. The caller must then look
    /// whether the blob is still missing.
    pub(super) async fn acquire(&self, digest: &Digest) -> FlightGuard {
        loop {
            let other = {
                let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                let other = flights.get(digest).cloned();
                match other {
                    Some(other) if !other.pace().has_stalled() => other,
                    other => {
                        let under_way = Arc::<Transfer>::default();
                        flights.insert(digest.clone(), under_way.clone());
                        let (digest, flights) = (digest.clone(), self.clone());
                        return FlightGuard { digest, flights, under_way, is_taken_over: other.is_some() };
                    }
                }
            };
            // Whether it has landed or the time is over: the next round looks.
            let _ = timeout(POLL_INTERVAL, other.landed.cancelled()).await;
        }
    }
}

impl FlightGuard {
    /// Waits for `more` of the source, of which `count` says how many bytes it is; meanwhile the flight may be taken over.
    pub(super) async fn listen<T>(&self, more: impl Future<Output = T>, count: impl FnOnce(&T) -> usize) -> T {
        self.under_way.pace().wait();
        let more = more.await;
        self.under_way.pace().came(count(&more) as u64);
        more
    }
}

impl Drop for FlightGuard {
    fn drop(&mut self) {
        let mut flights = self.flights.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Not that of whoever has taken over.
        if flights.get(&self.digest).is_some_and(|under_way| Arc::ptr_eq(under_way, &self.under_way)) {
            flights.remove(&self.digest);
        }
        self.under_way.landed.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn only_one_sends_at_a_time_and_the_next_gets_its_turn() {
        let (flights, digest) = (SingleFlight::default(), Digest::sha256(b"x"));
        let (under_way, landed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let (flights, digest, under_way, landed) =
                    (flights.clone(), digest.clone(), under_way.clone(), landed.clone());
                tokio::spawn(async move {
                    let flight = flights.acquire(&digest).await;
                    assert!(!flight.is_taken_over);
                    assert_eq!(under_way.fetch_add(1, Ordering::SeqCst), 0);
                    tokio::task::yield_now().await;
                    under_way.fetch_sub(1, Ordering::SeqCst);
                    landed.fetch_add(1, Ordering::SeqCst);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(landed.load(Ordering::SeqCst), 8);
        assert!(flights.0.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_source_is_waited_for_a_while_and_then_taken_over() {
        let (flights, digest) = (SingleFlight::default(), Digest::sha256(b"x"));
        let stopped = flights.acquire(&digest).await;
        let begun = Instant::now();
        let waits = async {
            let second = flights.acquire(&digest).await;
            assert!(second.is_taken_over);
            assert!(begun.elapsed() >= STALLED);
            second
        };
        let second = tokio::select! {
            () = stopped.listen(pending(), |()| 0) => unreachable!(),
            second = waits => second,
        };
        // Whoever comes now waits for the second, whatever the first one does.
        drop(stopped);
        assert_eq!(flights.0.lock().unwrap().len(), 1);
        let third = async { flights.acquire(&digest).await.is_taken_over };
        let ends = async {
            tokio::time::sleep(STALLED * 3).await;
            drop(second);
        };
        assert!(!tokio::join!(third, ends).0, "a busy engine is no silent source");
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_drips_is_taken_over_and_one_that_is_slow_is_not() {
        let (_, window) = LEAST;
        let drip = Duration::from_secs(4);
        for (bytes, is_taken_over) in [(1 << 10, true), (1 << 20, false)] {
            let (flights, digest) = (SingleFlight::default(), Digest::sha256(b"x"));
            let dripping = flights.acquire(&digest).await;
            let drips = async {
                for _ in 0..100 {
                    dripping.listen(tokio::time::sleep(drip), |()| bytes).await;
                    // The engine takes its time, too.
                    tokio::time::sleep(drip).await;
                }
                drop(dripping);
            };
            let begun = Instant::now();
            let waits = async {
                let second = flights.acquire(&digest).await;
                (second.is_taken_over, begun.elapsed())
            };
            let ((), (taken_over, waited)) = tokio::join!(drips, waits);
            assert_eq!(taken_over, is_taken_over, "{bytes}");
            assert!(!taken_over || (window..3 * window).contains(&waited), "{waited:?}");
        }
    }
}
