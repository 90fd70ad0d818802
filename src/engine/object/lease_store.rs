//! The leases of a bucket: an object for each, with what it pins and the uploads that are under way under it.
//!
//! A lease is written before what it pins is looked up, and renewed as a whole. One is abandoned when its process is gone, which
//! only a process of the same boot can tell, else when it has not been written for a day; a durable one eight hours after it
//! was created. Its uploads are aborted then. Long before that its own process trusts it no more, whatever the clocks say.
//!
//! After a lease with new pins is written, what collections have condemned is looked up ([`Condemned::rescue`]).

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use object_store::{Error, MultipartId, ObjectMeta};
use serde::{Deserialize, Serialize};

use super::bucket::{Bucket, PARALLEL};
use super::condemned::Condemned;
use super::host::{Host, Moment, SKEW};
use super::keys;
use super::upload::Begun;
use crate::engine::caches::milliseconds;
use crate::engine::process::Process;
use crate::engine::{DurableLease, EngineError};
use crate::image::Digest;

/// How long a durable lease lasts after it was created, the same as in other engines.
const LIFETIME: Duration = Duration::from_secs(8 * 3600);
/// How long a lease of a process that cannot be seen from here lasts after it was written.
const UNSEEN: Duration = Duration::from_secs(24 * 3600);
/// How long after it was written a lease is written again when its process uses it.
const RENEWAL: Duration = Duration::from_secs(3600);
/// How long after it was written its own process trusts it.
const TRUSTED: Duration = Duration::from_secs(12 * 3600);
/// The longest lease that is read, in bytes.
const MAX_BYTES: u64 = 16 << 20;
/// How many blobs a lease may pin.
const MAX_PINNED: usize = 100_000;
/// How many leases are read.
const MAX_LEASES: usize = 1_000;
/// How many leases a collection can respect.
const MAX_RESPECTED: usize = 100_000;

const UNREADABLE: &str = "a newer Linkspan may have written it: collect with that one; what nobody writes any more is passed over \
                          after a day";

/// A lease as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct StoredLease {
    /// The process that wrote it.
    process: String,
    /// What makes it durable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    record: Option<String>,
    /// When it was created, in milliseconds since 1970.
    created: u64,
    #[serde(default)]
    pinned: BTreeSet<Digest>,
    #[serde(default)]
    uploads: Vec<StoredUpload>,
}

/// A multipart upload as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct StoredUpload {
    key: String,
    id: String,
}

impl StoredLease {
    fn created(&self) -> SystemTime {
        UNIX_EPOCH.checked_add(Duration::from_millis(self.created)).unwrap_or(UNIX_EPOCH)
    }

    /// Whether nobody uses it any more; `written` is the store's time of its object.
    fn is_abandoned(&self, host: &Host, written: SystemTime) -> bool {
        if self.record.is_some() {
            return host.age(self.created()) >= LIFETIME + SKEW;
        }
        match self.process.parse::<Process>() {
            Ok(process) if process.is_of_this_boot() && process.is_gone() => true,
            // One of another container of this machine cannot be seen either, and no process trusts its own for so long.
            _ => host.age(written) >= UNSEEN,
        }
    }
}

/// A lease of this process.
#[derive(Debug)]
pub(super) struct StoredPins {
    bucket: Bucket,
    condemned: Condemned,
    export: String,
    inner: Mutex<Inner>,
    stored: tokio::sync::Mutex<Stored>,
    is_released: AtomicBool,
}

#[derive(Debug)]
struct Inner {
    lease: StoredLease,
    /// Counts the changes.
    changes: u64,
    /// The change by which something was pinned last.
    pinned: u64,
}

/// How much of a lease is stored.
#[derive(Debug)]
struct Stored {
    /// Up to which change.
    changes: u64,
    /// Up to which change what is pinned was looked for among what is condemned.
    looked: u64,
    /// When the last write began.
    written: Option<Moment>,
}

impl StoredPins {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pins blobs, whether they are there or not. What is looked up after that stays.
    pub(super) async fn add<'a>(&self, digests: impl IntoIterator<Item = &'a Digest>) -> Result<(), EngineError> {
        let until = {
            let mut inner = self.inner();
            let before = inner.lease.pinned.len();
            inner.lease.pinned.extend(digests.into_iter().cloned());
            let count = inner.lease.pinned.len();
            if count > MAX_PINNED {
                let key = keys::lease(&self.export);
                return Err(self
                    .bucket
                    .invalid(&key, format!("it would pin more than {MAX_PINNED} blobs; use several exports")));
            }
            if count > before {
                inner.changes += 1;
                inner.pinned = inner.changes;
            }
            // Another task may have pinned them, and not stored that yet.
            inner.pinned
        };
        self.store(until).await
    }

    /// Removes pins of blobs that are not there; that need not be stored.
    pub(super) fn forget<'a>(&self, digests: impl IntoIterator<Item = &'a Digest>) {
        let mut inner = self.inner();
        for digest in digests {
            inner.lease.pinned.remove(digest);
        }
    }

    /// All pins.
    pub(super) fn all(&self) -> Vec<Digest> {
        self.inner().lease.pinned.iter().cloned().collect()
    }

    /// Notes an upload that has begun, so that whoever finds the lease aborts it.
    pub(super) async fn begun(&self, upload: &Begun) -> Result<(), EngineError> {
        self.inner().lease.uploads.push(StoredUpload { key: upload.key.clone(), id: upload.id.clone() });
        self.write().await
    }

    /// Forgets an upload that has ended.
    pub(super) fn ended(&self, upload: &Begun) {
        self.inner().lease.uploads.retain(|own| own.id != upload.id || own.key != upload.key);
    }

    /// Aborts an upload.
    pub(super) async fn abort(&self, upload: &Begun) -> Result<(), EngineError> {
        abort(&self.bucket, &upload.key, &upload.id).await?;
        self.ended(upload);
        Ok(())
    }

    /// Stores the lease as it is now.
    pub(super) async fn write(&self) -> Result<(), EngineError> {
        let own = {
            let mut inner = self.inner();
            inner.changes += 1;
            inner.changes
        };
        self.store(own).await
    }

    /// Stores the lease if it is not up to the change `own`, then looks for what it pins among what is condemned. Changes that
    /// come while another one is stored are stored together.
    async fn store(&self, own: u64) -> Result<(), EngineError> {
        let mut stored = self.stored.lock().await;
        self.check(&stored)?;
        let is_due = stored.written.is_some_and(|at| self.bucket.host.since(at) >= RENEWAL);
        if stored.changes < own || is_due {
            let key = keys::lease(&self.export);
            let (bytes, until) = {
                let inner = self.inner();
                (serde_json::to_vec(&inner.lease), inner.changes)
            };
            let bytes = bytes.map_err(|error| self.bucket.invalid(&key, error.to_string()))?;
            let begun = self.bucket.host.moment();
            self.bucket.put(&key, bytes.into()).await?;
            (stored.changes, stored.written) = (until, Some(begun));
        }
        let pinned = {
            let inner = self.inner();
            (inner.pinned.min(stored.changes) > stored.looked).then(|| inner.lease.pinned.clone())
        };
        if let Some(pinned) = pinned {
            self.condemned.rescue(&pinned).await?;
            stored.looked = stored.changes;
        }
        Ok(())
    }

    /// Fails if others may count the lease as abandoned, so that its blobs may be gone.
    fn check(&self, stored: &Stored) -> Result<(), EngineError> {
        let is_old = stored.written.is_some_and(|at| self.bucket.host.since(at) >= TRUSTED);
        let is_over = {
            let inner = self.inner();
            inner.lease.record.is_some() && self.bucket.host.age(inner.lease.created()) >= LIFETIME
        };
        if self.is_released() || is_old || is_over {
            return Err(EngineError::LeaseLost { lease: self.export.clone() });
        }
        Ok(())
    }

    /// Fails if what is pinned may be gone: whoever makes something visible that relies on it asks before.
    pub(super) async fn check_held(&self) -> Result<(), EngineError> {
        self.check(&*self.stored.lock().await)
    }

    /// Whether it was removed.
    pub(super) fn is_released(&self) -> bool {
        self.is_released.load(Ordering::Acquire)
    }

    /// Removes the lease, and aborts its uploads.
    pub(super) async fn release(&self) -> Result<(), EngineError> {
        let stored = self.stored.lock().await;
        self.is_released.store(true, Ordering::Release);
        let uploads = self.inner().lease.uploads.clone();
        for upload in &uploads {
            abort(&self.bucket, &upload.key, &upload.id).await?;
        }
        self.inner().lease.uploads.clear();
        // What was never stored need not be deleted.
        if stored.changes == 0 { Ok(()) } else { self.bucket.delete(&keys::lease(&self.export)).await }
    }
}

/// Aborts an upload; fine if it has ended.
async fn abort(bucket: &Bucket, key: &str, id: &MultipartId) -> Result<(), EngineError> {
    match bucket.objects.abort_multipart(&bucket.path(key), id).await {
        Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(bucket.failed("aborting the upload of", key, &error)),
    }
}

/// The leases of a bucket.
#[derive(Debug)]
pub(super) struct LeaseStore {
    bucket: Bucket,
}

impl LeaseStore {
    pub(super) fn new(bucket: Bucket) -> Self {
        Self { bucket }
    }

    /// The lease of `export`, which ends with this process, or is durable if there is a `record`; a durable one may be there.
    pub(super) async fn open(&self, export: &str, record: Option<String>) -> Result<StoredPins, EngineError> {
        let is_durable = record.is_some();
        let found = if is_durable { self.read(export).await?.filter(|found| found.record.is_some()) } else { None };
        let is_found = found.is_some();
        let process = self.bucket.host.process.to_string();
        let mut lease = found.unwrap_or_else(|| StoredLease {
            process: process.clone(),
            record,
            created: milliseconds(self.bucket.host.now()),
            pinned: BTreeSet::new(),
            uploads: Vec::new(),
        });
        // The uploads of a process that is gone cannot be resumed: what was hashed is not known.
        let former = if lease.process == process { Vec::new() } else { std::mem::take(&mut lease.uploads) };
        for upload in &former {
            abort(&self.bucket, &upload.key, &upload.id).await?;
        }
        if is_found && lease.process != process {
            self.remove_unnamed(export).await?;
        }
        lease.process = process;
        let opened = StoredPins {
            bucket: self.bucket.clone(),
            condemned: Condemned::new(self.bucket.clone()),
            export: export.to_owned(),
            inner: Mutex::new(Inner { lease, changes: 1, pinned: u64::from(is_found) }),
            stored: tokio::sync::Mutex::new(Stored { changes: u64::from(is_found), looked: 0, written: None }),
            is_released: AtomicBool::new(false),
        };
        if is_durable {
            opened.write().await?;
        }
        Ok(opened)
    }

    /// Removes the blobs of an export whose digests nobody has compared, and will not: their process is gone.
    async fn remove_unnamed(&self, export: &str) -> Result<(), EngineError> {
        for (key, _) in self.bucket.list(&keys::uploads(export), MAX_LEASES).await? {
            self.bucket.delete(&key).await?;
        }
        Ok(())
    }

    async fn read(&self, export: &str) -> Result<Option<StoredLease>, EngineError> {
        let key = keys::lease(export);
        let Some(found) = self.bucket.get(&key, MAX_BYTES).await? else { return Ok(None) };
        Ok(serde_json::from_slice(&found.bytes)
            .inspect_err(|error| tracing::warn!(%error, object = self.bucket.object(&key), "a lease cannot be read"))
            .ok())
    }

    /// All leases: exports, what is stored, when.
    async fn all(&self) -> Result<Vec<(String, StoredLease, ObjectMeta)>, EngineError> {
        let listed = self.bucket.list(keys::LEASES, MAX_LEASES).await?;
        let read = listed.into_iter().filter_map(|(key, meta)| {
            let export = key.strip_prefix(keys::LEASES)?.strip_prefix('/')?.to_owned();
            Some(async move { Ok::<_, EngineError>(self.read(&export).await?.map(|lease| (export, lease, meta))) })
        });
        let found: Vec<_> = stream::iter(read.collect::<Vec<_>>()).buffered(PARALLEL).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// The durable leases of this machine: those of others are for their own daemons.
    pub(super) async fn durable(&self) -> Result<Vec<DurableLease>, EngineError> {
        let this = Process::this();
        let is_ours =
            |lease: &StoredLease| lease.process.parse::<Process>().is_ok_and(|process| process.is_beside(&this));
        let found = self.all().await?.into_iter().filter(|(_, lease, _)| is_ours(lease) && lease.record.is_some());
        let durable = |(export, lease, _): (String, StoredLease, ObjectMeta)| {
            let created = lease.created();
            Some(DurableLease { export, record: lease.record?, created })
        };
        Ok(found.filter_map(durable).collect())
    }

    /// The exports whose leases are abandoned.
    pub(super) async fn abandoned(&self) -> Result<Vec<String>, EngineError> {
        let found = self.all().await?.into_iter();
        let is_abandoned = |(_, lease, meta): &(String, StoredLease, ObjectMeta)| {
            lease.is_abandoned(&self.bucket.host, meta.last_modified.into())
        };
        Ok(found.filter(is_abandoned).map(|(export, ..)| export).collect())
    }

    /// What the leases pin that are not abandoned, and the exports that have one. Fails if there may be others.
    pub(super) async fn pinned(&self) -> Result<(BTreeSet<Digest>, BTreeSet<String>), EngineError> {
        let listed = self.bucket.list(keys::LEASES, MAX_RESPECTED + 1).await?;
        if listed.len() > MAX_RESPECTED {
            let reason = format!("it has more than {MAX_RESPECTED} leases; expected fewer");
            return Err(self.bucket.invalid(keys::LEASES, reason));
        }
        let (mut pinned, mut exports) = (BTreeSet::new(), BTreeSet::new());
        let mut read = stream::iter(listed).map(async |(key, meta)| {
            let found = self.bucket.get(&key, MAX_BYTES).await?;
            Ok::<_, EngineError>((key, found, SystemTime::from(meta.last_modified)))
        });
        let mut read = std::pin::pin!(read.by_ref().buffered(PARALLEL));
        while let Some((key, found, written)) = read.try_next().await? {
            exports.extend(key.strip_prefix(keys::LEASES).and_then(|key| key.strip_prefix('/')).map(str::to_owned));
            // One that was released meanwhile had nothing any more that is not named.
            let Some(found) = found else { continue };
            match serde_json::from_slice::<StoredLease>(&found.bytes) {
                Ok(lease) if lease.is_abandoned(&self.bucket.host, written) => {}
                Ok(lease) => pinned.extend(lease.pinned),
                Err(_) if self.bucket.host.age(written) >= UNSEEN + SKEW => {}
                Err(error) => {
                    let (object, reason) = (self.bucket.object(&key), format!("it is no lease: {error}"));
                    return Err(EngineError::Object { operation: "reading", object, reason, hint: Some(UNREADABLE) });
                }
            }
        }
        Ok((pinned, exports))
    }

    /// Removes the leases that are abandoned, and aborts their uploads. Returns how many there were.
    pub(super) async fn recover(&self) -> Result<usize, EngineError> {
        let mut count = 0;
        for export in self.abandoned().await? {
            let Some(lease) = self.read(&export).await? else { continue };
            for upload in &lease.uploads {
                abort(&self.bucket, &upload.key, &upload.id).await?;
            }
            self.remove_unnamed(&export).await?;
            self.bucket.delete(&keys::lease(&export)).await?;
            count += 1;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process in another container of this machine cannot be seen: it may live, but trusts its lease for 12 hours only.
    #[test]
    fn a_lease_of_a_container_of_this_machine_is_not_kept_until_the_machine_restarts() {
        let host = Host::this();
        let other = format!("{}/pid:[1]/1/1", crate::engine::process::boot());
        let lease = |process: &str| StoredLease {
            process: process.to_owned(),
            record: None,
            created: milliseconds(host.now()),
            pinned: BTreeSet::new(),
            uploads: Vec::new(),
        };
        let ago = |age: Duration| host.now().checked_sub(age).unwrap();
        let (young, old) = (ago(TRUSTED), ago(UNSEEN));
        assert!(!lease(&other).is_abandoned(&host, young) && lease(&other).is_abandoned(&host, old));
        assert!(!lease(&host.process).is_abandoned(&host, young), "this process lives");
        let gone = format!("{}/1/1", host.process.rsplitn(3, '/').last().unwrap());
        assert!(lease(&gone).is_abandoned(&host, host.now()), "a process of here that is gone");
    }
}
