//! One flight per digest: when several exports of this process miss the same blob, one of them sends it.
//!
//! Each reads from its own source, and one source may have stopped (a builder that is suspended, a link that is gone)
//! while another is well. So whoever waits for a blob takes its flight over when the source behind it is silent.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::image::Digest;

/// How long the source of a blob may be silent before another export, which waits for the blob, sends it itself. A blob
/// that is sent twice costs time but does no harm: each export writes a copy of its own, and the engine keeps one.
const STALLED: Duration = Duration::from_secs(5);

/// How often those who wait look whether the source is silent.
const LOOK: Duration = Duration::from_millis(500);

/// The blobs that are on their way.
#[derive(Debug, Default, Clone)]
pub(super) struct Flights(Arc<Mutex<HashMap<Digest, Arc<UnderWay>>>>);

/// One blob on its way.
#[derive(Debug, Default)]
struct UnderWay {
    landed: CancellationToken,
    /// Since when its source has been waited for; `None` while the engine has the bytes.
    silent_since: Mutex<Option<Instant>>,
}

impl UnderWay {
    fn has_stalled(&self) -> bool {
        let since = *self.silent_since.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|since| since.elapsed() >= STALLED)
    }
}

/// The right to send a blob. Dropping it, for whatever reason, lets the next one in line look.
#[derive(Debug)]
pub(super) struct Flight {
    digest: Digest,
    flights: Flights,
    under_way: Arc<UnderWay>,
    /// Whether somebody else sends the blob, too, and has made no progress.
    pub(super) is_taken_over: bool,
}

impl Flights {
    /// Waits until nobody else sends `digest`, or until the source of whoever does is silent. The caller must then look
    /// whether the blob is still missing.
    pub(super) async fn board(&self, digest: &Digest) -> Flight {
        loop {
            let other = {
                let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                let other = flights.get(digest).cloned();
                match other {
                    Some(other) if !other.has_stalled() => other,
                    other => {
                        let under_way = Arc::<UnderWay>::default();
                        flights.insert(digest.clone(), under_way.clone());
                        let (digest, flights) = (digest.clone(), self.clone());
                        return Flight { digest, flights, under_way, is_taken_over: other.is_some() };
                    }
                }
            };
            // Whether it has landed or the time is over: the next round looks.
            let _ = timeout(LOOK, other.landed.cancelled()).await;
        }
    }
}

impl Flight {
    /// Waits for `bytes` of the source; meanwhile the flight may be taken over.
    pub(super) async fn listen<T>(&self, bytes: impl Future<Output = T>) -> T {
        self.set_silent(Some(Instant::now()));
        let bytes = bytes.await;
        self.set_silent(None);
        bytes
    }

    fn set_silent(&self, since: Option<Instant>) {
        *self.under_way.silent_since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }
}

impl Drop for Flight {
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
        let (flights, digest) = (Flights::default(), Digest::sha256(b"x"));
        let (under_way, landed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let (flights, digest, under_way, landed) =
                    (flights.clone(), digest.clone(), under_way.clone(), landed.clone());
                tokio::spawn(async move {
                    let flight = flights.board(&digest).await;
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
        let (flights, digest) = (Flights::default(), Digest::sha256(b"x"));
        let stopped = flights.board(&digest).await;
        let begun = Instant::now();
        let waits = async {
            let second = flights.board(&digest).await;
            assert!(second.is_taken_over);
            assert!(begun.elapsed() >= STALLED);
            second
        };
        let second = tokio::select! {
            () = stopped.listen(pending()) => unreachable!(),
            second = waits => second,
        };
        // Whoever comes now waits for the second, whatever the first one does.
        drop(stopped);
        assert_eq!(flights.0.lock().unwrap().len(), 1);
        let third = async { flights.board(&digest).await.is_taken_over };
        let ends = async {
            tokio::time::sleep(STALLED * 3).await;
            drop(second);
        };
        assert!(!tokio::join!(third, ends).0, "a busy engine is no silent source");
    }
}
