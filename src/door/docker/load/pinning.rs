//! Pinning omitted blobs while the archive continues.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::blobs::EngineBlobs;
use crate::engine::{EngineError, StoredBlob};
use crate::image::Digest;

/// How many members may wait for their pins. Each keeps a file open, from which it is sent if the engine loses the blob
/// before it is pinned.
const WAITING: usize = 64;

/// A member that was omitted, but may have to be sent after all.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) digest: Digest,
    pub(super) head: Bytes,
    pub(super) blob: Arc<dyn StoredBlob>,
}

/// Blobs that are being pinned: during one call further ones are collected for the next.
#[derive(Debug, Default)]
pub(super) struct Pins {
    /// Not part of a call yet.
    requested: Vec<Digest>,
    /// Requested or part of the running call.
    known: HashSet<Digest>,
    running: Option<JoinHandle<Pinning>>,
    members: Vec<Member>,
}

#[derive(Debug)]
struct Pinning {
    digests: Vec<Digest>,
    gone: Result<Vec<Digest>, EngineError>,
}

/// The outcome of one call.
#[derive(Debug, Default)]
pub(super) struct PinOutcome {
    /// Pinned blobs.
    pub(super) pinned: Vec<Digest>,
    /// Members that must be sent after all.
    pub(super) lost: Vec<Member>,
    /// Why the engine is no longer trusted.
    pub(super) error: Option<EngineError>,
}

impl Pins {
    /// Requests a pin of `digest`, unless one is already requested.
    pub(super) fn request(&mut self, blobs: &Arc<dyn EngineBlobs>, digest: &Digest) {
        if self.known.insert(digest.clone()) {
            self.requested.push(digest.clone());
        }
        self.start(blobs);
    }

    /// Adds a member that depends on a requested pin.
    pub(super) fn add(&mut self, member: Member) {
        self.members.push(member);
    }

    /// Whether an outcome is available without waiting, or too many members wait.
    pub(super) fn is_due(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.is_finished() || self.members.len() >= WAITING)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.running.is_none()
    }

    /// Waits for the running call.
    pub(super) async fn await_pins(&mut self, blobs: &Arc<dyn EngineBlobs>) -> PinOutcome {
        let Some(running) = &mut self.running else { return PinOutcome::default() };
        let outcome = running.await;
        self.running = None;
        let (digests, gone) = match outcome {
            Ok(Pinning { digests, gone }) => (digests, gone),
            // Only if the runtime shuts down. No pin is certain then.
            Err(error) => {
                let reason = error.to_string();
                (Vec::new(), Err(EngineError::Protocol { operation: "pinning blobs".to_owned(), reason }))
            }
        };
        let mut settled = PinOutcome::default();
        let is_lost: Box<dyn Fn(&Digest) -> bool> = match gone {
            Ok(gone) => {
                let gone: HashSet<_> = gone.into_iter().collect();
                settled.pinned = digests.iter().filter(|digest| !gone.contains(digest)).cloned().collect();
                Box::new(move |digest| gone.contains(digest))
            }
            Err(error) => {
                settled.error = Some(error);
                self.requested.clear();
                Box::new(|_| true)
            }
        };
        for digest in &digests {
            self.known.remove(digest);
        }
        let pinned: HashSet<_> = settled.pinned.iter().collect();
        let (lost, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.members).into_iter().partition(|member| is_lost(&member.digest));
        settled.lost = lost;
        self.members = rest.into_iter().filter(|member| !pinned.contains(&member.digest)).collect();
        if settled.error.is_none() {
            self.start(blobs);
        }
        settled
    }

    fn start(&mut self, blobs: &Arc<dyn EngineBlobs>) {
        if self.running.is_some() || self.requested.is_empty() {
            return;
        }
        let (blobs, digests) = (blobs.clone(), std::mem::take(&mut self.requested));
        // A task, so that it runs independently, and to its end even if the load is dropped.
        self.running = Some(tokio::spawn(async move {
            let gone = blobs.pin(&digests).await;
            Pinning { digests, gone }
        }));
    }
}
