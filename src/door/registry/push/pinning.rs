//! Pins what a client's HEAD found, before it relies on that and sends nothing.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Mutex as AsyncMutex;
use tokio::sync::oneshot::{self, Receiver, Sender, error::TryRecvError};

use crate::engine::{EngineError, Lease, Pin};
use crate::image::{Digest, Graph};

/// How many blobs are remembered as pinned: more than an image may have.
const MAX_KNOWN: usize = 100_000;

/// What is pinned, and what waits to be.
#[derive(Debug, Default)]
pub(super) struct Pinning {
    /// Blobs that are pinned by themselves or by a document above them.
    known: Mutex<HashMap<Digest, u64>>,
    waiting: Mutex<Vec<Waiting>>,
    /// Held by the request that pins for all that wait.
    turn: AsyncMutex<()>,
}

type Outcome = Result<Option<u64>, EngineError>;
type Waiting = (Digest, Sender<Outcome>);

impl Pinning {
    fn known(&self) -> MutexGuard<'_, HashMap<Digest, u64>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that the engine has of `graph` is pinned now, with these sizes.
    pub(super) fn covers(&self, graph: &Graph) {
        self.remember(graph.descriptors().map(|blob| (blob.digest.clone(), blob.size)));
    }

    fn remember(&self, blobs: impl IntoIterator<Item = (Digest, u64)>) {
        let mut known = self.known();
        if known.len() < MAX_KNOWN {
            known.extend(blobs);
        }
    }

    /// Whether `digest` is pinned if the engine has it at all.
    pub(super) fn is_covered(&self, digest: &Digest) -> bool {
        self.known().contains_key(digest)
    }

    /// Pins a blob, and returns its size; `None` if the engine lacks it. Requests that come while one is served are pinned
    /// together: that costs as much as one.
    pub(super) async fn pin(&self, lease: &dyn Lease, digest: &Digest) -> Outcome {
        let mut outcome = self.enqueue(digest);
        loop {
            let _turn = self.turn.lock().await;
            match outcome.try_recv() {
                Ok(outcome) => return outcome,
                // Whoever pinned it has gone away.
                Err(TryRecvError::Closed) => outcome = self.enqueue(digest),
                Err(TryRecvError::Empty) => {}
            }
            let waiting = std::mem::take(&mut *self.waiting());
            let pins: Vec<_> = waiting.iter().map(|(digest, _)| Pin::from(digest)).collect();
            let pinned = lease.pin(&pins).await;
            if let Ok(sizes) = &pinned {
                let there =
                    waiting.iter().zip(sizes).filter_map(|((digest, _), size)| Some((digest.clone(), (*size)?)));
                self.remember(there);
            }
            for (at, (_, sender)) in waiting.into_iter().enumerate() {
                let outcome = pinned.as_ref().map(|sizes| sizes.get(at).copied().flatten()).map_err(Clone::clone);
                // Its client may be gone.
                let _ = sender.send(outcome);
            }
        }
    }

    fn enqueue(&self, digest: &Digest) -> Receiver<Outcome> {
        let (sender, receiver) = oneshot::channel();
        self.waiting().push((digest.clone(), sender));
        receiver
    }
}
