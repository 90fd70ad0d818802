//! What collections are about to delete: an object for each, which is compared and set.
//!
//! A collection is `condemned` first: whoever has pinned a blob of it takes that out, by compare-and-swap. Then it is `deleting`:
//! nothing can be taken out any more, and whoever needs a blob of it waits until the blob is deleted, and uploads it again. A
//! writer pins first and looks here second; a collector writes here first, and reads the leases, then the names, second. So
//! one of them sees the other.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use object_store::UpdateVersion;
use serde::{Deserialize, Serialize};

use super::bucket::{Bucket, Condition};
use super::host::SKEW;
use super::keys;
use crate::engine::EngineError;
use crate::engine::process::Process;
use crate::image::Digest;

/// How many blobs one collection deletes.
pub(super) const MAX_DIGESTS: usize = 20_000;
/// The longest object of a collection, in bytes.
const MAX_BYTES: u64 = 8 << 20;
/// How many collections are looked at.
const MAX_RUNS: usize = 1_000;
/// How often a comparison that fails is repeated: once for each writer that rescues something at the same moment.
const ATTEMPTS: usize = 200;
/// How long a writer waits for blobs that are being deleted.
const MAX_WAIT: Duration = Duration::from_secs(5 * 60);
/// How often it looks.
const WAIT: Duration = Duration::from_secs(1);
/// How long after its last sign of life a collection of another machine is taken over.
const TAKEOVER: Duration = Duration::from_secs(3600);

const STUCK: &str = "run `linkspan gc` on this bucket: it finishes a collection whose process is gone";
const UNKNOWN: &str =
    "a newer Linkspan may have written it: use that one, or remove the object when no collection is under way";

/// How far a collection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// Its blobs can be rescued.
    Condemned,
    /// They cannot.
    Deleting,
}

/// A collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    /// The process that runs it.
    pub(super) process: String,
    /// Counts its versions, so that no two of them are the same to a store that compares contents.
    serial: u64,
    pub(super) state: State,
    pub(super) digests: BTreeSet<Digest>,
}

impl Run {
    /// One that has condemned nothing yet.
    pub(super) fn new(process: &str) -> Self {
        Self { process: process.to_owned(), serial: 0, state: State::Condemned, digests: BTreeSet::new() }
    }

    fn next(&self) -> Self {
        Self { serial: self.serial + 1, ..self.clone() }
    }

    /// The next version, with other digests.
    pub(super) fn with(&self, state: State, digests: BTreeSet<Digest>) -> Self {
        Self { state, digests, ..self.next() }
    }

    /// The next version, run by `process`. One that has deleted nothing yet ends by that.
    pub(super) fn taken_over(&self, process: &str) -> Self {
        let digests = if self.state == State::Deleting { self.digests.clone() } else { BTreeSet::new() };
        Self { process: process.to_owned(), digests, ..self.next() }
    }

    /// Whether writers have taken something out of `written` since then.
    fn is_rescued_of(&self, written: &Self) -> bool {
        let is_condemned = self.state == State::Condemned && written.state == State::Condemned;
        let is_later = self.process == written.process && self.serial > written.serial;
        is_condemned && is_later && self.digests.is_subset(&written.digests)
    }

    /// What a writer of `pinned` does about it.
    fn concerns(&self, pinned: &BTreeSet<Digest>) -> Concern {
        match self.state {
            _ if self.digests.is_disjoint(pinned) => Concern::Nothing,
            State::Condemned => {
                let left = self.digests.difference(pinned).cloned().collect();
                Concern::Rescue(self.with(State::Condemned, left))
            }
            State::Deleting => Concern::Wait,
        }
    }

    /// Whether nobody runs it any more; `age` is the time since it was written, by the store's clock.
    pub(super) fn is_abandoned(&self, age: Duration) -> bool {
        match self.process.parse::<Process>() {
            Ok(process) if process.is_of_this_boot() && process.is_gone() => true,
            _ => age >= TAKEOVER + SKEW,
        }
    }
}

/// What a collection means to a writer.
#[derive(Debug, PartialEq, Eq)]
enum Concern {
    Nothing,
    /// To replace it by this.
    Rescue(Run),
    Wait,
}

/// A collection as it is stored.
#[derive(Debug, Clone)]
pub(super) struct StoredRun {
    pub(super) run: Run,
    pub(super) version: UpdateVersion,
    /// When it was written, by the store's clock.
    pub(super) written: SystemTime,
}

/// The collections of a bucket.
#[derive(Debug, Clone)]
pub(super) struct Condemned {
    bucket: Bucket,
}

impl Condemned {
    pub(super) fn new(bucket: Bucket) -> Self {
        Self { bucket }
    }

    /// The keys of all collections that have not ended.
    pub(super) async fn keys(&self) -> Result<Vec<String>, EngineError> {
        let listed = self.bucket.list(keys::CONDEMNED, MAX_RUNS + 1).await?;
        if listed.len() > MAX_RUNS {
            let reason = format!("it has more than {MAX_RUNS} collections; expected one or two");
            return Err(self.bucket.invalid(keys::CONDEMNED, reason));
        }
        Ok(listed.into_iter().map(|(key, _)| key).collect())
    }

    /// A collection; `None` if it has ended.
    pub(super) async fn read(&self, key: &str) -> Result<Option<StoredRun>, EngineError> {
        let Some(found) = self.bucket.get(key, MAX_BYTES).await? else { return Ok(None) };
        match serde_json::from_slice(&found.bytes) {
            Ok(run) => Ok(Some(StoredRun { run, version: found.version, written: found.written })),
            Err(error) => Err(EngineError::Object {
                operation: "reading",
                object: self.bucket.object(key),
                reason: format!("it is no collection: {error}"),
                hint: Some(UNKNOWN),
            }),
        }
    }

    /// Writes a version of a collection; `false` if the stored one is another than `before`, or if the answer of an earlier
    /// try was lost.
    pub(super) async fn write(&self, key: &str, run: &Run, before: Condition) -> Result<bool, EngineError> {
        let bytes = serde_json::to_vec(run).map_err(|error| self.bucket.invalid(key, error.to_string()))?;
        self.bucket.put_if(key, bytes.into(), before).await
    }

    /// Takes `pinned`, which a stored lease pins, out of all collections, and waits for those that are deleting some of them.
    /// What is looked up after that stays.
    pub(super) async fn rescue(&self, pinned: &BTreeSet<Digest>) -> Result<(), EngineError> {
        let begun = self.bucket.host.moment();
        loop {
            let mut deleting = None;
            for key in self.keys().await? {
                if self.rescue_from(&key, pinned).await? == Concern::Wait {
                    deleting = Some(key);
                }
            }
            let Some(key) = deleting else { return Ok(()) };
            if self.bucket.host.since(begun) >= MAX_WAIT {
                return Err(EngineError::Object {
                    operation: "waiting for the collection",
                    object: self.bucket.object(&key),
                    reason: format!(
                        "it deletes blobs that are needed, and has not ended within {} s",
                        MAX_WAIT.as_secs()
                    ),
                    hint: Some(STUCK),
                });
            }
            self.bucket.host.pause(WAIT).await;
        }
    }

    async fn rescue_from(&self, key: &str, pinned: &BTreeSet<Digest>) -> Result<Concern, EngineError> {
        for _ in 0..ATTEMPTS {
            let Some(StoredRun { run, version, .. }) = self.read(key).await? else { return Ok(Concern::Nothing) };
            match run.concerns(pinned) {
                Concern::Rescue(rescued) => {
                    if self.write(key, &rescued, Condition::Version(version)).await? {
                        return Ok(Concern::Nothing);
                    }
                }
                other => return Ok(other),
            }
        }
        Err(EngineError::Busy { what: self.bucket.object(key) })
    }

    /// Moves the collection `key` of this process to deleting all but `is_kept` of its digests, whatever is rescued meanwhile.
    /// `None` if another process has taken it over.
    pub(super) async fn seal(
        &self,
        key: &str,
        is_kept: impl Fn(&Digest) -> bool,
    ) -> Result<Option<StoredRun>, EngineError> {
        for _ in 0..ATTEMPTS {
            let Some(stored) = self.read(key).await? else { return Ok(None) };
            if *stored.run.process != *self.bucket.host.process {
                return Ok(None);
            }
            if stored.run.state == State::Deleting {
                return Ok(Some(stored));
            }
            let left = stored.run.digests.iter().filter(|digest| !is_kept(digest)).cloned().collect();
            let sealed = stored.run.with(State::Deleting, left);
            // Where that succeeded the next turn reads it.
            self.write(key, &sealed, Condition::Version(stored.version)).await?;
        }
        Err(EngineError::Busy { what: self.bucket.object(key) })
    }

    /// Replaces the version `before` of a collection by `run`, both of this process. `None` if another process has taken it
    /// over.
    pub(super) async fn replace(
        &self,
        key: &str,
        run: Run,
        before: UpdateVersion,
    ) -> Result<Option<StoredRun>, EngineError> {
        // Whether it was this write tells the object: an answer may have been lost.
        self.write(key, &run, Condition::Version(before)).await?;
        Ok(self.read(key).await?.filter(|found| found.run == run || found.run.is_rescued_of(&run)))
    }

    /// Removes a collection that has ended.
    pub(super) async fn remove(&self, key: &str) -> Result<(), EngineError> {
        self.bucket.delete(key).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(texts: &[&str]) -> BTreeSet<Digest> {
        texts.iter().map(|text| Digest::sha256(text.as_bytes())).collect()
    }

    #[test]
    fn what_is_condemned_is_rescued_and_what_is_being_deleted_is_waited_for() {
        let run = Run::new("p").with(State::Condemned, set(&["a", "b"]));
        assert_eq!(run.concerns(&set(&["c"])), Concern::Nothing);
        let Concern::Rescue(rescued) = run.concerns(&set(&["b", "c"])) else { panic!("b is condemned") };
        assert_eq!((rescued.digests.clone(), rescued.state), (set(&["a"]), State::Condemned));
        assert_ne!(rescued.serial, run.serial);
        assert!(rescued.is_rescued_of(&run) && !run.is_rescued_of(&rescued));
        let taken = rescued.taken_over("q");
        assert!(!taken.is_rescued_of(&run), "another process runs it");
        let deleting = run.with(State::Deleting, set(&["a", "b"]));
        assert_eq!(deleting.concerns(&set(&["b"])), Concern::Wait);
        assert_eq!(deleting.concerns(&set(&["c"])), Concern::Nothing);
    }

    #[test]
    fn what_is_taken_over_goes_on_only_if_it_was_deleting() {
        let condemned = Run::new("p").with(State::Condemned, set(&["a"]));
        assert!(condemned.taken_over("q").digests.is_empty());
        let deleting = condemned.with(State::Deleting, set(&["a"]));
        assert_eq!(deleting.taken_over("q").digests, set(&["a"]));
        assert!(!deleting.is_abandoned(TAKEOVER) && deleting.is_abandoned(TAKEOVER + SKEW));
        let gone = Run::new(&Process::this().to_string());
        assert!(!gone.is_abandoned(Duration::ZERO));
    }
}
