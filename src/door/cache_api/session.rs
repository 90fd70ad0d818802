//! One export: its scope, its state and its end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tonic::Code;

use super::commit_task::CommitTask;
use super::lifetime::Lifetime;
use super::messages::number;
use super::put::PutRecords;
use super::record::Record;
use crate::cache_v1::proto::{self, CommitTarget, Target, TargetResult};
use crate::content_server::{Export, ExportContent};
use crate::engine::images::Images;
use crate::engine::{Lease, Origin};
use crate::export::{Exports, Listed, LiveExports, Progress};
use crate::export_v1::convert::timestamp;
use crate::export_v1::limits::RESULT_RETENTION;
use crate::export_v1::proto::{ExportState, Reason};
use crate::export_v1::{ApiError, check_alive};
use crate::net::Principal;
use crate::progress::State;

/// One export that was opened.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) record: Record,
    /// Its targets, as they were given.
    pub(super) targets: Vec<Target>,
    /// Its blobs.
    pub(super) contents: ExportContent,
    /// Whether an earlier process opened it. What was put into it then is lost.
    is_restored: bool,
    /// What was put.
    records: Mutex<PutRecords>,
    stage: Mutex<Stage>,
}

/// The state of an export.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) state: ExportState,
    lifetime: Lifetime,
    /// What each target got, and what came of it, if it came to an end: by the target's id.
    pub(super) results: HashMap<String, (CommitTarget, TargetResult)>,
    /// The Commit that runs.
    pub(super) running: Option<Arc<CommitTask>>,
    pub(super) ended: Option<Instant>,
    /// Until it ends.
    listed: Option<Listed>,
}

impl Session {
    pub(super) fn new(
        id: String,
        record: Record,
        (lease, images): (Arc<dyn Lease>, Arc<dyn Images>),
        lifetime: Lifetime,
    ) -> Self {
        let stage = Stage {
            state: ExportState::Open,
            lifetime,
            results: HashMap::new(),
            running: None,
            ended: None,
            listed: None,
        };
        Self {
            targets: record.targets(),
            record,
            contents: ExportContent::new(id, lease, images),
            is_restored: false,
            records: Mutex::default(),
            stage: Mutex::new(stage),
        }
    }

    /// Whoever counts what happens in `exports` is told of this one, too.
    #[must_use]
    pub(super) fn counted(self, exports: &Exports) -> Self {
        let contents = self.contents.counted("cache", exports.activities(), exports.leases()).with_found();
        Self { contents, ..self }
    }

    /// One that an earlier process opened.
    pub(super) fn restored(
        id: String,
        record: Record,
        stores: (Arc<dyn Lease>, Arc<dyn Images>),
        lifetime: Lifetime,
    ) -> Self {
        Self { is_restored: true, ..Self::new(id, record, stores, lifetime) }
    }

    pub(super) fn id(&self) -> &str {
        &self.contents.id
    }

    /// Who exports: `client`.
    pub(super) fn origin(id: &str, record: &Record, client: &Principal) -> Origin {
        let builder = record.builder.clone();
        Origin { export: id.to_owned(), door: "cache", builder, principal: client.clone() }
    }

    /// Makes it one of `exports` until it ends.
    pub(super) fn list(self: &Arc<Self>, exports: &LiveExports, origin: &Origin) {
        let refs = self.targets.iter().map(|target| format!("cache {}", target.r#ref)).collect();
        let session = Arc::downgrade(self);
        let (listed, mut stage) = (exports.add(origin, refs), self.stage());
        listed.began(stage.lifetime.opened);
        listed.ask(move || Some(session.upgrade()?.progress()));
        stage.listed = Some(listed);
    }

    /// How far it is.
    fn progress(&self) -> Progress {
        let (blobs, bytes, writing) = {
            let scope = self.contents.scope();
            (scope.len() as u64, scope.bytes(), scope.writing())
        };
        let (state, expires) = {
            let stage = self.stage();
            (stage.state, stage.lifetime.expires)
        };
        let state = match state {
            ExportState::Committing => "committing",
            ExportState::Open if blobs > 0 || writing > 0 => State::Transferring.name(),
            _ => State::Open.name(),
        };
        Progress { state: Some(state), blobs, bytes, expires: Some(expires) }
    }

    pub(super) fn records(&self) -> MutexGuard<'_, PutRecords> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses records where others were put before and are lost: what is left would look like all of them.
    pub(super) fn check_records(&self) -> Result<(), ApiError> {
        if !self.is_restored {
            return Ok(());
        }
        let id = self.id();
        let message =
            format!("the server was restarted after the export `{id}` was opened, and records that were put are lost");
        let hint =
            "open another export and put them again; layers that were sent need not be sent again before this one ends";
        let error = ApiError::new(Code::FailedPrecondition, Reason::RecordsLost, message);
        Err(error.with("export", id).with_hint(Some(hint)))
    }

    /// Refuses what changes what a Commit stores.
    pub(super) fn check_open(&self) -> Result<(), ApiError> {
        self.check_alive()?;
        self.check_delete()
    }

    /// When it ends now.
    pub(super) fn renew(&self, ttl: Option<Duration>) -> Result<SystemTime, ApiError> {
        self.check_alive()?;
        let mut stage = self.stage();
        stage.lifetime.renew(ttl);
        Ok(stage.lifetime.expires)
    }

    /// Whether it was not renewed in time. An export that is being committed does not expire.
    pub(super) fn is_overdue(&self, now: SystemTime) -> bool {
        let stage = self.stage();
        stage.state == ExportState::Open && stage.lifetime.is_over(now)
    }

    /// Whether it ended so long ago that it can be forgotten.
    pub(super) fn is_forgettable(&self, now: Instant) -> bool {
        self.ended().is_some_and(|ended| now.saturating_duration_since(ended) >= RESULT_RETENTION)
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

    pub(super) fn message(&self) -> proto::Export {
        let (blobs, bytes) = {
            let scope = self.contents.scope();
            (scope.len(), scope.bytes())
        };
        let stage = self.stage();
        let results = self.targets.iter().filter_map(|target| stage.results.get(&target.id));
        proto::Export {
            id: self.id().to_owned(),
            state: stage.state.into(),
            targets: self.targets.clone(),
            create_time: Some(timestamp(stage.lifetime.opened)),
            expire_time: Some(timestamp(stage.lifetime.expires)),
            latest_expire_time: Some(timestamp(stage.lifetime.latest())),
            results: results.map(|(_, result)| result.clone()).collect(),
            blobs: number(blobs),
            bytes: number(bytes),
        }
    }
}

impl Export for Session {
    fn contents(&self) -> &ExportContent {
        &self.contents
    }

    fn check_alive(&self) -> Result<(), ApiError> {
        check_alive(self.id(), self.stage().state)
    }

    fn check_delete(&self) -> Result<(), ApiError> {
        if self.stage().state != ExportState::Committing {
            return Ok(());
        }
        let message =
            "a Commit runs, which needs what the export holds as it is; wait for its end, or abort the export";
        Err(ApiError::new(Code::FailedPrecondition, Reason::CommitRunning, message))
    }
}
