//! All exports of this server: opened, found, expired and forgotten.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::exporters;
use super::outputs::Outputs;
use super::record::Record;
use super::session::Session;
use crate::activity::{Activity, EndedExport, ExportEnd};
use crate::content_server::{CallTarget, Scopes};
use crate::engine::Lifetime;
use crate::export::{Exports, unique_id};
use crate::export_v1::ApiError;
use crate::export_v1::convert::duration;
use crate::export_v1::limits::{ENDED_EXPORTS, EXPORTERS, KEY_BYTES, OPEN_EXPORTS};
use crate::export_v1::proto::{ExportState, OpenRequest, Reason};
use crate::net::Principal;
use crate::output::folder::Folders;
use crate::trace_context;

/// The kind of the failure of an export whose lease is gone, as that of an engine's error.
const LEASE_LOST: &str = "lease_lost";
/// How often it is looked what has expired.
const SWEEP: std::time::Duration = std::time::Duration::from_secs(1);

/// The exports.
#[derive(Debug)]
pub(super) struct Sessions {
    pub(super) exports: Arc<Exports>,
    pub(super) outputs: Arc<Outputs>,
    /// What this server is called.
    pub(super) name: String,
    sessions: Mutex<BTreeMap<String, Arc<Session>>>,
    /// Held while an export is opened, so that of two Opens with one key the second finds the first one's export.
    opening: tokio::sync::Mutex<()>,
}

impl Sessions {
    pub(super) fn new(exports: Arc<Exports>, folders: Folders, name: String) -> Self {
        let outputs = Arc::new(Outputs::new(folders));
        Self { exports, outputs, name, sessions: Mutex::default(), opening: tokio::sync::Mutex::default() }
    }

    pub(super) fn sessions(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The export `id`, be it ended.
    pub(super) fn find(&self, id: &str) -> Result<Arc<Session>, ApiError> {
        if id.is_empty() {
            let message = "the call names no export; give the id that Open returned";
            return Err(ApiError::new(Code::InvalidArgument, Reason::ExportRequired, message));
        }
        let found = self.sessions().get(id).cloned().inspect(|session| trace_context::about_export(&session.id));
        found.ok_or_else(|| {
            let shown: String = id.chars().take(64).collect();
            let message = format!("there is no export `{shown}`: it was never opened, or ended long ago; open one");
            ApiError::new(Code::NotFound, Reason::ExportNotFound, message).with("export", shown)
        })
    }

    /// All of them after the id `after`, ordered by id.
    pub(super) fn list(&self, after: &str) -> Vec<Arc<Session>> {
        self.sessions().iter().filter(|(id, _)| id.as_str() > after).map(|(_, session)| session.clone()).collect()
    }

    /// Opens an export for `client`; whether it was there.
    pub(super) async fn open(
        &self,
        request: &OpenRequest,
        client: &Principal,
    ) -> Result<(Arc<Session>, bool), ApiError> {
        self.check(request, client)?;
        let record = Record::new(request, &self.name, client);
        let ttl = request.ttl.map(|ttl| duration("ttl", ttl)).transpose()?;
        let text = record.write()?;
        let _opening = self.opening.lock().await;
        if let Some(found) = self.known(request, &record)? {
            trace_context::about_export(&found.id);
            return Ok((found, true));
        }
        let live = self.sessions().values().filter(|session| session.ended().is_none()).count();
        if live >= OPEN_EXPORTS {
            let message = format!("{live} exports are open; commit or abort one of them");
            return Err(ApiError::limit(Code::ResourceExhausted, "open_exports", OPEN_EXPORTS, message));
        }
        let id = if request.export_id.is_empty() { unique_id() } else { request.export_id.clone() };
        let engine = self.exports.engine();
        let images = engine.images()?;
        let lifetime = Lifetime::Durable { record: &text };
        let origin = Session::origin(&id, &record, client);
        // Before the lease: what the engine took for it is part of the export's time.
        let opened = SystemTime::now();
        let lease = self.exports.lease(&origin, lifetime).await?;
        lease.ingests()?;
        let session = Session::new(id.clone(), record, (lease, images), opened, ttl);
        let session = Arc::new(session.counted(&self.exports));
        session.list(self.exports.live(), &origin);
        trace_context::about_export(&id);
        self.sessions().insert(id, session.clone());
        Ok((session, false))
    }

    /// The export that was opened by the same request, if there is one.
    fn known(&self, request: &OpenRequest, record: &Record) -> Result<Option<Arc<Session>>, ApiError> {
        let sessions = self.sessions();
        let by_id = sessions.get(&request.export_id);
        // Whoever opens again what the engine has lost means another one.
        let with_key = |session: &&Arc<Session>| session.record.key == request.idempotency_key && !session.is_lost();
        let by_key = sessions.values().find(|session| !request.idempotency_key.is_empty() && with_key(session));
        let conflict = |field: &str, session: &Session| {
            let message =
                format!("{field} belongs to the export `{}`, which was opened by another request", session.id);
            Err(ApiError::new(Code::AlreadyExists, Reason::ExportConflict, message).with("export", &session.id))
        };
        match (by_id, by_key) {
            (Some(session), _) if !session.record.is_same(record) => conflict("export_id", session),
            (Some(session), _) => Ok(Some(session.clone())),
            (None, Some(session)) if !session.record.is_same(record) || !request.export_id.is_empty() => {
                conflict("idempotency_key", session)
            }
            (None, found) => Ok(found.cloned()),
        }
    }

    /// Everything that is wrong with a request.
    fn check(&self, request: &OpenRequest, client: &Principal) -> Result<(), ApiError> {
        let mut wrong = Vec::new();
        if !request.export_id.is_empty() && !is_id(&request.export_id) {
            let what = "expected 1 to 64 characters of [a-z0-9-], beginning with a letter or digit";
            wrong.push(("export_id".to_owned(), what.to_owned()));
        }
        if request.idempotency_key.len() > KEY_BYTES {
            wrong.push(("idempotency_key".to_owned(), format!("longer than {KEY_BYTES} bytes")));
        }
        if request.exporters.is_empty() {
            wrong.push(("exporters".to_owned(), "none is given; expected at least one".to_owned()));
        }
        if request.exporters.len() > EXPORTERS {
            let message = format!("{} exporters; an export has at most {EXPORTERS}", request.exporters.len());
            return Err(ApiError::limit(Code::InvalidArgument, "exporters", EXPORTERS, message));
        }
        let (engine, policy) = (self.exports.engine().identity(), self.exports.policy(client));
        exporters::check(&request.exporters, engine, &policy, &self.outputs.folders, &mut wrong)?;
        if wrong.is_empty() { Ok(()) } else { Err(ApiError::fields(wrong)) }
    }

    /// Ends what has expired and forgets what ended long ago, until `end`.
    pub(super) async fn sweep(self: Arc<Self>, end: CancellationToken) {
        let mut ticks = tokio::time::interval(SWEEP);
        while end.run_until_cancelled(ticks.tick()).await.is_some() {
            let (now, instant) = (SystemTime::now(), Instant::now());
            let overdue: Vec<_> = self.sessions().values().filter(|it| it.is_overdue(now)).cloned().collect();
            for session in overdue {
                let sessions = self.clone();
                // Each by itself: an engine may take long to respond for one of them.
                tokio::spawn(async move {
                    let (engine, principal) = (sessions.engine(), &session.record.principal);
                    tracing::info!(export = session.id, door = "export", engine, %principal, "expired");
                    sessions.close_alone(&session, ExportState::Expired).await;
                });
            }
            let lost: Vec<_> = self.sessions().values().filter(|it| it.take_closing()).cloned().collect();
            for session in lost {
                let sessions = self.clone();
                tokio::spawn(async move {
                    session.stop().await;
                    sessions.count_end(&session, ExportEnd::Failed(LEASE_LOST));
                    sessions.exports.release(session.contents.lease.clone());
                });
            }
            self.forget(instant);
        }
    }

    fn forget(&self, now: Instant) {
        let mut sessions = self.sessions();
        let mut forgotten: Vec<_> = sessions.values().filter(|it| it.is_forgettable(now)).cloned().collect();
        for session in &forgotten {
            sessions.remove(&session.id);
        }
        let mut ended: Vec<_> =
            sessions.values().filter_map(|session| Some((session.ended()?, session.id.clone()))).collect();
        ended.sort();
        for (_, id) in ended.iter().take(ended.len().saturating_sub(ENDED_EXPORTS)) {
            if sessions.get(id).is_some_and(|session| !session.is_read()) {
                forgotten.extend(sessions.remove(id));
            }
        }
        drop(sessions);
        // An export that was aborted or has expired has given it up already, and what it made with it.
        for session in forgotten.iter().filter(|session| session.has_outputs()) {
            self.exports.release(session.contents.lease.clone());
        }
    }
}

impl Scopes for Sessions {
    fn key(&self) -> &'static str {
        "linkspan-export"
    }

    fn find(&self, id: &str) -> Result<CallTarget, ApiError> {
        Ok(CallTarget::Export(Sessions::find(self, id)?))
    }
}

impl Sessions {
    /// Ends an export; fine if it has ended. A lease that cannot be released now is when the engine is back, or when an export that was
    /// aborted is aborted once more.
    pub(super) async fn close(&self, session: &Session, state: ExportState) -> Result<(), ApiError> {
        let is_end = session.end(state);
        if !is_end && (state != ExportState::Aborted || session.contents.is_released()) {
            return Ok(());
        }
        session.stop().await;
        if is_end {
            self.count_end(session, ExportEnd::Cancelled);
        }
        let released = session.contents.release().await;
        if released.is_err() && is_end {
            self.exports.release(session.contents.lease.clone());
        }
        Ok(released?)
    }

    /// Tells of the end of an export of which nothing has become an image or an output, nor failed to: that tells of itself.
    fn count_end(&self, session: &Session, end: ExportEnd) {
        if session.is_told() {
            return;
        }
        let (door, engine, principal) = ("export", self.engine(), &session.record.principal);
        let (after, seconds) = (session.age(), session.age().as_millis() as f64 / 1e3);
        if end == ExportEnd::Cancelled {
            let error = "its client gave it up";
            tracing::info!(export = session.id, door, engine, %principal, seconds, error, "not exported");
        } else {
            let error = "the engine has lost its lease";
            tracing::warn!(export = session.id, door, engine, %principal, seconds, error, "not exported");
        }
        self.exports.activities().emit(Activity::Ended(EndedExport { door, engine, end, after }));
    }

    /// The kind of the engine.
    pub(super) fn engine(&self) -> &'static str {
        self.exports.engine().identity().kind.name()
    }

    /// The same for nobody who is told of a failure.
    async fn close_alone(&self, session: &Session, state: ExportState) {
        if let Err(refusal) = self.close(session, state).await {
            let error = refusal.message;
            tracing::warn!(
                export = session.id,
                error,
                "the lease of an export that has ended stays until the engine is back"
            );
        }
    }

    /// Ends an export whose client went away before it knew of it.
    pub(super) fn abandon(self: Arc<Self>, session: Arc<Session>) {
        tracing::debug!(export = session.id, "its client went away while it was opened");
        // Without a runtime the server is ending, and the export outlives it.
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move { self.close_alone(&session, ExportState::Aborted).await });
    }
}

fn is_id(text: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= 64 && text.bytes().next().is_some_and(letter) && text.bytes().all(|byte| letter(byte) || byte == b'-')
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::door::export_api::session::fixture::session;
    use crate::engine::fixture::{Stuck, layout};

    #[tokio::test(start_paused = true)]
    async fn an_export_that_cannot_be_closed_does_not_delay_the_expiry_of_others() {
        let folder = tempfile::tempdir().unwrap();
        let exports = Exports::new(layout(folder.path()).await);
        let sessions = Arc::new(Sessions::new(Arc::new(exports), Folders::default(), "test".to_owned()));
        let stuck = Stuck::default();
        for id in ["one", "two"] {
            let session = session(folder.path(), stuck.clone()).await;
            sessions.sessions().insert(id.to_owned(), Arc::new(session));
        }
        let end = CancellationToken::new();
        let sweeping = tokio::spawn(sessions.clone().sweep(end.clone()));
        while stuck.released.load(Ordering::Relaxed) < 2 {
            tokio::time::sleep(SWEEP).await;
        }
        end.cancel();
        sweeping.await.unwrap();
    }
}
