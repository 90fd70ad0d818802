//! Making sure that what was left out stays, while the archive goes on.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::blobs::EngineBlobs;
use crate::engine::{EngineError, StoredBlob};
use crate::image::Digest;

/// How many members may be waiting for their pins. Each keeps a file open, from which it is sent if the engine loses the
/// blob before it is pinned.
const WAITING: usize = 64;

/// A member that was left out, but may have to be sent after all.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) digest: Digest,
    pub(super) head: Bytes,
    pub(super) blob: Arc<dyn StoredBlob>,
}

/// Blobs that are being pinned: while one call is under way the next ones gather, and go together.
#[derive(Debug, Default)]
pub(super) struct Pins {
    /// Not asked for yet.
    wanted: Vec<Digest>,
    /// Asked for, in whatever state, and not yet answered for.
    known: HashSet<Digest>,
    running: Option<JoinHandle<Pinning>>,
    members: Vec<Member>,
}

#[derive(Debug)]
struct Pinning {
    asked: Vec<Digest>,
    gone: Result<Vec<Digest>, EngineError>,
}

/// What came of some pins.
#[derive(Debug, Default)]
pub(super) struct PinOutcome {
    /// These stay.
    pub(super) pinned: Vec<Digest>,
    /// These must be sent after all.
    pub(super) lost: Vec<Member>,
    /// Why the engine cannot be relied on any more.
    pub(super) error: Option<EngineError>,
}

impl Pins {
    /// Begins to pin `digest`, if that is not under way.
    pub(super) fn want(&mut self, blobs: &Arc<dyn EngineBlobs>, digest: &Digest) {
        if self.known.insert(digest.clone()) {
            self.wanted.push(digest.clone());
        }
        self.start(blobs);
    }

    /// A member that relies on a pin under way.
    pub(super) fn add(&mut self, member: Member) {
        self.members.push(member);
    }

    /// Whether there is an outcome to be had without waiting, or waiting is due.
    pub(super) fn is_due(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.is_finished() || self.members.len() >= WAITING)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.running.is_none()
    }

    /// Waits for the call under way.
    pub(super) async fn await_pins(&mut self, blobs: &Arc<dyn EngineBlobs>) -> PinOutcome {
        let Some(running) = &mut self.running else { return PinOutcome::default() };
        let outcome = running.await;
        self.running = None;
        let (asked, gone) = match outcome {
            Ok(Pinning { asked, gone }) => (asked, gone),
            // Only if the runtime ends. Nothing is certain then.
            Err(error) => {
                let reason = error.to_string();
                (Vec::new(), Err(EngineError::Protocol { operation: "pinning blobs".to_owned(), reason }))
            }
        };
        let mut settled = PinOutcome::default();
        let is_lost: Box<dyn Fn(&Digest) -> bool> = match gone {
            Ok(gone) => {
                let gone: HashSet<_> = gone.into_iter().collect();
                settled.pinned = asked.iter().filter(|digest| !gone.contains(digest)).cloned().collect();
                Box::new(move |digest| gone.contains(digest))
            }
            Err(error) => {
                settled.error = Some(error);
                self.wanted.clear();
                Box::new(|_| true)
            }
        };
        for digest in &asked {
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
        if self.running.is_some() || self.wanted.is_empty() {
            return;
        }
        let (blobs, asked) = (blobs.clone(), std::mem::take(&mut self.wanted));
        // A task, so that it goes on between two looks at it, and to its end when the load is gone.
        self.running = Some(tokio::spawn(async move {
            let gone = blobs.pin(&asked).await;
            Pinning { asked, gone }
        }));
    }
}
