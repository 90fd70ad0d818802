//! All exports and holds of this server: opened, found, expired and forgotten.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::errors::no_export;
use super::holds::{self, Holds};
use super::lifetime::Lifetime;
use super::record::Record;
use super::request;
use super::session::Session;
use crate::cache_v1::limits::{ENDED_EXPORTS, OPEN_EXPORTS, WATCHES};
use crate::cache_v1::proto::OpenRequest;
use crate::caches::Caches;
use crate::content_server::{CallTarget, Scopes};
use crate::engine;
use crate::export::{Exports, unique_id};
use crate::export_v1::ApiError;
use crate::export_v1::proto::{ExportState, Reason};
use crate::net::Principal;
use crate::trace_context;

/// How often it is looked what has expired.
const SWEEP: Duration = Duration::from_secs(1);
/// How the ids of exports begin.
const PREFIX: &str = "export-";

/// The exports and holds.
#[derive(Debug)]
pub(super) struct Sessions {
    pub(super) caches: Arc<Caches>,
    pub(super) exports: Arc<Exports>,
    pub(super) holds: Holds,
    /// What this server is called.
    pub(super) name: String,
    /// Cancelled when the server ends.
    pub(super) drain: CancellationToken,
    /// The watches that can begin.
    pub(super) watches: Arc<Semaphore>,
    sessions: Mutex<BTreeMap<String, Arc<Session>>>,
    /// Held while an export is opened, so that of two Opens with one key the second finds the first one's export.
    opening: tokio::sync::Mutex<()>,
    /// Held while a version is stored, so that what a part has stays what was expected.
    pub(super) storing: tokio::sync::Mutex<()>,
}

impl Sessions {
    pub(super) fn new(caches: Arc<Caches>, exports: Arc<Exports>, name: &str, drain: CancellationToken) -> Arc<Self> {
        let (name, watches) = (name.to_owned(), Arc::new(Semaphore::new(WATCHES)));
        let (holds, sessions, opening, storing) = Default::default();
        Arc::new(Self { caches, exports, holds, name, drain, watches, sessions, opening, storing })
    }

    /// Makes an export one of these.
    pub(super) fn insert(&self, session: Arc<Session>) {
        self.sessions().insert(session.id().to_owned(), session);
    }

    fn sessions(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The export `id`, be it ended.
    pub(super) fn export(&self, id: &str) -> Result<Arc<Session>, ApiError> {
        let found = self.sessions().get(id).cloned().inspect(|session| trace_context::about_export(session.id()));
        found.ok_or_else(|| no_export(id))
    }

    /// When the export or hold `id` ends, after it was renewed.
    pub(super) fn renew(&self, id: &str, ttl: Option<Duration>) -> Result<SystemTime, ApiError> {
        if id.starts_with(holds::PREFIX) {
            return self.holds.renew(id, ttl);
        }
        let neither = |error: ApiError| ApiError {
            message: error.message.replace("no export", "no export and no hold"),
            ..error
        };
        self.export(id).map_err(neither)?.renew(ttl)
    }

    /// Opens an export for `client`; whether it was there.
    pub(super) async fn open(
        &self,
        request: OpenRequest,
        client: &Principal,
    ) -> Result<(Arc<Session>, bool), ApiError> {
        request::open(&request, &self.caches, client)?;
        let (ttl, record) = (request::ttl(request.ttl)?, Record::new(&request, &self.name, client));
        let text = record.write()?;
        let _opening = self.opening.lock().await;
        if let Some(found) = self.known(&record)? {
            trace_context::about_export(found.id());
            return Ok((found, true));
        }
        let live = self.sessions().values().filter(|session| session.ended().is_none()).count();
        if live >= OPEN_EXPORTS {
            let message = format!("{live} exports are open; commit or abort one of them");
            return Err(ApiError::limit(Code::ResourceExhausted, "open_exports", OPEN_EXPORTS, message));
        }
        let (id, engine) = (format!("{PREFIX}{}", unique_id()), self.exports.engine());
        let (origin, images) = (Session::origin(&id, &record, client), engine.images()?);
        let lease = self.exports.lease(&origin, engine::Lifetime::Durable { record: &text }).await?;
        lease.ingests()?;
        let session = Session::new(id, record, (lease, images), Lifetime::new(ttl)).counted(&self.exports);
        let session = Arc::new(session);
        session.list(self.exports.live(), &origin);
        trace_context::about_export(session.id());
        self.insert(session.clone());
        Ok((session, false))
    }

    /// The export that was opened by the same request, if there is one.
    fn known(&self, record: &Record) -> Result<Option<Arc<Session>>, ApiError> {
        if record.key.is_empty() {
            return Ok(None);
        }
        let sessions = self.sessions();
        let Some(found) = sessions.values().find(|it| it.record.key == record.key) else {
            return Ok(None);
        };
        if found.record == *record {
            return Ok(Some(found.clone()));
        }
        let id = found.id();
        let message =
            format!("idempotency_key belongs to the export `{id}`, which was opened by another request or client");
        Err(ApiError::new(Code::AlreadyExists, Reason::ExportConflict, message).with("export", id))
    }

    /// Ends what has expired and forgets what ended long ago, until the server ends. Then all holds end, but for Reads that are
    /// under way: no call can name one any more.
    pub(super) async fn sweep(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(SWEEP);
        while self.drain.run_until_cancelled(ticks.tick()).await.is_some() {
            let (now, instant) = (SystemTime::now(), Instant::now());
            self.holds.sweep(now);
            let overdue: Vec<_> = self.sessions().values().filter(|it| it.is_overdue(now)).cloned().collect();
            for session in overdue {
                // Each by itself: an engine may take long to respond for one of them.
                let sessions = self.clone();
                tokio::spawn(async move {
                    let engine = sessions.exports.engine().identity().kind.name();
                    let principal = &session.record.principal;
                    tracing::info!(export = session.id(), door = "cache", engine, %principal, "expired");
                    sessions.close(&session, ExportState::Expired).await;
                });
            }
            self.forget(instant);
        }
        self.holds.clear();
    }

    fn forget(&self, now: Instant) {
        let mut sessions = self.sessions();
        sessions.retain(|_, session| !session.is_forgettable(now));
        let mut ended: Vec<_> =
            sessions.iter().filter_map(|(id, session)| Some((session.ended()?, id.clone()))).collect();
        ended.sort();
        for (_, id) in ended.iter().take(ended.len().saturating_sub(ENDED_EXPORTS)) {
            sessions.remove(id);
        }
    }

    /// Ends an export whose client went away before it knew of it, unless that can find it again by its key.
    pub(super) fn abandon(self: Arc<Self>, session: Arc<Session>) {
        if !session.record.key.is_empty() {
            return;
        }
        tracing::debug!(export = session.id(), "its client went away while it was opened");
        // Without a runtime the server is ending, and the export outlives it.
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move { self.close(&session, ExportState::Aborted).await });
    }

    /// Ends an export; fine if it has ended.
    pub(super) async fn close(&self, session: &Session, state: ExportState) {
        if !session.end(state) {
            return;
        }
        session.contents.stop().await;
        let running = session.stage().running.clone();
        if let Some(running) = running {
            running.finished().await;
        }
        self.exports.release(session.contents.lease.clone());
    }
}

impl Scopes for Sessions {
    fn key(&self) -> &'static str {
        "linkspan-cache"
    }

    fn find(&self, id: &str) -> Result<CallTarget, ApiError> {
        if id.starts_with(holds::PREFIX) {
            return Ok(CallTarget::Blobs(self.holds.find(id)?));
        }
        Ok(CallTarget::Export(self.export(id)?))
    }
}
