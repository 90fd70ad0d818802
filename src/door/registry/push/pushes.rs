//! All pushes: begun, found, ended, and found again after a restart.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use http::StatusCode;
use http::header::RETRY_AFTER;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::limits::{
    self, EMPTY_IDLE, FOUND_IDLE, IDLE, LIFETIME, PUSHES, PUSHES_OF_CLIENT, SENT_IDLE, SWEEP, UPLOAD_IDLE, UPLOADS,
    UPLOADS_OF_CLIENT,
};
use super::record::Record;
use super::upload::{Upload, unknown};
use super::{Listing, Push, PushLease, Repository, Uploads, Worth};
use crate::door::registry::refusal::{Code, Refusal};
use crate::engine::{DurableLease, EngineError, Lease, Lifetime, Origin};
use crate::export::{Exports, unique_id};
use crate::net::Principal;

/// All pushes through a door.
#[derive(Debug)]
pub(in crate::door::registry) struct Pushes {
    exports: Arc<Exports>,
    /// The door's address.
    server: String,
    pushes: Mutex<HashMap<String, Arc<Push>>>,
    /// Held while a push is begun, so that of two requests the second finds the first one's.
    beginning: AsyncMutex<()>,
}

impl Pushes {
    /// The pushes through the door at `server`, with those that an earlier process left there.
    pub(in crate::door::registry) async fn open(exports: Arc<Exports>, server: String) -> Self {
        let this = Self { exports, server, pushes: Mutex::default(), beginning: AsyncMutex::default() };
        match this.exports.recover("registry", |durable| this.restore(durable)).await {
            0 => {}
            found => tracing::info!(found, "took up the pushes of an earlier process"),
        }
        this
    }

    fn pushes(&self) -> MutexGuard<'_, HashMap<String, Arc<Push>>> {
        self.pushes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The push of `client` to a repository, if there is one.
    pub(in crate::door::registry) fn find(&self, repository: &Repository, client: &Principal) -> Option<Arc<Push>> {
        let pushes = self.pushes();
        let is_it = |push: &&Arc<Push>| push.is_of(repository, client) && push.age() < LIFETIME / 2;
        let found = pushes.values().find(is_it).cloned();
        found.inspect(|push| push.touch())
    }

    /// The push of `client` to a repository, which may be a new one.
    pub(in crate::door::registry) async fn of(
        &self,
        repository: &Repository,
        client: &Principal,
    ) -> Result<Arc<Push>, Refusal> {
        if let Some(push) = self.find(repository, client) {
            return Ok(push);
        }
        let _beginning = self.beginning.lock().await;
        if let Some(push) = self.find(repository, client) {
            return Ok(push);
        }
        self.make_room(client)?;
        let (id, record) = (unique_id(), Record::new(&self.server, &repository.full, client));
        let origin = origin(&id, &record);
        let text = record.write();
        let lease = self.exports.lease(&origin, Lifetime::Durable { record: &text }).await?;
        lease.ingests()?;
        Ok(self.insert(id, record, lease, SystemTime::now()))
    }

    /// Ends a push that nobody would miss if there are too many, of all clients or of `client`: the one with the least to lose,
    /// of several the one that was not used for longest.
    fn make_room(&self, client: &Principal) -> Result<(), Refusal> {
        let mut pushes = self.pushes();
        let is_own = |push: &Push| shares_limits(&push.principal, client);
        let own = pushes.values().filter(|push| is_own(push)).count();
        let is_own_full = own >= PUSHES_OF_CLIENT;
        if !is_own_full && pushes.len() < PUSHES {
            return Ok(());
        }
        let idle = pushes.values().filter(|push| !is_own_full || is_own(push));
        let idle = idle.filter_map(|push| Some((push.worth_if_idle()?, push.last_used(), push.id.clone())));
        let Some((worth, _, id)) = idle.min() else {
            let (count, whose) = if is_own_full { (own, " by this client") } else { (pushes.len(), "") };
            return Err(too_many(format!("{count} repositories are being pushed to{whose}")));
        };
        let ended = pushes.remove(&id);
        drop(pushes);
        if let Some(push) = ended {
            tracing::debug!(export = push.id, repository = push.repository, ?worth, "a push was ended for another one");
            self.exports.release(push.leased().lease.clone());
        }
        Ok(())
    }

    fn insert(&self, id: String, record: Record, lease: Arc<dyn Lease>, created: SystemTime) -> Arc<Push> {
        let push = Arc::new(Push {
            id: id.clone(),
            record: record.write(),
            repository: record.repository,
            principal: record.principal,
            leased: Mutex::new(Arc::new(PushLease::new(lease))),
            renewing: AsyncMutex::default(),
            exports: self.exports.clone(),
            created,
            used: Mutex::new(Instant::now()),
            awaited: Mutex::default(),
            uploads: Uploads::default(),
            committing: AsyncMutex::default(),
            listing: Listing::default(),
        });
        self.pushes().insert(id, push.clone());
        push
    }

    /// Restores a push; `false` if it is none of this door's, or keeps nothing.
    async fn restore(&self, DurableLease { export, record, created }: DurableLease) -> Result<bool, EngineError> {
        let Some(record) = Record::read(&record).filter(|record| record.server == self.server) else {
            return Ok(false);
        };
        let lifetime = Lifetime::Durable { record: "" };
        let lease = self.exports.lease(&origin(&export, &record), lifetime).await?;
        if lease.pinned().await?.is_empty() && lease.ingests()?.statuses().await?.is_empty() {
            self.exports.release(lease);
            return Ok(false);
        }
        let push = self.insert(export, record, lease, created);
        // What it waits for is not known: it stays until it is idle.
        push.awaits(None);
        Ok(true)
    }

    /// The push and the upload that `id` names: both are of this client and this repository.
    pub(in crate::door::registry) async fn upload(
        &self,
        repository: &Repository,
        client: &Principal,
        id: &str,
    ) -> Result<(Arc<Push>, Arc<Upload>), Refusal> {
        let (push, upload) = id.split_once('.').ok_or_else(unknown)?;
        let push = self.pushes().get(push).cloned();
        let push = push.filter(|push| push.is_of(repository, client)).ok_or_else(unknown)?;
        push.touch();
        let upload = push.upload(upload).await?;
        Ok((push, upload))
    }

    /// Refuses one more upload of `client` if there are too many.
    pub(in crate::door::registry) fn check_room(&self, client: &Principal) -> Result<(), Refusal> {
        let count = || {
            let (mut all, mut own) = (0, 0);
            for push in self.pushes().values() {
                let count = push.uploads().len();
                all += count;
                own += if shares_limits(&push.principal, client) { count } else { 0 };
            }
            (all, own)
        };
        let is_full = |(all, own): (usize, usize)| own >= UPLOADS_OF_CLIENT || all >= UPLOADS;
        let mut open = count();
        if is_full(open) {
            // Nobody would miss those to which nothing was sent.
            let is_used = |upload: &Arc<Upload>| Arc::strong_count(upload) > 1 || !upload.is_unsent();
            self.pushes().values().for_each(|push| push.uploads().retain(|_, upload| is_used(upload)));
            open = count();
        }
        match open {
            (_, own) if own >= UPLOADS_OF_CLIENT => Err(too_many(format!("{own} uploads of this client are open"))),
            (all, _) if all >= UPLOADS => Err(too_many(format!("{all} uploads are open"))),
            _ => Ok(()),
        }
    }

    /// Ends a push whose images are committed, unless another request uses it.
    pub(in crate::door::registry) fn finish(&self, push: Arc<Push>) {
        let mut pushes = self.pushes();
        // The one in the map, and the caller's.
        let is_done = push.uploads().is_empty() && push.waits_for_nothing() && Arc::strong_count(&push) <= 2;
        if is_done && pushes.remove(&push.id).is_some() {
            drop(pushes);
            self.exports.release(push.leased().lease.clone());
        }
    }

    /// Suspends and ends what is idle, until `end`.
    pub(in crate::door::registry) async fn sweep(self: Arc<Self>, end: CancellationToken) {
        let mut ticks = tokio::time::interval(SWEEP);
        while end.run_until_cancelled(ticks.tick()).await.is_some() {
            let ids: Vec<_> = self.pushes().keys().cloned().collect();
            // One after the other: what is held here counts as used.
            for id in ids {
                let found = self.pushes().get(&id).cloned();
                if let Some(push) = found {
                    push.tidy().await;
                }
            }
            self.end_overdue();
        }
    }

    /// Leaves to the next process what is not complete, and releases the rest. To be called after the last client has
    /// disconnected.
    pub(in crate::door::registry) async fn close(&self) {
        let pushes: Vec<_> = self.pushes().drain().map(|(_, push)| push).collect();
        for push in pushes {
            let uploads: Vec<_> = push.uploads().values().cloned().collect();
            for upload in &uploads {
                upload.suspend().await;
            }
            if !uploads.iter().any(|upload| upload.is_begun()) && push.waits_for_nothing() {
                self.exports.release(push.leased().lease.clone());
            }
        }
    }

    fn end_overdue(&self) {
        let mut pushes = self.pushes();
        // Nobody uses it, and nobody can get hold of it meanwhile.
        let is_overdue = |push: &Arc<Push>| Arc::strong_count(push) == 1 && push.is_overdue();
        let overdue: Vec<_> = pushes.values().filter(|push| is_overdue(push)).map(|push| push.id.clone()).collect();
        let overdue: Vec<_> = overdue.iter().filter_map(|id| pushes.remove(id)).collect();
        drop(pushes);
        for push in overdue {
            tracing::debug!(export = push.id, repository = push.repository, "a push has ended");
            self.exports.release(push.leased().lease.clone());
        }
    }
}

impl Push {
    fn age(&self) -> std::time::Duration {
        self.created.elapsed().unwrap_or_default()
    }

    fn last_used(&self) -> Instant {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_overdue(&self) -> bool {
        let most = match self.worth() {
            Worth::Nothing => EMPTY_IDLE,
            // Of a push that was restored it is not known what was sent.
            Worth::Found if !self.awaited().is_open => FOUND_IDLE,
            Worth::Found | Worth::Sent => IDLE,
        };
        self.age() >= LIFETIME || self.uploads().is_empty() && self.last_used().elapsed() >= most
    }

    /// What would be lost with it; `None` if somebody uses it, or is about to. To be called with the map of all pushes locked, so
    /// that nobody can get hold of it meanwhile.
    fn worth_if_idle(self: &Arc<Self>) -> Option<Worth> {
        let is_used = Arc::strong_count(self) > 1 || self.uploads().values().any(|upload| !upload.is_unsent());
        let worth = self.worth();
        let is_fresh = worth == Worth::Sent && self.last_used().elapsed() < SENT_IDLE;
        (!is_used && !is_fresh).then_some(worth)
    }

    /// Closes the streams of idle uploads, and gives up those that were left.
    async fn tidy(&self) {
        let uploads: Vec<_> = self.uploads().values().cloned().collect();
        for upload in uploads {
            // One that two requests wanted to end may still be listed.
            self.end(&upload);
            upload.suspend_if_idle().await;
            if upload.idle() < UPLOAD_IDLE {
                continue;
            }
            tracing::debug!(upload = upload.id, "an upload was left, and is given up");
            match upload.cancel(self).await {
                Ok(()) => self.end(&upload),
                Err(_) => tracing::debug!(upload = upload.id, "it goes with its lease"),
            }
        }
    }
}

/// Whether two clients count as one: anonymous ones choose their address among those of this machine.
fn shares_limits(one: &Principal, other: &Principal) -> bool {
    use Principal::Anonymous;
    matches!((one, other), (Anonymous { .. }, Anonymous { .. }))
        || one.beyond_its_connection() == other.beyond_its_connection()
}

fn origin(id: &str, record: &Record) -> Origin {
    let Record { repository, principal, .. } = record.clone();
    Origin { export: id.to_owned(), door: "registry", builder: repository, principal }
}

fn too_many(message: String) -> Refusal {
    let message = format!("{message}; try again when some have ended");
    let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, Code::TooManyRequests, message);
    refusal.with(RETRY_AFTER, limits::RETRY_AFTER)
}

#[cfg(test)]
mod tests;
