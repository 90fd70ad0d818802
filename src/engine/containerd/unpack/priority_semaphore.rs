//! A semaphore that wakes the largest waiter first.
//!
//! Layers differ in size by orders of magnitude. If the largest happened to come last, it would be unpacked alone, with
//! all cores but one idle; begun first, it leaves the small ones to fill the gaps.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::num::NonZeroUsize;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;

use tokio::sync::oneshot;

/// How many layers are unpacked at once at most, of all images together. Inflating keeps one core busy per layer, and the file
/// system's journal does not let many writers in anyway.
const AT_ONCE: usize = 4;

/// The permits of this process.
static UNPACKING: LazyLock<PrioritySemaphore> =
    LazyLock::new(|| PrioritySemaphore::new(available_parallelism().map_or(1, NonZeroUsize::get).min(AT_ONCE)));

/// Waits until a layer of `size` bytes may be unpacked. Whoever holds a permit must not wait for another layer.
pub(super) async fn unpack_permit(size: u64) -> Permit {
    UNPACKING.acquire(size).await
}

/// A semaphore of which the permits go to the largest waiter. Clones are one.
#[derive(Debug, Clone)]
pub(super) struct PrioritySemaphore(Arc<Mutex<Queue>>);

#[derive(Debug)]
struct Queue {
    free: usize,
    waiting: BinaryHeap<Waiter>,
    /// Numbers those who wait, so that equals go in the order in which they came.
    count: u64,
}

#[derive(Debug)]
struct Waiter {
    rank: (u64, Reverse<u64>),
    call: oneshot::Sender<Permit>,
}

impl PartialEq for Waiter {
    fn eq(&self, other: &Self) -> bool {
        self.rank == other.rank
    }
}

impl Eq for Waiter {}

impl PartialOrd for Waiter {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiter {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank.cmp(&other.rank)
    }
}

/// A permit, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Permit(PrioritySemaphore);

impl PrioritySemaphore {
    pub(super) fn new(free: usize) -> Self {
        Self(Arc::new(Mutex::new(Queue { free, waiting: BinaryHeap::new(), count: 0 })))
    }

    fn state(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a permit for work of this size.
    pub(super) async fn acquire(&self, size: u64) -> Permit {
        loop {
            let called = {
                let mut state = self.state();
                if state.free > 0 {
                    state.free -= 1;
                    return Permit(self.clone());
                }
                let (call, called) = oneshot::channel();
                state.count += 1;
                let rank = (size, Reverse(state.count));
                state.waiting.push(Waiter { rank, call });
                called
            };
            // An error would mean that the queue is gone, which `self` keeps alive.
            if let Ok(permit) = called.await {
                return permit;
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let next = {
            let mut state = self.0.state();
            let next = state.waiting.pop();
            if next.is_none() {
                state.free += 1;
            }
            next
        };
        if let Some(next) = next {
            // If it no longer waits, the new permit comes back and is dropped here, which calls the one after it.
            drop(next.call.send(Self(self.0.clone())));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn the_largest_goes_first_and_equals_in_order() {
        let permits = PrioritySemaphore::new(1);
        let permit = permits.acquire(1).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for (name, size) in [("small", 1), ("large", 9), ("first", 5), ("second", 5)] {
            let (permits, order) = (permits.clone(), order.clone());
            waiting.push(tokio::spawn(async move {
                let _turn = permits.acquire(size).await;
                order.lock().unwrap().push(name);
            }));
            tokio::task::yield_now().await;
        }
        drop(permit);
        for task in waiting {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), ["large", "first", "second", "small"]);
    }

    #[tokio::test]
    async fn a_dropped_waiter_is_skipped() {
        let permits = PrioritySemaphore::new(1);
        let permit = permits.acquire(1).await;
        let (mut gone, mut late) = (Box::pin(permits.acquire(9)), Box::pin(permits.acquire(1)));
        assert!(gone.as_mut().now_or_never().is_none());
        assert!(late.as_mut().now_or_never().is_none());
        drop(gone);
        drop(permit);
        let permit = late.await;
        // Called, and gone before it could respond: the permit is not lost.
        let mut called = Box::pin(permits.acquire(1));
        assert!(called.as_mut().now_or_never().is_none());
        drop(permit);
        drop(called);
        assert!(permits.acquire(1).now_or_never().is_some());
    }
}
