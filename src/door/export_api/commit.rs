//! Commit: each exporter by itself and to its end, watched or not.

use std::sync::Arc;
use std::time::Instant;

use tonic::Code;
use tracing::{Instrument as _, Span};

use super::commit_task::{CommitTask, CommitWatcher};
use super::exporters::{self, Job};
use super::record;
use super::scoped_source::graph;
use super::session::Session;
use super::sessions::Sessions;
use super::targets::{Checked, check};
use crate::activity::{Activity, EndedExport, ExportEnd, OUTPUT_FAILED, Refused};
use crate::engine::Engine;
use crate::export_v1::ApiError;
use crate::export_v1::convert;
use crate::export_v1::proto::{self, CommitResults, ExportState, ExporterResult, ProgressKind, Reason, Target};
use crate::image::Descriptor;
use crate::net::Principal;
use crate::trace_context;

/// Begins a Commit of `client`'s, or joins the one that runs.
pub(super) fn commit(
    sessions: &Arc<Sessions>,
    session: &Arc<Session>,
    request: proto::CommitRequest,
    client: Principal,
) -> Result<CommitWatcher, ApiError> {
    let checked = check(sessions, session, &request.targets)?;
    let running = {
        let mut stage = session.stage();
        let same = |target: &Target| {
            stage
                .results
                .get(&target.exporter_id)
                .is_some_and(|(given, result)| given == target && result.error.is_none())
        };
        match stage.state {
            ExportState::Committing => {
                return match &stage.running {
                    Some(running) if running.targets == request.targets => Ok(running.watch()),
                    _ => Err(ApiError::new(
                        Code::FailedPrecondition,
                        Reason::CommitRunning,
                        "a Commit with other targets runs; wait for its end",
                    )),
                };
            }
            ExportState::Committed if request.targets.iter().all(same) => {}
            ExportState::Committed => {
                drop(stage);
                session.check_alive()?;
                return Err(ApiError::field("targets", "none is given; expected at least one"));
            }
            ExportState::Open => stage.state = ExportState::Committing,
            ExportState::Unspecified | ExportState::Aborted | ExportState::Expired => {
                drop(stage);
                session.check_alive()?;
                return Err(ApiError::field("export_id", "the export has ended"));
            }
        }
        let running = Arc::new(CommitTask::new(request.targets));
        stage.running = Some(running.clone());
        running
    };
    let watching = running.watch();
    let work = run(sessions.clone(), session.clone(), running.clone(), checked, client);
    watch_over(session.clone(), running, sessions.engine(), work);
    Ok(watching)
}

/// Runs `work`, a Commit, in a task of its own; a panic ends it with results, too.
fn watch_over(
    session: Arc<Session>,
    running: Arc<CommitTask>,
    engine: &'static str,
    work: impl Future<Output = ()> + Send + 'static,
) {
    let task = tokio::spawn(work.in_current_span());
    tokio::spawn(async move {
        if let Err(error) = task.await {
            let principal = &session.record.principal;
            tracing::error!(export = session.id, door = "export", engine, %principal, %error, "a Commit broke off");
            break_off(&running, &session);
        }
    });
}

/// Ends what its task has left unfinished: the export is open again, unless it has ended.
fn break_off(task: &CommitTask, session: &Session) {
    let mut stage = session.stage();
    let mut results = Vec::with_capacity(task.targets.len());
    for target in &task.targets {
        let known = stage.results.get(&target.exporter_id);
        let done = known.filter(|(given, result)| given == target && result.error.is_none());
        if let Some((_, done)) = done {
            results.push(done.clone());
        } else if let Some(exporter) = session.record.exporter(&target.exporter_id) {
            let message = "the Commit broke off, which is a fault of the server; its log says where";
            let failed = result(exporter, Err(ApiError::new(Code::Internal, Reason::EngineRefused, message)));
            // A name that was set stays set.
            if known.is_none_or(|(_, earlier)| earlier.error.is_some()) {
                stage.results.insert(exporter.id.clone(), (target.clone(), failed.clone()));
            }
            results.push(failed);
        }
    }
    if stage.state == ExportState::Committing {
        stage.state = ExportState::Open;
    }
    stage.running = None;
    let state = stage.state.into();
    drop(stage);
    task.end(CommitResults { results, state });
}

/// Runs one exporter after the other.
async fn run(
    sessions: Arc<Sessions>,
    session: Arc<Session>,
    running: Arc<CommitTask>,
    targets: Vec<Checked>,
    client: Principal,
) {
    // What is being deleted goes first; from now on nothing is.
    drop(session.contents.deleting.write().await);
    let mut results = Vec::with_capacity(targets.len());
    for checked in &targets {
        let id = &checked.exporter.id;
        let known = session.stage().results.get(id).filter(|(given, _)| *given == checked.target).cloned();
        let result = match known.filter(|(_, result)| result.error.is_none()) {
            Some((_, result)) => result,
            None => {
                let outcome = run_target(&sessions, &session, &running, checked, &client).await;
                if let Err(refusal) = &outcome {
                    session.refused(refusal);
                }
                let output = outcome.as_ref().ok().and_then(|(_, success)| success.output.clone());
                let result = result(&checked.exporter, outcome);
                if let Some(error) = &result.error {
                    // The call itself ends well: its results say what failed.
                    if !matches!(Code::from(error.code), Code::Aborted | Code::Cancelled) {
                        trace_context::fail(&Span::current(), &error.message);
                    }
                    running.report(id, ProgressKind::Failed, &error.message);
                }
                let mut stage = session.stage();
                stage.outputs.extend(output.map(|output| (id.clone(), output)));
                // A name that was set stays set, whatever a later attempt with another target comes to.
                let succeeded = stage.results.get(id).is_some_and(|(_, earlier)| earlier.error.is_none());
                if !succeeded || result.error.is_none() {
                    stage.results.insert(id.clone(), (checked.target.clone(), result.clone()));
                }
                result
            }
        };
        results.push(result);
    }
    let state = {
        let mut stage = session.stage();
        let done = |exporter: &record::Exporter| {
            stage.results.get(&exporter.id).is_some_and(|(_, result)| result.error.is_none())
        };
        let complete = session.record.exporters.iter().all(done);
        if stage.state == ExportState::Committing {
            stage.state = ExportState::Open;
        }
        stage.running = None;
        let open = stage.state == ExportState::Open;
        drop(stage);
        if open && complete {
            session.end(ExportState::Committed);
            // The response need not wait: the image is visible and held by its names.
            let (session, sessions) = (session.clone(), sessions.clone());
            tokio::spawn(async move {
                session.contents.stop().await;
                // What is to be read is held by the lease alone.
                if !session.has_outputs() {
                    sessions.exports.release(session.contents.lease.clone());
                }
            });
        }
        session.stage().state
    };
    running.end(CommitResults { results, state: state.into() });
}

fn result(exporter: &record::Exporter, outcome: Result<(Descriptor, exporters::Success), ApiError>) -> ExporterResult {
    let (id, kind) = (exporter.id.clone(), exporter.kind.clone());
    match outcome {
        Ok((root, success)) => ExporterResult {
            id,
            r#type: kind,
            response: success.response.into_iter().collect(),
            error: None,
            root: Some(convert::descriptor_message(&root)),
            names: success.names.iter().map(ToString::to_string).collect(),
        },
        Err(refusal) => {
            ExporterResult { id, r#type: kind, error: Some(refusal.message()), ..ExporterResult::default() }
        }
    }
}

async fn run_target(
    sessions: &Sessions,
    session: &Session,
    running: &Arc<CommitTask>,
    checked: &Checked,
    client: &Principal,
) -> Result<(Descriptor, exporters::Success), ApiError> {
    let exports = &sessions.exports;
    let engine: &dyn Engine = &**exports.engine();
    let Some(exporter) = exporters::find(&checked.exporter.kind, engine.identity()) else {
        let what = format!("the type `{}` is no longer offered here", checked.exporter.kind);
        return Err(ApiError::new(Code::InvalidArgument, Reason::UnknownExporterType, what));
    };
    exports.policy(client).check(&checked.names).inspect_err(|_| {
        exports.activities().emit(Activity::Refused { door: "export", reason: Refused::Policy });
    })?;
    let graph = graph(session, &checked.root).await?;
    let origin = Session::origin(&session.id, &session.record, client);
    let events = running.events(checked.exporter.id.clone());
    let job = Job {
        id: checked.exporter.id.clone(),
        kind: checked.exporter.kind.clone(),
        exports: exports.clone(),
        outputs: sessions.outputs.clone(),
        lease: session.contents.lease.clone(),
        graph: Arc::new(graph),
        root: checked.root.clone(),
        names: checked.names.clone(),
        attributes: checked.exporter.attributes.clone(),
        origin,
        received: session.scope().received().clone(),
        events,
        cancel: session.contents.cancel.child_token(),
    };
    let begun = Instant::now();
    session.tell();
    let outcome = exporter.run(job).await;
    // Images are exports of the engine, which tell of themselves.
    if checked.exporter.kind != exporters::IMAGE {
        let end = match &outcome {
            Ok(_) => ExportEnd::Exported,
            Err(error) if error.code == Code::Cancelled => ExportEnd::Cancelled,
            Err(_) => ExportEnd::Failed(OUTPUT_FAILED),
        };
        let (engine, after) = (engine.identity().kind.name(), begun.elapsed());
        exports.activities().emit(Activity::Ended(EndedExport { door: "export", engine, end, after }));
    }
    Ok((checked.root.clone(), outcome?))
}

/// Gives an export up.
pub(super) async fn abort(sessions: &Sessions, session: &Session) -> Result<(), ApiError> {
    if session.stage().state != ExportState::Aborted {
        session.check_alive()?;
    }
    sessions.close(session, ExportState::Aborted).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::door::export_api::session::fixture::session;
    use crate::engine::fixture::Stuck;

    #[tokio::test]
    async fn a_commit_that_breaks_off_has_results_and_the_export_can_be_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let session = Arc::new(session(folder.path(), Stuck::default()).await);
        let target = Target { exporter_id: "a".to_owned(), ..Target::default() };
        let running = Arc::new(CommitTask::new(vec![target]));
        let mut watching = running.watch();
        {
            let mut stage = session.stage();
            (stage.state, stage.running) = (ExportState::Committing, Some(running.clone()));
        }
        watch_over(session.clone(), running.clone(), "test", async { panic!("as a fault of ours would") });
        running.finished().await;
        let results = watching.results().await.unwrap();
        assert_eq!((results.state(), results.results.len()), (ExportState::Open, 1));
        let error = results.results[0].error.clone().unwrap();
        assert_eq!((Code::from(error.code), error.reason()), (Code::Internal, Reason::EngineRefused));
        let stage = session.stage();
        assert!(stage.state == ExportState::Open && stage.running.is_none());
    }
}
