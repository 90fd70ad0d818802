//! Who may work next: the largest of those who wait.
//!
//! Layers differ in size by orders of magnitude. If the largest happened to come last, it would be unpacked alone, with
//! all cores but one idle; begun first, it leaves the small ones to fill the gaps.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// A number of turns. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Turns(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    free: usize,
    waiting: BinaryHeap<Waiting>,
    /// Numbers those who wait, so that equals go in the order in which they came.
    count: u64,
}

#[derive(Debug)]
struct Waiting {
    rank: (u64, Reverse<u64>),
    call: oneshot::Sender<Turn>,
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.rank == other.rank
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank.cmp(&other.rank)
    }
}

/// The right to work until it is dropped.
#[derive(Debug)]
pub(super) struct Turn(Turns);

impl Turns {
    pub(super) fn new(free: usize) -> Self {
        Self(Arc::new(Mutex::new(State { free, waiting: BinaryHeap::new(), count: 0 })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn for work of this size.
    pub(super) async fn take(&self, size: u64) -> Turn {
        loop {
            let called = {
                let mut state = self.state();
                if state.free > 0 {
                    state.free -= 1;
                    return Turn(self.clone());
                }
                let (call, called) = oneshot::channel();
                state.count += 1;
                let rank = (size, Reverse(state.count));
                state.waiting.push(Waiting { rank, call });
                called
            };
            // An error would mean that the queue is gone, which `self` keeps alive.
            if let Ok(turn) = called.await {
                return turn;
            }
        }
    }
}

impl Drop for Turn {
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
            // If it no longer waits, the new turn comes back and is dropped here, which calls the one after it.
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
        let turns = Turns::new(1);
        let turn = turns.take(1).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for (name, size) in [("small", 1), ("large", 9), ("first", 5), ("second", 5)] {
            let (turns, order) = (turns.clone(), order.clone());
            waiting.push(tokio::spawn(async move {
                let _turn = turns.take(size).await;
                order.lock().unwrap().push(name);
            }));
            tokio::task::yield_now().await;
        }
        drop(turn);
        for task in waiting {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), ["large", "first", "second", "small"]);
    }

    #[tokio::test]
    async fn who_gave_up_is_passed_over() {
        let turns = Turns::new(1);
        let turn = turns.take(1).await;
        let (mut gone, mut late) = (Box::pin(turns.take(9)), Box::pin(turns.take(1)));
        assert!(gone.as_mut().now_or_never().is_none());
        assert!(late.as_mut().now_or_never().is_none());
        drop(gone);
        drop(turn);
        let turn = late.await;
        // Called, and gone before it could answer: the turn is not lost.
        let mut called = Box::pin(turns.take(1));
        assert!(called.as_mut().now_or_never().is_none());
        drop(turn);
        drop(called);
        assert!(turns.take(1).now_or_never().is_some());
    }
}
