//! The leases of a bucket: an object for each, with what it pins and the uploads that are under way under it.
//!
//! When one is abandoned, [`StoredLease`] says; its uploads are aborted then. A lease of this process is [`StoredPins`].

use std::collections::BTreeSet;
use std::time::SystemTime;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use object_store::ObjectMeta;

use super::bucket::{Bucket, PARALLEL};
use super::host::SKEW;
use super::keys;
use super::pins::{StoredPins, abort};
use super::stored_lease::{StoredLease, StoredUpload, UNSEEN};
use crate::engine::caches::milliseconds;
use crate::engine::process::Process;
use crate::engine::{DurableLease, EngineError};
use crate::image::Digest;

/// The longest lease that is read, in bytes.
const MAX_BYTES: u64 = 16 << 20;
/// How many leases a collection can respect.
const MAX_RESPECTED: usize = 100_000;

const UNREADABLE: &str = "a newer Linkspan may have written it: collect with that one; what nobody writes any more is passed over \
                          after a day";

/// The leases of a bucket.
#[derive(Debug)]
pub(super) struct LeaseStore {
    bucket: Bucket,
}

impl LeaseStore {
    pub(super) fn new(bucket: Bucket) -> Self {
        Self { bucket }
    }

    /// The lease of `export`, which ends with this process, or is durable if there is a `record`; a durable one may be there. With
    /// it come the uploads of an earlier process with which this one can go on.
    pub(super) async fn open(
        &self,
        export: &str,
        record: Option<String>,
    ) -> Result<(StoredPins, Vec<StoredUpload>), EngineError> {
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
        // Of uploads without a part it is not known what came.
        let mut former = if lease.process == process { Vec::new() } else { std::mem::take(&mut lease.uploads) };
        for upload in former.extract_if(.., |upload| upload.progress.is_none()) {
            abort(&self.bucket, &upload.key, &upload.id).await?;
        }
        lease.uploads.extend(former.iter().cloned());
        if is_found && lease.process != process {
            self.remove_unnamed(export).await?;
        }
        lease.process = process;
        let opened = StoredPins::new(self.bucket.clone(), export, lease, is_found);
        if is_durable {
            opened.write().await?;
        }
        Ok((opened, former))
    }

    /// Removes the blobs of an export whose digests nobody has compared, and will not: their process is gone.
    async fn remove_unnamed(&self, export: &str) -> Result<(), EngineError> {
        let folder = keys::uploads(export);
        let mut unnamed = std::pin::pin!(self.bucket.listing(&folder));
        while let Some((key, _)) = unnamed.try_next().await? {
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

    /// What `pick` makes of each lease: of its export, what is stored, and when. However many there are, only what was picked
    /// is kept.
    async fn pick<T>(
        &self,
        pick: impl Fn(String, StoredLease, ObjectMeta) -> Option<T>,
    ) -> Result<Vec<T>, EngineError> {
        let read = self.bucket.listing(keys::LEASES).map_ok(async |(key, meta)| {
            let Some(export) = export_of(&key) else { return Ok(None) };
            Ok(self.read(export).await?.map(|lease| (export.to_owned(), lease, meta)))
        });
        let found = read
            .try_buffered(PARALLEL)
            .try_filter_map(async |found| Ok(found.and_then(|(export, lease, meta)| pick(export, lease, meta))));
        found.try_collect().await
    }

    /// The durable leases of this machine: those of others are for their own daemons.
    pub(super) async fn durable(&self) -> Result<Vec<DurableLease>, EngineError> {
        let this = Process::this();
        self.pick(|export, lease, _| {
            let is_ours = lease.process.parse::<Process>().is_ok_and(|process| process.is_beside(&this));
            let created = lease.created();
            let record = lease.record.filter(|_| is_ours)?;
            Some(DurableLease { export, record, created })
        })
        .await
    }

    /// The exports whose leases are abandoned.
    pub(super) async fn abandoned(&self) -> Result<Vec<String>, EngineError> {
        self.pick(|export, lease, meta| {
            lease.is_abandoned(&self.bucket.host, meta.last_modified.into()).then_some(export)
        })
        .await
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
            exports.extend(export_of(&key).map(str::to_owned));
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

/// The export whose lease has that key.
fn export_of(key: &str) -> Option<&str> {
    key.strip_prefix(keys::LEASES)?.strip_prefix('/')
}
