//! One flight per digest: when several exports of this process miss the same blob, one of them sends it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::image::Digest;

/// The blobs that are on their way.
#[derive(Debug, Default, Clone)]
pub(super) struct Flights(Arc<Mutex<HashMap<Digest, watch::Receiver<()>>>>);

/// The right to send a blob. Dropping it, for whatever reason, lets the next one in line look.
#[derive(Debug)]
pub(super) struct Flight {
    digest: Digest,
    flights: Flights,
    // Closing the channel is the signal.
    _landed: watch::Sender<()>,
}

impl Flights {
    /// Waits until nobody else sends `digest`. The caller must then look whether it is still missing.
    pub(super) async fn board(&self, digest: &Digest) -> Flight {
        loop {
            let mut under_way = {
                let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                match flights.get(digest) {
                    Some(under_way) => under_way.clone(),
                    None => {
                        let (landed, receiver) = watch::channel(());
                        flights.insert(digest.clone(), receiver);
                        return Flight { digest: digest.clone(), flights: self.clone(), _landed: landed };
                    }
                }
            };
            // An error means that the sender is gone, which is what we wait for.
            while under_way.changed().await.is_ok() {}
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.flights.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
                    let _flight = flights.board(&digest).await;
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
}
