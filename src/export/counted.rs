//! How far an export is, counted for whoever lists it.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::live::Progress;
use crate::engine::Plan;
use crate::image::Digest;
use crate::progress::Event;

/// The state of an export whose blobs have all come and of which layers are being unpacked.
pub(super) const UNPACKING: &str = "unpacking";

/// What the engine has of one export's image: nothing, before it is planned.
#[derive(Debug, Default)]
pub(super) struct Counted(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    blobs: u64,
    /// The bytes of blobs that need not be sent.
    bytes: u64,
    /// How much has come of each other blob.
    sent: HashMap<Digest, u64>,
    /// Blobs that have not come.
    missing: HashSet<Digest>,
    /// Layers that are being unpacked.
    unpacking: HashSet<Digest>,
}

impl Counted {
    /// Begins anew with what `plan` found and stored.
    pub(super) fn plan(&self, plan: &Plan) {
        let there = || plan.present.iter().chain(&plan.stored);
        let (blobs, bytes) = (there().count() as u64, there().map(|blob| blob.size).sum());
        let missing = plan.missing.iter().map(|blob| blob.digest.clone()).collect();
        *self.counts() = Counts { blobs, bytes, missing, ..Counts::default() };
    }

    /// Counts what `event` says of a blob. `true` if only unpacking is left from now on.
    pub(super) fn count(&self, event: &Event) -> bool {
        let mut counts = self.counts();
        match event {
            Event::Sent { digest, current, .. } => {
                counts.sent.insert(digest.clone(), *current);
                return false;
            }
            Event::Stored { digest } => {
                counts.blobs += 1;
                counts.missing.remove(digest);
            }
            Event::Unpacking { digest } => drop(counts.unpacking.insert(digest.clone())),
            Event::Unpacked { digest } => {
                counts.unpacking.remove(digest);
                return false;
            }
            _ => return false,
        }
        counts.missing.is_empty() && !counts.unpacking.is_empty()
    }

    /// How far it is.
    pub(super) fn progress(&self) -> Progress {
        let counts = self.counts();
        let Counts { blobs, bytes, sent, .. } = &*counts;
        Progress { state: None, blobs: *blobs, bytes: bytes + sent.values().sum::<u64>(), expires: None }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Descriptor;

    #[test]
    fn what_is_there_and_what_came_are_counted() {
        let counted = Counted::default();
        let blob = |name: &str, size| Descriptor::new("layer", Digest::sha256(name.as_bytes()), size);
        let sent = |current| Event::Sent { digest: blob("new", 0).digest, current, total: 50 };
        assert_eq!(counted.progress(), Progress::default());
        let plan = Plan { present: vec![blob("a", 100)], missing: vec![blob("new", 50)], stored: vec![blob("b", 7)] };
        counted.plan(&plan);
        counted.count(&sent(20));
        counted.count(&sent(30));
        let progress = |blobs, bytes| Progress { blobs, bytes, ..Progress::default() };
        assert_eq!(counted.progress(), progress(2, 137));
        counted.count(&sent(50));
        counted.count(&Event::Stored { digest: blob("new", 0).digest });
        assert_eq!(counted.progress(), progress(3, 157));
    }

    #[test]
    fn an_export_unpacks_when_nothing_else_is_left() {
        let counted = Counted::default();
        let blob = |name: &str| Descriptor::new("layer", Digest::sha256(name.as_bytes()), 1);
        let plan = Plan { present: vec![blob("a")], missing: vec![blob("b"), blob("c")], stored: Vec::new() };
        counted.plan(&plan);
        let stored = |name: &str| counted.count(&Event::Stored { digest: blob(name).digest });
        let unpacking = |name: &str| counted.count(&Event::Unpacking { digest: blob(name).digest });
        let unpacked = |name: &str| counted.count(&Event::Unpacked { digest: blob(name).digest });
        assert!(!unpacking("a"));
        assert!(!stored("b"), "another blob is still to come");
        assert!(stored("c"));
        assert!(!unpacked("a"));
        assert!(unpacking("b"));
    }
}
