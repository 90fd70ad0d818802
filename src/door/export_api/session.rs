//! One export: its scope, its state and its end.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tonic::Code;

use super::commit_task::CommitTask;
use super::record::Record;
use crate::content_server::{Export, ExportContent, Scope};
use crate::engine::images::Images;
use crate::engine::ingest::IngestManager;
use crate::engine::{EngineError, Lease, Origin};
use crate::export::{Exports, Listed, LiveExports};
use crate::export_v1::convert::timestamp;
use crate::export_v1::limits::{DEFAULT_TTL, MAX_LIFETIME, RESULT_RETENTION};
use crate::export_v1::proto::{self, ExportState, Reason};
use crate::export_v1::{ApiError, check_alive};
use crate::net::Principal;
use crate::output::Output;

/// One export that was opened.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: String,
    pub(super) record: Record,
    /// Its blobs.
    pub(super) contents: ExportContent,
    opened: SystemTime,
    /// Whether an image or an output of it was begun, which tells of its end itself.
    is_told: AtomicBool,
    stage: Mutex<Stage>,
}

/// The state of an export.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) state: ExportState,
    expires: SystemTime,
    /// What each exporter got, and what came of it, if it came to an end: by the exporter's id.
    pub(super) results: HashMap<String, (proto::Target, proto::ExporterResult)>,
    /// What can be read of each exporter that made something: by the exporter's id.
    pub(super) outputs: HashMap<String, Arc<dyn Output>>,
    /// The Commit that runs.
    pub(super) running: Option<Arc<CommitTask>>,
    ended: Option<Instant>,
    /// Whether it ended because the engine lost its lease.
    is_lost: bool,
    /// Whether what it did is still to be ended, and its lease to be released.
    is_closing: bool,
    /// Until it ends.
    listed: Option<Listed>,
}

impl Session {
    /// `opened` is when it was opened first; what is left of its life begins now.
    pub(super) fn new(
        id: String,
        record: Record,
        (lease, images): (Arc<dyn Lease>, Arc<dyn Images>),
        opened: SystemTime,
        ttl: Option<Duration>,
    ) -> Self {
        let latest = opened + MAX_LIFETIME;
        let stage = Stage {
            state: ExportState::Open,
            expires: (SystemTime::now() + ttl.unwrap_or(DEFAULT_TTL).min(MAX_LIFETIME)).min(latest),
            results: HashMap::new(),
            outputs: HashMap::new(),
            running: None,
            ended: None,
            is_lost: false,
            is_closing: false,
            listed: None,
        };
        let contents = ExportContent::new(id.clone(), lease, images);
        Self { id, record, contents, opened, is_told: AtomicBool::new(false), stage: Mutex::new(stage) }
    }

    /// Whoever counts what happens in `exports` is told of this one, too.
    #[must_use]
    pub(super) fn counted(self, exports: &Exports) -> Self {
        let contents = self.contents.counted("export", exports.activities(), exports.leases());
        Self { contents, ..self }
    }

    /// Who exports: `client`.
    pub(super) fn origin(id: &str, record: &Record, client: &Principal) -> Origin {
        let builder = record.labels.get("builder").cloned().unwrap_or_default();
        Origin { export: id.to_owned(), door: "export", builder, principal: client.clone() }
    }

    /// Makes it one of `exports` until it ends.
    pub(super) fn list(&self, exports: &LiveExports, origin: &Origin) {
        let listed = exports.add(origin, Vec::new());
        listed.began(self.opened);
        self.stage().listed = Some(listed);
    }

    pub(super) fn scope(&self) -> MutexGuard<'_, Scope> {
        self.contents.scope()
    }

    pub(super) fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ingests(&self) -> Result<&dyn IngestManager, EngineError> {
        self.contents.ingests()
    }

    /// Fails if the export has ended.
    pub(super) fn check_alive(&self) -> Result<(), ApiError> {
        check_alive(&self.id, self.stage().state)
    }

    /// Puts off the expiry; it never comes nearer.
    pub(super) fn renew(&self, ttl: Option<Duration>) -> Result<(), ApiError> {
        self.check_alive()?;
        let latest = self.opened + MAX_LIFETIME;
        let requested = SystemTime::now() + ttl.unwrap_or(DEFAULT_TTL).min(MAX_LIFETIME);
        let mut stage = self.stage();
        stage.expires = stage.expires.max(requested.min(latest));
        Ok(())
    }

    /// An image or an output of it is begun.
    pub(super) fn tell(&self) {
        self.is_told.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_told(&self) -> bool {
        self.is_told.load(Ordering::Relaxed)
    }

    /// How long ago it was opened.
    pub(super) fn age(&self) -> Duration {
        self.opened.elapsed().unwrap_or_default()
    }

    /// Whether it was not renewed in time. An export that is being committed does not expire.
    pub(super) fn is_overdue(&self, now: SystemTime) -> bool {
        let stage = self.stage();
        stage.state == ExportState::Open && stage.expires <= now
    }

    /// Whether it ended so long ago that it can be forgotten.
    pub(super) fn is_forgettable(&self, now: Instant) -> bool {
        self.stage().ended.is_some_and(|ended| now.saturating_duration_since(ended) >= RESULT_RETENTION)
            && !self.is_read()
    }

    /// Whether something that it made is being read.
    pub(super) fn is_read(&self) -> bool {
        self.stage().outputs.values().any(|output| Arc::strong_count(output) > 1)
    }

    /// Ends what it does, and waits for it.
    pub(super) async fn stop(&self) {
        self.contents.stop().await;
        let running = self.stage().running.clone();
        if let Some(running) = running {
            running.finished().await;
        }
    }

    /// Whether its lease is still needed although it is committed.
    pub(super) fn has_outputs(&self) -> bool {
        !self.stage().outputs.is_empty()
    }

    /// When it ended.
    pub(super) fn ended(&self) -> Option<Instant> {
        self.stage().ended
    }

    /// Enters a final state; `false` if it is in one already.
    pub(super) fn end(&self, state: ExportState) -> bool {
        let mut stage = self.stage();
        if stage.ended.is_some() {
            return false;
        }
        stage.state = state;
        stage.ended = Some(Instant::now());
        stage.listed = None;
        true
    }

    /// Ends it because the engine has lost its lease, and with that any part of what it holds: nothing that was said of it holds. The
    /// rest is for whoever looks what has ended.
    pub(super) fn lose(&self) {
        if self.end(ExportState::Expired) {
            tracing::warn!(export = self.id, "the engine has lost the lease of an export, which ends");
            let mut stage = self.stage();
            (stage.is_lost, stage.is_closing) = (true, true);
        }
    }

    /// A call was refused by the engine: if that is for want of the lease, it has ended.
    pub(super) fn refused(&self, refusal: &ApiError) {
        if refusal.reason == Reason::ExportExpired {
            self.lose();
        }
    }

    /// Whether it ended so.
    pub(super) fn is_lost(&self) -> bool {
        self.stage().is_lost
    }

    /// Whether its end is still to be completed; true once.
    pub(super) fn take_closing(&self) -> bool {
        std::mem::take(&mut self.stage().is_closing)
    }

    pub(super) fn message(&self) -> proto::Export {
        let (blobs, bytes) = {
            let scope = self.scope();
            (scope.len(), scope.bytes())
        };
        let stage = self.stage();
        let results = self.record.exporters.iter().filter_map(|exporter| stage.results.get(&exporter.id));
        proto::Export {
            id: self.id.clone(),
            state: stage.state.into(),
            exporters: self.record.exporters.iter().map(super::record::Exporter::message).collect(),
            labels: self.record.labels.clone().into_iter().collect(),
            create_time: Some(timestamp(self.opened)),
            expire_time: Some(timestamp(stage.expires)),
            latest_expire_time: Some(timestamp(self.opened + MAX_LIFETIME)),
            results: results.map(|(_, result)| result.clone()).collect(),
            blobs: i64::try_from(blobs).unwrap_or(i64::MAX),
            bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
        }
    }
}

impl Export for Session {
    fn contents(&self) -> &ExportContent {
        &self.contents
    }

    fn check_alive(&self) -> Result<(), ApiError> {
        self.check_alive()
    }

    fn lost(&self) {
        self.lose();
    }

    fn check_delete(&self) -> Result<(), ApiError> {
        if self.stage().state != ExportState::Committing {
            return Ok(());
        }
        let message = "a Commit runs, which needs what the export holds; delete after its end, or abort the export";
        Err(ApiError::new(Code::FailedPrecondition, Reason::CommitRunning, message))
    }
}

#[cfg(test)]
pub(super) mod fixture {
    //! A session for tests: of an export with the exporter `a`, on a lease.

    use std::path::Path;

    use super::*;
    use crate::engine::fixture;

    pub(in crate::door::export_api) async fn session(layout: &Path, lease: impl Lease + 'static) -> Session {
        let images = fixture::layout(layout).await.images().unwrap();
        let exporter = proto::Exporter { id: "a".to_owned(), r#type: "image".to_owned(), ..Default::default() };
        let request = proto::OpenRequest { exporters: vec![exporter], ..Default::default() };
        let record = Record::new(&request, "test", &Principal::Internal);
        Session::new("e".to_owned(), record, (Arc::new(lease), images), SystemTime::now(), Some(Duration::ZERO))
    }
}
