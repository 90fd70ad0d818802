//! Pushes: what one client sends to one repository, under a durable lease.

mod body;
mod leased;
mod limits;
mod listing;
mod pinning;
mod pushes;
mod record;
mod upload;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

use super::refusal::Refusal;
use super::repository::Repository;
use crate::activity::{Activity, Arrival};
use crate::engine::images::Images;
use crate::engine::{EngineError, Lifetime, Origin};
use crate::export::{Exports, unique_id};
use crate::image::{Digest, Graph};
use crate::net::Principal;
use listing::Listing;

pub(super) use body::UploadBody;
pub(super) use leased::PushLease;
pub(super) use pushes::Pushes;
pub(super) use upload::{Upload, unknown};

/// How many blobs are remembered whose images are still to come.
const MAX_AWAITED: usize = 100_000;

/// What a push keeps its lease for.
#[derive(Debug, Default)]
struct Awaited {
    blobs: HashSet<Digest>,
    /// Whether there is more than is remembered.
    is_open: bool,
    /// Whether its client has sent some of it.
    is_sent: bool,
}

/// What would be lost with a push, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Worth {
    Nothing,
    /// Blobs that were found, and that its client would have to send after all.
    Found,
    /// Blobs that its client has sent.
    Sent,
}

/// A push.
#[derive(Debug)]
pub(super) struct Push {
    /// The export's id.
    pub(super) id: String,
    /// The repository's name in the engine.
    pub(super) repository: String,
    pub(super) principal: Principal,
    leased: Mutex<Arc<PushLease>>,
    /// Held while the lease is created again.
    renewing: AsyncMutex<()>,
    exports: Arc<Exports>,
    /// What is stored with the lease.
    record: String,
    created: SystemTime,
    used: Mutex<Instant>,
    /// What came or was found and belongs to no image that was committed: its image is still to come.
    awaited: Mutex<Awaited>,
    uploads: Uploads,
    /// Held while an image is committed: a lease has one transaction at a time.
    pub(super) committing: AsyncMutex<()>,
    /// Lists it among the exports that are under way.
    listing: Listing,
}

/// The uploads of a push that are open, by their ids.
type Uploads = Arc<Mutex<HashMap<String, Arc<Upload>>>>;

impl Awaited {
    fn add(&mut self, blob: Option<&Digest>) {
        match blob.filter(|_| self.blobs.len() < MAX_AWAITED) {
            Some(blob) => drop(self.blobs.insert(blob.clone())),
            None => self.is_open = true,
        }
    }
}

impl Push {
    fn uploads(&self) -> MutexGuard<'_, HashMap<String, Arc<Upload>>> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn awaited(&self) -> MutexGuard<'_, Awaited> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A blob was found, whose image is still to come; `None` is one that is not known.
    fn awaits(&self, blob: Option<&Digest>) {
        self.awaited().add(blob);
    }

    /// The image of `graph` was committed: nothing of it needs the lease any more.
    pub(super) fn has_committed(&self, graph: &Graph) {
        let mut awaited = self.awaited();
        for blob in graph.descriptors() {
            awaited.blobs.remove(&blob.digest);
        }
        awaited.is_sent &= awaited.is_open || !awaited.blobs.is_empty();
        drop(awaited);
        self.listing.committed(graph);
        self.listing.hide_if_done(&self.uploads);
    }

    /// Whether its client has sent a blob, or was shown to have it, for an image that is still to come.
    pub(super) fn has_sent(&self, digest: &Digest) -> bool {
        self.awaited().blobs.contains(digest)
    }

    fn waits_for_nothing(&self) -> bool {
        self.worth() == Worth::Nothing
    }

    fn worth(&self) -> Worth {
        let awaited = self.awaited();
        match awaited.is_sent {
            true => Worth::Sent,
            false if awaited.is_open || !awaited.blobs.is_empty() => Worth::Found,
            false => Worth::Nothing,
        }
    }

    /// Whether it belongs to `client` and to a repository.
    fn is_of(&self, repository: &Repository, client: &Principal) -> bool {
        self.repository == repository.full && self.principal == client.beyond_its_connection()
    }

    /// The origin of what is done under its lease.
    pub(super) fn origin(&self) -> Origin {
        let (export, principal) = (self.id.clone(), self.principal.clone());
        Origin { export, door: "registry", builder: self.repository.clone(), principal }
    }

    /// The lease, as far as is known.
    pub(super) fn leased(&self) -> Arc<PushLease> {
        self.leased.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Creates the lease anew instead of `lost`, which something else has deleted. What it kept may be gone: the manifest is
    /// refused then, and its client sends that again.
    pub(super) async fn renew(&self, lost: &Arc<PushLease>) -> Result<Arc<PushLease>, Refusal> {
        let _renewing = self.renewing.lock().await;
        let current = self.leased();
        if !Arc::ptr_eq(&current, lost) {
            return Ok(current);
        }
        let (export, repository) = (&self.id, &self.repository);
        tracing::warn!(export, repository, "the lease of a push was deleted by something else; it is created again");
        let lifetime = Lifetime::Durable { record: &self.record };
        let renewed = Arc::new(PushLease::new(self.exports.lease(&self.origin(), lifetime).await?));
        *self.leased.lock().unwrap_or_else(PoisonError::into_inner) = renewed.clone();
        Ok(renewed)
    }

    /// Begins an upload.
    pub(super) fn begin(&self) -> Arc<Upload> {
        let upload = Arc::new(Upload::new(unique_id(), None));
        self.uploads().insert(upload.id.clone(), upload.clone());
        self.list();
        upload
    }

    /// The upload `id`, be it one that an earlier process began.
    pub(super) async fn upload(&self, id: &str) -> Result<Arc<Upload>, Refusal> {
        let found = self.uploads().get(id).cloned();
        if let Some(upload) = found {
            return Ok(upload);
        }
        let is_one = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        let status = if is_one { self.leased().lease.ingests()?.status(id).await? } else { None };
        let offset = status.ok_or_else(unknown)?.offset;
        let new = || Arc::new(Upload::new(id.to_owned(), Some(offset)));
        let upload = self.uploads().entry(id.to_owned()).or_insert_with(new).clone();
        self.list();
        Ok(upload)
    }

    /// Lists the push from now on: its client sends something.
    fn list(&self) {
        self.listing.show(self.exports.live(), &self.origin(), &self.uploads);
    }

    /// A blob of `bytes` was uploaded, whose image is still to come.
    pub(super) fn uploaded(&self, digest: &Digest, bytes: u64, how: Arrival) {
        self.exports.activities().emit(Activity::Blobs { door: "registry", how, blobs: 1, bytes });
        let mut awaited = self.awaited();
        awaited.add(Some(digest));
        awaited.is_sent = true;
        drop(awaited);
        self.listing.count(digest, bytes);
        self.list();
    }

    /// What was uploaded, and belongs to no image that was committed.
    pub(super) fn received(&self) -> HashSet<Digest> {
        self.listing.received()
    }

    /// Forgets an upload that has ended.
    pub(super) fn end(&self, upload: &Upload) {
        if upload.has_ended() {
            self.uploads().remove(&upload.id);
            self.listing.hide_if_done(&self.uploads);
        }
    }

    /// The size of a blob, which is pinned before it is looked up; `None` if the engine lacks it.
    pub(super) async fn find(&self, images: &Arc<dyn Images>, digest: &Digest) -> Result<Option<u64>, Refusal> {
        let leased = self.leased();
        let found = match leased.find(images, &self.repository, digest).await {
            Err(EngineError::LeaseLost { .. }) => {
                self.renew(&leased).await?.find(images, &self.repository, digest).await
            }
            found => found,
        }?;
        if found.is_some() {
            self.awaits(Some(digest));
        }
        Ok(found)
    }
}
