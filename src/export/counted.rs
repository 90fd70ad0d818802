//! How far an export is, counted for whoever lists it.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::live::Progress;
use crate::engine::Plan;
use crate::image::Digest;
use crate::progress::Event;

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
    is_planned: bool,
    /// Since when nothing but unpacking is left.
    only_unpacking: Option<Instant>,
}

impl Counts {
    /// Notes since when only unpacking is left; `true` the first time.
    fn look(&mut self) -> bool {
        let is_only = self.is_planned && self.missing.is_empty() && !self.unpacking.is_empty();
        let begins = is_only && self.only_unpacking.is_none();
        if begins {
            self.only_unpacking = Some(Instant::now());
        }
        begins
    }
}

impl Counted {
    /// Begins anew with what `plan` found and stored.
    pub(super) fn plan(&self, plan: &Plan) {
        let there = || plan.present.iter().chain(&plan.stored);
        let (blobs, bytes) = (there().count() as u64, there().map(|blob| blob.size).sum());
        let missing = plan.missing.iter().map(|blob| blob.digest.clone()).collect();
        let mut counts = self.counts();
        // What the first plan finds is unpacked from its beginning on; what an earlier one unpacked was given up.
        let unpacking = if counts.is_planned { HashSet::new() } else { std::mem::take(&mut counts.unpacking) };
        *counts = Counts { blobs, bytes, missing, unpacking, is_planned: true, ..Counts::default() };
    }

    /// Whether only unpacking is left, which nobody was told yet.
    pub(super) fn begins_unpacking(&self) -> bool {
        self.counts().look()
    }

    /// Since when only unpacking has been left.
    pub(super) fn unpacking_since(&self) -> Option<Instant> {
        self.counts().only_unpacking
    }

    /// Counts what `event` says of a blob. `true` if from now on only unpacking is left.
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
        counts.look()
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
        assert!(counted.unpacking_since().is_none());
        assert!(stored("c"));
        let since = counted.unpacking_since().unwrap();
        assert!(!unpacked("a"));
        assert!(!unpacking("b"), "it was said before");
        assert_eq!(counted.unpacking_since(), Some(since));
    }

    #[test]
    fn an_image_whose_blobs_are_there_is_unpacked_from_its_plan_on() {
        let counted = Counted::default();
        let layer = Descriptor::new("layer", Digest::sha256(b"a"), 1);
        let unpacking = || counted.count(&Event::Unpacking { digest: layer.digest.clone() });
        assert!(!unpacking(), "it is not known what is missing");
        counted.plan(&Plan { present: vec![layer.clone()], ..Plan::default() });
        assert!(counted.begins_unpacking() && !counted.begins_unpacking());
        // Another plan begins anew.
        counted.plan(&Plan { present: vec![layer.clone()], ..Plan::default() });
        assert!(!counted.begins_unpacking() && unpacking());
    }
}
