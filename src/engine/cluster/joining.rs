//! Nodes that are new, until they have joined: each is connected to in the background, so that it holds up nobody.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// How long a node is waited for that is new: once, and not by each who comes while it is starting.
const JOIN: Duration = Duration::from_secs(5);
/// The pause before a node is tried again: the first time, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

/// The id of a container, and the name by which it is to be reached.
pub(super) type Key = (String, String);

/// The nodes that have not joined, of which a `T` is made. There are no more of them than a cluster has nodes ([`Joining::retain`]).
#[derive(Debug)]
pub(super) struct Joining<T>(Mutex<HashMap<Key, Attempts<T>>>);

/// The attempts to connect to one node. They end when it is dropped.
#[derive(Debug)]
struct Attempts<T> {
    joined: Arc<OnceLock<T>>,
    /// Cancelled when the first one has ended.
    was_tried: CancellationToken,
    /// Until when the first one is waited for.
    until: Instant,
    _task: AbortOnDropHandle<()>,
}

impl<T> Default for Joining<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone + Send + Sync + 'static> Joining<T> {
    /// The node of `key`, if it has joined by now. One that is new is connected to by `connect`, again and again.
    pub(super) async fn join<F, E>(&self, key: &Key, connect: impl FnOnce() -> Connect<F>) -> Option<T>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
        E: Display + Send + 'static,
    {
        let (joined, was_tried, until) = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let attempts = all.entry(key.clone()).or_insert_with(|| Attempts::begin(key.1.clone(), connect()));
            (attempts.joined.clone(), attempts.was_tried.clone(), attempts.until)
        };
        // Late: it joins later.
        let _ = timeout_at(until, was_tried.cancelled()).await;
        joined.get().cloned()
    }

    /// Gives up all nodes but those of which `is_joining` is true.
    pub(super) fn retain(&self, is_joining: impl Fn(&Key) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, _| is_joining(key));
    }
}

/// Makes an attempt.
pub(super) type Connect<F> = Box<dyn Fn() -> F + Send>;

impl<T: Clone + Send + Sync + 'static> Attempts<T> {
    fn begin<F, E>(node: String, connect: Connect<F>) -> Self
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
        E: Display + Send + 'static,
    {
        let (joined, was_tried) = (Arc::<OnceLock<T>>::default(), CancellationToken::new());
        let (joining, trying) = (joined.clone(), was_tried.clone());
        let task = async move {
            let (mut pause, longest) = PAUSES;
            loop {
                let mut connecting = Box::pin(connect());
                let outcome = match timeout(JOIN, &mut connecting).await {
                    Ok(outcome) => outcome,
                    Err(_) => {
                        left_out(&node, &trying, format!("no response within {} s", JOIN.as_secs()));
                        connecting.await
                    }
                };
                match outcome {
                    Ok(node) => {
                        // It is empty: there is one task, which ends here.
                        let _ = joining.set(node);
                        return trying.cancel();
                    }
                    Err(error) => left_out(&node, &trying, error.to_string()),
                }
                sleep(pause).await;
                pause = longest.min(2 * pause);
            }
        };
        let _task = AbortOnDropHandle::new(tokio::spawn(task));
        Self { joined, was_tried, until: Instant::now() + JOIN, _task }
    }
}

/// An attempt failed, or takes long. The first time is worth a warning.
fn left_out(node: &str, was_tried: &CancellationToken, reason: String) {
    if was_tried.is_cancelled() {
        tracing::debug!(node, reason, "a node has still not joined");
    } else {
        tracing::warn!(node, reason, "a node has not joined yet, and is left out");
    }
    was_tried.cancel();
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn key(name: &str) -> Key {
        (format!("id of {name}"), name.to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_hangs_is_waited_for_once() {
        let joining = Joining::<u8>::default();
        let begun = Instant::now();
        let hang = || -> Connect<_> { Box::new(std::future::pending::<Result<u8, String>>) };
        assert_eq!(joining.join(&key("a"), hang).await, None);
        assert_eq!(begun.elapsed(), JOIN);
        for _ in 0..3 {
            assert_eq!(joining.join(&key("a"), hang).await, None);
        }
        assert_eq!(begun.elapsed(), JOIN, "nobody else waits");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_fails_is_tried_again_until_it_joins_or_leaves() {
        let (joining, tries) = (Joining::<usize>::default(), Arc::<AtomicUsize>::default());
        let counting = tries.clone();
        let third = || -> Connect<_> {
            Box::new(move || {
                let tries = counting.fetch_add(1, Ordering::Relaxed) + 1;
                async move { if tries % 3 == 0 { Ok(tries) } else { Err("it is starting") } }
            })
        };
        let begun = Instant::now();
        assert_eq!(joining.join(&key("a"), third.clone()).await, None);
        assert_eq!(begun.elapsed(), Duration::ZERO);
        sleep(4 * PAUSES.0).await;
        assert_eq!(joining.join(&key("a"), third.clone()).await, Some(3));
        // One of another name is another one.
        assert_eq!(joining.join(&key("b"), third).await, None);
        joining.retain(|key| key.1 == "a");
        sleep(JOIN).await;
        assert_eq!(tries.load(Ordering::Relaxed), 4);
    }
}
