//! Which blobs of an export came, and how, for whoever counts what happens in this process.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::activity::{Activities, Activity, Arrival};
use crate::engine::Plan;
use crate::image::Digest;
use crate::progress::Event;

/// The blobs of one export. Each is counted once, however often the export is planned.
#[derive(Debug)]
pub(super) struct Tally {
    door: &'static str,
    activities: Activities,
    blobs: Mutex<Blobs>,
}

#[derive(Debug, Default)]
struct Blobs {
    counted: HashSet<Digest>,
    /// The sizes of those that were missing.
    missing: HashMap<Digest, u64>,
    /// Where the transfer of those began that are on their way.
    begun: HashMap<Digest, u64>,
}

impl Tally {
    /// `received` were counted when the client sent them.
    pub(super) fn new(door: &'static str, activities: Activities, received: HashSet<Digest>) -> Self {
        Self { door, activities, blobs: Mutex::new(Blobs { counted: received, ..Blobs::default() }) }
    }

    /// Counts what `plan` found and stored.
    pub(super) fn plan(&self, plan: &Plan) {
        let mut blobs = self.blobs();
        blobs.missing.extend(plan.missing.iter().map(|blob| (blob.digest.clone(), blob.size)));
        let new = |of: &[crate::image::Descriptor], counted: &mut HashSet<Digest>| {
            let new = of.iter().filter(|blob| counted.insert(blob.digest.clone()));
            new.fold((0, 0), |(blobs, bytes), blob| (blobs + 1, bytes + blob.size))
        };
        let present = new(&plan.present, &mut blobs.counted);
        let stored = new(&plan.stored, &mut blobs.counted);
        drop(blobs);
        self.emit(Arrival::Present, present);
        self.emit(Arrival::Sent, stored);
    }

    /// Counts the blobs of an image that was complete and named.
    pub(super) fn unchanged(&self, blobs: usize) {
        self.emit(Arrival::Present, (blobs as u64, 0));
    }

    /// Counts what `event` says of a blob.
    pub(super) fn note(&self, event: &Event) {
        let arrived = match event {
            Event::Sending { digest, offset } => {
                self.blobs().begun.insert(digest.clone(), *offset);
                None
            }
            Event::Stored { digest } => self.blobs().arrived(digest),
            _ => None,
        };
        if let Some((how, bytes)) = arrived {
            self.emit(how, (1, bytes));
        }
    }

    fn emit(&self, how: Arrival, (blobs, bytes): (u64, u64)) {
        if blobs > 0 {
            self.activities.emit(Activity::Blobs { door: self.door, how, blobs, bytes });
        }
    }

    fn blobs(&self) -> MutexGuard<'_, Blobs> {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Blobs {
    /// How a blob came that is complete now, and how many of its bytes.
    fn arrived(&mut self, digest: &Digest) -> Option<(Arrival, u64)> {
        if !self.counted.insert(digest.clone()) {
            return None;
        }
        let size = self.missing.get(digest).copied().unwrap_or_default();
        Some(match self.begun.remove(digest) {
            // Another client of the engine brought it meanwhile.
            None => (Arrival::Present, size),
            Some(offset) if offset > 0 && offset == size => (Arrival::Adopted, size),
            Some(offset) => (Arrival::Sent, size.saturating_sub(offset)),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::image::Descriptor;

    #[test]
    fn each_blob_is_counted_once_as_what_it_was() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = seen.clone();
        let activities = Activities::new(move |activity| {
            if let Activity::Blobs { how, blobs, bytes, door: "d" } = activity {
                kept.lock().unwrap().push((how.name(), *blobs, *bytes));
            }
        });
        let blob = |name: &str, size| Descriptor::new("layer", Digest::sha256(name.as_bytes()), size);
        let received = HashSet::from([blob("received", 0).digest]);
        let tally = Tally::new("d", activities, received);
        let plan = Plan {
            present: vec![blob("a", 100), blob("b", 10), blob("received", 7)],
            missing: vec![blob("new", 50), blob("half", 50), blob("other", 5), blob("shared", 8), blob("empty", 0)],
            stored: vec![blob("document", 3)],
        };
        tally.plan(&plan);
        let sending = |name: &str, offset| tally.note(&Event::Sending { digest: blob(name, 0).digest, offset });
        let stored = |name: &str| tally.note(&Event::Stored { digest: blob(name, 0).digest });
        for (name, offset) in [("new", 0), ("half", 20), ("shared", 8), ("empty", 0)] {
            sending(name, offset);
            stored(name);
        }
        stored("other");
        // Once more, after the engine has lost something.
        tally.plan(&Plan { present: [plan.present, plan.missing].concat(), ..Plan::default() });
        let expected = [
            ("present", 2, 110),
            ("sent", 1, 3),
            ("sent", 1, 50),
            ("sent", 1, 30),
            ("adopted", 1, 8),
            ("sent", 1, 0),
            ("present", 1, 5),
        ];
        assert_eq!(*seen.lock().unwrap(), expected);
    }
}
