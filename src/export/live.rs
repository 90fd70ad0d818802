//! The exports that are under way, through any door: what `linkspan ps` lists.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::engine::Origin;

/// The state of what keeps blobs for a client that reads them.
pub const HELD: &str = "held";

/// An export that is under way, or something else that keeps blobs for a client.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LiveExport {
    /// Its id.
    pub id: String,
    /// The door it came through.
    pub door: String,
    /// The builder, as configured.
    pub builder: String,
    /// Who exports.
    pub principal: String,
    /// The name of its state.
    pub state: String,
    /// When it began, in seconds since 1970.
    pub created: Option<u64>,
    /// The names that it is to set, as far as they are known.
    pub names: Vec<String>,
    /// How many blobs of it are in the engine, if it counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blobs: Option<u64>,
    /// Their bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// When it ends unless its client renews it, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
}

/// How far an export is, as it says itself when it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Where it stands, in one word, unless that is reported by `Listed::enter`.
    pub state: Option<&'static str>,
    /// How many blobs of it are in the engine.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When it ends unless its client renews it.
    pub expires: Option<SystemTime>,
}

/// Asks an export how far it is; `None` if it has ended.
type Ask = Arc<dyn Fn() -> Option<Progress> + Send + Sync>;

/// How many exports are remembered that have ended.
const MAX_ENDED: usize = 1024;

/// The exports into one engine that are under way. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct LiveExports(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    entries: BTreeMap<String, Entry>,
    /// The ids of exports of the exporter API that have ended, and who exported, the newest last: their door lists them for a
    /// while.
    ended: VecDeque<(String, String)>,
}

/// One of them.
#[derive(Clone, Default)]
struct Entry {
    live: LiveExport,
    ask: Option<Ask>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.live.fmt(f)
    }
}

impl Entry {
    /// What is listed of it now.
    fn listed(self) -> LiveExport {
        match self.ask.and_then(|ask| ask()) {
            None => self.live,
            Some(Progress { state, blobs, bytes, expires }) => LiveExport {
                state: state.map_or(self.live.state, str::to_owned),
                blobs: Some(blobs),
                bytes: Some(bytes),
                expires: expires.and_then(seconds),
                ..self.live
            },
        }
    }
}

/// An export that is listed until this is dropped.
#[derive(Debug)]
pub struct Listed {
    exports: LiveExports,
    id: String,
    /// Whether this is a step of an export that is listed already, and that stays.
    is_step: bool,
}

impl LiveExports {
    /// Lists the export of `origin`, which begins. What is listed under its id already gets the names and states of this one.
    pub fn add(&self, origin: &Origin, names: Vec<String>) -> Listed {
        let mut exports = self.exports();
        let is_step = exports.entries.contains_key(&origin.export);
        let new = || LiveExport {
            id: origin.export.clone(),
            door: origin.door.to_owned(),
            builder: origin.builder.clone(),
            principal: origin.principal.to_string(),
            state: "open".to_owned(),
            created: seconds(SystemTime::now()),
            ..LiveExport::default()
        };
        let entry = exports.entries.entry(origin.export.clone()).or_insert_with(|| Entry { live: new(), ask: None });
        let live = &mut entry.live;
        let new: Vec<_> = names.into_iter().filter(|name| !live.names.contains(name)).collect();
        // A repository stands for names that are not known yet.
        live.names.retain(|known| !new.iter().any(|name| is_of_repository(name, known)));
        live.names.extend(new);
        Listed { exports: self.clone(), id: origin.export.clone(), is_step }
    }

    /// All of them, ordered by id.
    pub fn list(&self) -> Vec<LiveExport> {
        // Exports are asked without the lock, which they take themselves when they enter a state.
        let entries: Vec<_> = self.exports().entries.values().cloned().collect();
        entries.into_iter().map(Entry::listed).collect()
    }

    /// Who exported what has ended through the exporter API: by the export's id, of the newest ones.
    pub fn ended(&self) -> BTreeMap<String, String> {
        self.exports().ended.iter().cloned().collect()
    }

    /// The export `id` has come to `state`.
    pub(super) fn enter(&self, id: &str, state: &str) {
        if let Some(entry) = self.exports().entries.get_mut(id) {
            state.clone_into(&mut entry.live.state);
        }
    }

    fn exports(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listed {
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// It began at `time`, in an earlier process.
    pub(crate) fn began(&self, time: SystemTime) {
        if let Some(entry) = self.exports.exports().entries.get_mut(&self.id) {
            entry.live.created = seconds(time);
        }
    }

    /// It has come to `state`.
    pub(crate) fn enter(&self, state: &str) {
        self.exports.enter(&self.id, state);
    }

    /// Each list asks `ask` how far it is; `None` leaves what was reported. Of a step the whole export is asked.
    pub(crate) fn ask(&self, ask: impl Fn() -> Option<Progress> + Send + Sync + 'static) {
        if !self.is_step
            && let Some(entry) = self.exports.exports().entries.get_mut(&self.id)
        {
            entry.ask = Some(Arc::new(ask));
        }
    }
}

/// Whether `name` is a tag or a digest of `repository`.
fn is_of_repository(name: &str, repository: &str) -> bool {
    name.strip_prefix(repository).is_some_and(|rest| rest.starts_with([':', '@']))
}

fn seconds(time: SystemTime) -> Option<u64> {
    time.duration_since(UNIX_EPOCH).ok().map(|time| time.as_secs())
}

impl Drop for Listed {
    fn drop(&mut self) {
        if self.is_step {
            return;
        }
        let mut exports = self.exports.exports();
        if let Some(Entry { live, .. }) = exports.entries.remove(&self.id)
            && live.door == "export"
        {
            if exports.ended.len() == MAX_ENDED {
                exports.ended.pop_front();
            }
            exports.ended.push_back((live.id, live.principal));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::net::Principal;

    #[test]
    fn who_exported_what_has_ended_is_remembered_of_the_newest() {
        let exports = LiveExports::default();
        let end = |id: usize, door: &'static str| {
            let principal = Principal::Unix { uid: 7, gid: 8, pid: Some(id.try_into().unwrap()) };
            drop(exports.add(&Origin { export: format!("{id}"), door, builder: String::new(), principal }, Vec::new()));
        };
        end(1, "docker");
        assert!(exports.ended().is_empty(), "it is listed nowhere");
        (1..=MAX_ENDED + 2).for_each(|id| end(id, "export"));
        let ended = exports.ended();
        assert_eq!((ended.len(), ended.contains_key("2")), (MAX_ENDED, false));
        assert_eq!(ended["3"], "uid 7, gid 8, pid 3");
    }

    #[test]
    fn an_export_is_listed_once_until_it_ends() {
        let exports = LiveExports::default();
        let principal = Principal::Unix { uid: 7, gid: 8, pid: Some(9) };
        let origin = Origin { export: "e".to_owned(), door: "export", builder: "b".to_owned(), principal };
        let session = exports.add(&origin, Vec::new());
        let step = exports.add(&origin, vec!["docker.io/library/demo:1".to_owned()]);
        step.enter("planned");
        session.began(UNIX_EPOCH + Duration::from_secs(7));
        let [live] = &exports.list()[..] else { panic!("{:?}", exports.list()) };
        assert_eq!((live.door.as_str(), live.builder.as_str(), live.state.as_str()), ("export", "b", "planned"));
        assert_eq!((live.principal.as_str(), live.created), ("uid 7, gid 8, pid 9", Some(7)));
        assert_eq!(live.names, ["docker.io/library/demo:1"]);
        drop(step);
        assert_eq!(exports.list().len(), 1);
        drop(session);
        assert_eq!(exports.list(), []);
    }

    #[test]
    fn a_repository_is_listed_until_a_name_in_it_is_known() {
        let exports = LiveExports::default();
        let (builder, principal) = (String::new(), Principal::Internal);
        let origin = Origin { export: "e".to_owned(), door: "registry", builder, principal };
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let _push = exports.add(&origin, names(&["docker.io/team/app"]));
        drop(exports.add(&origin, names(&["docker.io/team/app2:1"])));
        assert_eq!(exports.list()[0].names, ["docker.io/team/app", "docker.io/team/app2:1"]);
        drop(exports.add(&origin, names(&["docker.io/team/app:1"])));
        assert_eq!(exports.list()[0].names, ["docker.io/team/app2:1", "docker.io/team/app:1"]);
    }

    #[test]
    fn an_export_that_counts_says_how_far_it_is() {
        let exports = LiveExports::default();
        let (builder, principal) = (String::new(), Principal::Internal);
        let listed = exports.add(&Origin { export: "e".to_owned(), door: "cache", builder, principal }, Vec::new());
        let blobs = Arc::new(Mutex::new(Some(1)));
        let counted = blobs.clone();
        listed.ask(move || {
            let blobs = (*counted.lock().unwrap())?;
            let state = (blobs > 1).then_some("transferring");
            Some(Progress { state, blobs, bytes: 10 * blobs, expires: Some(UNIX_EPOCH + Duration::from_secs(blobs)) })
        });
        let seen = || {
            let LiveExport { state, blobs, bytes, expires, .. } = exports.list().remove(0);
            (state, blobs, bytes, expires)
        };
        assert_eq!(seen(), ("open".to_owned(), Some(1), Some(10), Some(1)));
        *blobs.lock().unwrap() = Some(2);
        assert_eq!(seen(), ("transferring".to_owned(), Some(2), Some(20), Some(2)));
        *blobs.lock().unwrap() = None;
        assert_eq!(seen(), ("open".to_owned(), None, None, None));
    }
}
