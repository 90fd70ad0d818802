//! The collector: deletes blobs, and the links to them, that nothing in the bucket refers to, while others write to it.
//!
//! 1. What leases pin and what names reach is read; all other blobs that are older than the grace are *condemned*
//!    ([`super::condemned`]). Whoever pins one of them from then on takes it out.
//! 2. After a while the leases, *then* the names are read once more: who pinned before it could see that a blob is condemned
//!    still has its lease, or had set its name when it released that.
//! 3. What is left is *deleting*, by a compare-and-swap that fails if a writer has rescued something: links first, then blobs.
//!
//! A collection whose process is gone is finished by the next one. A process that stalls stops by itself long before another
//! may take over. Links go with their blob: those of a blob that stays do, too.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::bucket::{Bucket, Condition, PARALLEL};
use super::condemned::{Condemned, MAX_DIGESTS, Run, State, StoredRun};
use super::host::{Moment, SKEW, unique};
use super::keys::{self, Link};
use super::stores::Stores;
use super::survey::{Key, Survey, key};
use crate::engine::collect::{Collected, Collection};
use crate::engine::{EngineError, Pin};
use crate::image::Digest;

/// How many objects are deleted between two signs of life.
const CHUNK: usize = 500;
/// How long after the last of them a sign of life is given.
const SIGN: Duration = Duration::from_secs(60);
/// How long after its last sign of life a process deletes: long before another one takes over.
const HOLD: Duration = Duration::from_secs(5 * 60);
/// How long the last requests of a process that was killed may take.
const LAST_REQUESTS: Duration = Duration::from_secs(60);
/// How many collections follow each other at most.
const MAX_ROUNDS: usize = 1_000;
/// How old an upload without a lease must be.
const STALE: Duration = Duration::from_secs(24 * 3600);

const NO_CONDITIONS: &str = "use a store that knows If-Match and If-None-Match, as S3, R2, MinIO, Google and Azure do, or collect with the \
                             registry's own `registry garbage-collect` while nobody writes";
const CLOCK: &str = "set the clock of this machine: ages are compared with the times of the store";
const AGAIN: &str = "run `linkspan gc` again: it finishes what was begun";

/// Collects in a bucket.
pub(super) async fn collect(stores: &Arc<Stores>, wanted: &Collection<'_>) -> Result<Collected, EngineError> {
    let condemned = Condemned::new(stores.bucket().clone());
    let mut collector = Collector { stores, condemned, wanted, outcome: Collected::default() };
    if wanted.is_dry {
        return collector.dry().await;
    }
    collector.all().await?;
    Ok(collector.outcome)
}

/// What is to be deleted, when its last sign of life was given, and how long the blobs are.
type Sealed = (StoredRun, Moment, BTreeMap<Digest, u64>);

struct Collector<'a> {
    stores: &'a Arc<Stores>,
    condemned: Condemned,
    wanted: &'a Collection<'a>,
    outcome: Collected,
}

/// The boundary of what is too young.
fn before(now: SystemTime, grace: Duration) -> SystemTime {
    now.checked_sub(grace).unwrap_or(SystemTime::UNIX_EPOCH)
}

impl Collector<'_> {
    fn bucket(&self) -> &Bucket {
        self.stores.bucket()
    }

    fn refused(&self, reason: String, hint: &'static str) -> EngineError {
        let object = self.bucket().address().to_owned();
        EngineError::Object { operation: "collecting garbage in", object, reason, hint: Some(hint) }
    }

    fn taken_over(&self) -> EngineError {
        self.refused("another process has taken this collection over".to_owned(), AGAIN)
    }

    /// What would be deleted; writes nothing.
    async fn dry(&self) -> Result<Collected, EngineError> {
        let now = self.bucket().host.now();
        let in_use = self.in_use(&mut Survey::new(self.stores), now).await?;
        let mut outcome = Collected::default();
        let mut garbage = std::pin::pin!(self.garbage(&in_use, before(now, self.wanted.grace)));
        while let Some((digest, size)) = garbage.try_next().await? {
            (self.wanted.deleted)(&digest, size);
            outcome.blobs += 1;
            outcome.bytes += size;
        }
        Ok(outcome)
    }

    async fn all(&mut self) -> Result<(), EngineError> {
        if !self.stores.names.is_conditional().await? {
            let reason =
                "the store has no conditional writes, so that a collection could delete what somebody begins to use";
            return Err(self.refused(reason.to_owned(), NO_CONDITIONS));
        }
        self.outcome.leases = self.stores.leases.recover().await? as u64;
        let mut survey = Survey::new(self.stores);
        self.finish_abandoned(&mut survey).await?;
        for _ in 0..MAX_ROUNDS {
            let blobs = self.outcome.blobs;
            if !self.round(&mut survey).await? || self.outcome.blobs == blobs {
                break;
            }
        }
        self.uploads().await
    }

    /// What is in use, when it is `now` for the store.
    async fn in_use(&self, survey: &mut Survey, now: SystemTime) -> Result<HashSet<Key>, EngineError> {
        // A writer has its lease until its name is set, so it is seen in one or the other only in this order.
        let (pinned, _) = self.stores.leases.pinned().await?;
        survey.in_use(pinned, now, self.wanted.grace).await
    }

    /// The blobs that are not in use and were written before `young`, as they are listed.
    fn garbage<'s>(
        &'s self,
        in_use: &'s HashSet<Key>,
        young: SystemTime,
    ) -> impl futures_util::Stream<Item = Result<(Digest, u64), EngineError>> + 's {
        self.bucket().listing(keys::BLOBS).try_filter_map(move |(path, meta)| async move {
            let digest = keys::digest_of_blob(&path).filter(|_| SystemTime::from(meta.last_modified) < young);
            Ok(digest.filter(|digest| !in_use.contains(&key(digest))).map(|digest| (digest, meta.size)))
        })
    }

    /// One collection. Returns whether there is more to collect.
    async fn round(&mut self, survey: &mut Survey) -> Result<bool, EngineError> {
        let path = keys::condemned(&unique("run"));
        let looked = self.look(&path, survey).await;
        if looked.is_err() {
            // Nothing was deleted, so that nobody needs it any more; else the next collection ends it.
            let own = self.condemned.read(&path).await.ok().flatten();
            if own.is_some_and(|found| *found.run.process == *self.bucket().host.process)
                && let Err(error) = self.condemned.remove(&path).await
            {
                tracing::debug!(%error, path, "a collection that failed stays until the next one");
            }
        }
        let Some((sealed, begun, sizes)) = looked? else { return Ok(false) };
        self.delete(&path, sealed, begun, &sizes).await?;
        Ok(sizes.len() >= MAX_DIGESTS)
    }

    /// Looks twice, and seals what is to be deleted, with the sizes of that; `None` if there is nothing.
    async fn look(&mut self, path: &str, survey: &mut Survey) -> Result<Option<Sealed>, EngineError> {
        let run = Run::new(&self.bucket().host.process);
        self.condemned.write(path, &run, Condition::Absent).await?;
        let begun = self.condemned.read(path).await?.filter(|found| found.run == run);
        let StoredRun { run, version, written: now } = begun.ok_or_else(|| self.taken_over())?;
        let here = self.bucket().host.now();
        let skew = here.duration_since(now).or_else(|_| now.duration_since(here)).unwrap_or_default();
        if skew > SKEW {
            let reason =
                format!("the clocks of this machine and of the store differ by {} minutes", skew.as_secs() / 60);
            return Err(self.refused(reason, CLOCK));
        }

        let in_use = self.in_use(survey, now).await?;
        let found = self.garbage(&in_use, before(now, self.wanted.grace)).take(MAX_DIGESTS);
        let sizes: BTreeMap<Digest, u64> = found.try_collect().await?;
        drop(in_use);
        if sizes.is_empty() {
            self.condemned.remove(path).await?;
            return Ok(None);
        }
        let condemned = run.with(State::Condemned, sizes.keys().cloned().collect());
        self.condemned.replace(path, condemned, version).await?.ok_or_else(|| self.taken_over())?;
        self.bucket().host.pause(self.wanted.wait).await;

        let in_use = self.in_use(survey, now).await?;
        let begun = self.bucket().host.moment();
        let sealed = self.condemned.seal(path, |digest| in_use.contains(&key(digest))).await?;
        drop(in_use);
        let sealed = sealed.ok_or_else(|| self.taken_over())?;
        Ok(Some((sealed, begun, sizes)))
    }

    /// Finishes collections whose processes are gone. Those that have deleted nothing yet just end. Others may have been dead for
    /// long, and registries that know nothing of collections may have been pushed what they had condemned: that stays.
    async fn finish_abandoned(&mut self, survey: &mut Survey) -> Result<(), EngineError> {
        for path in self.condemned.keys().await? {
            let Some(StoredRun { run, version, written }) = self.condemned.read(&path).await? else { continue };
            if !run.is_abandoned(self.bucket().host.age(written)) {
                self.outcome.others += 1;
                continue;
            }
            let begun = self.bucket().host.moment();
            let taken = run.taken_over(&self.bucket().host.process);
            let Some(stored) = self.condemned.replace(&path, taken, version).await? else { continue };
            if stored.run.state == State::Deleting {
                // The last requests of the dead process may still be on their way.
                self.bucket().host.pause(self.wanted.wait.min(LAST_REQUESTS)).await;
                let in_use = match self.in_use(survey, stored.written).await {
                    Ok(in_use) => in_use,
                    Err(error) => {
                        // Whoever writes its blobs waits for its end. To keep what is left of them is always right.
                        self.check(begun)?;
                        self.condemned.remove(&path).await?;
                        return Err(error);
                    }
                };
                let mut left = stored.run.digests.clone();
                left.retain(|digest| !in_use.contains(&key(digest)));
                let (stored, begun) = self.sign(&path, stored, left).await?;
                let digests: Vec<_> = stored.run.digests.iter().cloned().collect();
                let sizes = self.stores.blobs.sizes(&digests.iter().map(Pin::from).collect::<Vec<_>>()).await?;
                let sizes = digests.into_iter().zip(sizes).filter_map(|(digest, size)| Some((digest, size?)));
                self.delete(&path, stored, begun, &sizes.collect()).await?;
            } else {
                self.condemned.remove(&path).await?;
            }
            self.outcome.finished += 1;
        }
        Ok(())
    }

    /// Deletes what is sealed, then the collection. `begun` is when its last sign of life was given.
    async fn delete(
        &mut self,
        path: &str,
        mut stored: StoredRun,
        mut begun: Moment,
        sizes: &BTreeMap<Digest, u64>,
    ) -> Result<(), EngineError> {
        let digests = stored.run.digests.clone();
        let (stores, mut links) = (self.stores.clone(), Vec::new());
        let mut listed = std::pin::pin!(stores.bucket().listing(keys::REPOSITORIES));
        while let Some((link, _)) = listed.try_next().await? {
            let digest = match Link::at(&link) {
                Some(Link::Layer(digest) | Link::Revision(digest) | Link::Index(_, digest)) => digest,
                Some(Link::Current(_)) | None => continue,
            };
            if digests.contains(&digest) {
                links.push(link);
            }
            if links.len() >= CHUNK {
                self.outcome.links += links.len() as u64;
                self.delete_all(std::mem::take(&mut links), begun).await?;
            }
            if self.bucket().host.since(begun) >= SIGN {
                (stored, begun) = self.sign(path, stored, digests.clone()).await?;
            }
        }
        self.outcome.links += links.len() as u64;
        self.delete_all(links, begun).await?;

        let mut left = digests;
        while !left.is_empty() {
            let chunk: Vec<_> = left.iter().take(CHUNK).cloned().collect();
            self.delete_all(chunk.iter().map(keys::blob).collect(), begun).await?;
            for digest in &chunk {
                left.remove(digest);
                let Some(size) = sizes.get(digest) else { continue };
                (self.wanted.deleted)(digest, *size);
                self.outcome.blobs += 1;
                self.outcome.bytes += size;
            }
            if !left.is_empty() {
                (stored, begun) = self.sign(path, stored, left.clone()).await?;
            }
        }
        self.check(begun)?;
        self.condemned.remove(path).await
    }

    /// A sign of life, with what is left to be deleted.
    async fn sign(
        &self,
        path: &str,
        stored: StoredRun,
        left: BTreeSet<Digest>,
    ) -> Result<(StoredRun, Moment), EngineError> {
        let begun = self.bucket().host.moment();
        let next = stored.run.with(State::Deleting, left);
        let stored = self.condemned.replace(path, next, stored.version).await?;
        Ok((stored.ok_or_else(|| self.taken_over())?, begun))
    }

    /// Fails if another process may have taken over.
    fn check(&self, begun: Moment) -> Result<(), EngineError> {
        if self.bucket().host.since(begun) < HOLD {
            return Ok(());
        }
        Err(self
            .refused("this process stalled for minutes, and stopped before another one takes over".to_owned(), AGAIN))
    }

    async fn delete_all(&self, paths: Vec<String>, begun: Moment) -> Result<(), EngineError> {
        let deletions = paths.into_iter().map(|path| async move {
            self.check(begun)?;
            self.bucket().delete(&path).await
        });
        stream::iter(deletions.collect::<Vec<_>>()).buffer_unordered(PARALLEL).try_collect().await
    }

    /// Deletes what was left of uploads whose leases are gone.
    async fn uploads(&mut self) -> Result<(), EngineError> {
        let (stores, (_, exports)) = (self.stores.clone(), self.stores.leases.pinned().await?);
        let mut listed = std::pin::pin!(stores.bucket().listing(keys::UPLOADS));
        while let Some((path, meta)) = listed.try_next().await? {
            let export = path.strip_prefix(keys::UPLOADS).and_then(|path| path.strip_prefix('/')?.split_once('/'));
            let is_left = export.is_some_and(|(export, _)| !exports.contains(export));
            if is_left && self.bucket().host.age(meta.last_modified.into()) >= STALE + SKEW {
                self.bucket().delete(&path).await?;
                self.outcome.uploads += 1;
            }
        }
        Ok(())
    }
}
