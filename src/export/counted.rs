//! How far an export is, counted for whoever lists it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::live::Progress;
use crate::engine::Plan;
use crate::image::Digest;
use crate::progress::Event;

/// What the engine has of one export's image.
#[derive(Debug, Default)]
pub(super) struct Counted(Mutex<Option<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    blobs: u64,
    /// The bytes of blobs that need not be sent.
    bytes: u64,
    /// How much has come of each other blob.
    sent: HashMap<Digest, u64>,
}

impl Counted {
    /// Begins anew with what `plan` found and stored.
    pub(super) fn plan(&self, plan: &Plan) {
        let there = || plan.present.iter().chain(&plan.stored);
        let (blobs, bytes) = (there().count() as u64, there().map(|blob| blob.size).sum());
        *self.counts() = Some(Counts { blobs, bytes, sent: HashMap::new() });
    }

    /// Counts what `event` says of a blob.
    pub(super) fn count(&self, event: &Event) {
        let mut counts = self.counts();
        let Some(counts) = counts.as_mut() else { return };
        match event {
            Event::Sent { digest, current, .. } => drop(counts.sent.insert(digest.clone(), *current)),
            Event::Stored { .. } => counts.blobs += 1,
            _ => {}
        }
    }

    /// How far it is; `None` before it is planned.
    pub(super) fn progress(&self) -> Option<Progress> {
        let counts = self.counts();
        let Counts { blobs, bytes, sent } = counts.as_ref()?;
        Some(Progress { state: None, blobs: *blobs, bytes: bytes + sent.values().sum::<u64>(), expires: None })
    }

    fn counts(&self) -> MutexGuard<'_, Option<Counts>> {
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
        counted.count(&sent(1));
        assert_eq!(counted.progress(), None);
        let plan = Plan { present: vec![blob("a", 100)], missing: vec![blob("new", 50)], stored: vec![blob("b", 7)] };
        counted.plan(&plan);
        counted.count(&sent(20));
        counted.count(&sent(30));
        assert_eq!(counted.progress(), Some(Progress { state: None, blobs: 2, bytes: 137, expires: None }));
        counted.count(&sent(50));
        counted.count(&Event::Stored { digest: blob("new", 0).digest });
        assert_eq!(counted.progress(), Some(Progress { state: None, blobs: 3, bytes: 157, expires: None }));
    }
}
