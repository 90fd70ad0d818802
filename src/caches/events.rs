//! Events of cache versions, for any number of watchers.
//!
//! What this process does is reported as it is done. Other processes, such as `linkspan cache rm`, change the same store: while
//! anybody watches, it is listed every few seconds, and what has changed is reported as well.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::broadcast;

use crate::engine::caches::CacheVersion;

/// How many events wait for a watcher that is slow.
const BACKLOG: usize = 256;
/// How many versions that are gone are remembered. Ids are never used again: a listing that began before such a version went
/// must not bring it back.
const GONE: usize = 4096;

/// What has happened to a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is complete, and offered from now on.
    Committed,
    /// A newer one has taken its place.
    Replaced,
    /// It was deleted by a request, or removed by another process.
    Deleted,
    /// A prune or a limit took it.
    Pruned,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheEvent {
    /// What has happened.
    pub change: Change,
    /// To which version.
    pub version: CacheVersion,
    /// When it was noticed.
    pub at: SystemTime,
}

/// The events of a store.
#[derive(Debug)]
pub(super) struct Events {
    sender: broadcast::Sender<CacheEvent>,
    /// `None` while nobody watches.
    known: Mutex<Option<ReportedVersions>>,
    /// Held while watching begins.
    pub(super) beginning: tokio::sync::Mutex<()>,
}

/// What was reported to watchers, or what they have found when they began.
#[derive(Debug, Default)]
struct ReportedVersions {
    versions: HashMap<String, CacheVersion>,
    gone: HashSet<String>,
    /// The same, the oldest first.
    order: VecDeque<String>,
}

impl ReportedVersions {
    fn forget(&mut self, id: &str) -> Option<CacheVersion> {
        if self.gone.insert(id.to_owned()) {
            self.order.push_back(id.to_owned());
        }
        while self.order.len() > GONE {
            let oldest = self.order.pop_front().unwrap_or_default();
            self.gone.remove(&oldest);
        }
        self.versions.remove(id)
    }
}

impl Default for Events {
    fn default() -> Self {
        let (known, beginning) = Default::default();
        Self { sender: broadcast::channel(BACKLOG).0, known, beginning }
    }
}

impl Events {
    fn known(&self) -> MutexGuard<'_, Option<ReportedVersions>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, change: Change, version: CacheVersion) {
        // The last watcher may have gone.
        let _ = self.sender.send(CacheEvent { change, version, at: SystemTime::now() });
    }

    /// Another watcher's events, if there are watchers already.
    pub(super) fn joined(&self) -> Option<broadcast::Receiver<CacheEvent>> {
        self.known().as_ref().map(|_| self.sender.subscribe())
    }

    /// The first watcher's events from now on, when there are these `versions`.
    pub(super) fn begun(&self, versions: Vec<CacheVersion>) -> broadcast::Receiver<CacheEvent> {
        let receiver = self.sender.subscribe();
        let versions = versions.into_iter().map(|version| (version.id.clone(), version)).collect();
        *self.known() = Some(ReportedVersions { versions, ..ReportedVersions::default() });
        receiver
    }

    /// A version is complete.
    pub(super) fn committed(&self, version: &CacheVersion) {
        let mut known = self.known();
        let Some(known) = known.as_mut() else { return };
        if !known.gone.contains(&version.id) && known.versions.insert(version.id.clone(), version.clone()).is_none() {
            self.send(Change::Committed, version.clone());
        }
    }

    /// Versions are not offered any more.
    pub(super) fn gone(&self, ids: &[String], change: Change) {
        let mut known = self.known();
        let Some(known) = known.as_mut() else { return };
        for version in ids.iter().filter_map(|id| known.forget(id)) {
            self.send(change, version);
        }
    }

    /// The versions that there are, as a listing has them.
    pub(super) fn listed(&self, versions: Vec<CacheVersion>) {
        let is_there: HashSet<_> = versions.iter().map(|version| version.id.clone()).collect();
        let lost: Vec<_> = match self.known().as_ref() {
            Some(known) => known.versions.keys().filter(|id| !is_there.contains(*id)).cloned().collect(),
            None => return,
        };
        self.gone(&lost, Change::Deleted);
        // The oldest first, as they came.
        versions.iter().rev().for_each(|version| self.committed(version));
    }

    /// Whether nobody watches any more, so that nothing need be known.
    pub(super) fn is_over(&self) -> bool {
        let mut known = self.known();
        if self.sender.receiver_count() > 0 {
            return false;
        }
        *known = None;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caches::tests::version;

    fn watched(ids: &[&str]) -> (Events, broadcast::Receiver<CacheEvent>) {
        let events = Events::default();
        let receiver = events.sender.subscribe();
        let versions = ids.iter().map(|id| ((*id).to_owned(), version(id, "p", 1))).collect();
        *events.known() = Some(ReportedVersions { versions, ..ReportedVersions::default() });
        (events, receiver)
    }

    fn received(receiver: &mut broadcast::Receiver<CacheEvent>) -> Vec<(Change, String)> {
        std::iter::from_fn(|| receiver.try_recv().ok()).map(|event| (event.change, event.version.id)).collect()
    }

    #[test]
    fn what_others_did_is_reported_once() {
        let (events, mut receiver) = watched(&["old", "held"]);
        events.committed(&version("ours", "p", 2));
        events.gone(&["old".to_owned(), "never seen".to_owned()], Change::Pruned);
        // A listing that began before: it has what is gone.
        events.listed(vec![version("ours", "p", 2), version("theirs", "p", 2), version("old", "p", 1)]);
        events.listed(vec![version("ours", "p", 2), version("theirs", "p", 2)]);
        let expected = [
            (Change::Committed, "ours"),
            (Change::Pruned, "old"),
            (Change::Deleted, "held"),
            (Change::Committed, "theirs"),
        ];
        assert_eq!(received(&mut receiver), expected.map(|(change, id)| (change, id.to_owned())));
    }

    #[test]
    fn nothing_is_known_without_watchers() {
        let (events, receiver) = watched(&["old"]);
        assert!(!events.is_over());
        drop(receiver);
        assert!(events.is_over() && events.known().is_none());
        // Nobody watches.
        events.committed(&version("new", "p", 2));
        assert!(events.known().is_none());
    }

    #[test]
    fn a_slow_watcher_gets_the_number_of_missed_events() {
        let (events, mut receiver) = watched(&[]);
        for at in 0..BACKLOG + 3 {
            events.committed(&version(&at.to_string(), "p", 1));
        }
        assert_eq!(receiver.try_recv(), Err(broadcast::error::TryRecvError::Lagged(3)));
        assert_eq!(received(&mut receiver).len(), BACKLOG);
    }
}
