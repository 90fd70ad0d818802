//! Commit: what was sent becomes a version of each target.

use std::collections::HashSet;
use std::sync::Arc;

use tonic::Code;
use tracing::{Instrument as _, Span};

use super::commit_task::{CommitTask, CommitWatcher};
use super::messages;
use super::request;
use super::session::Session;
use super::sessions::Sessions;
use crate::cache_v1::proto::{CommitRequest, CommitResults, CommitTarget, ProgressKind, Target, TargetResult};
use crate::caches::{CacheExport, Dropped};
use crate::content_server::Export as _;
use crate::engine::caches::{CacheDocument, CacheVersion};
use crate::export_v1::ApiError;
use crate::export_v1::convert::descriptor;
use crate::export_v1::proto::{ExportState, Reason};
use crate::image::cache::{CACHE_CONFIG, CacheRoot, MAX_CACHE_CONFIG, MAX_CACHE_LAYERS};
use crate::image::{Descriptor, Digest, Limits};
use crate::net::Principal;
use crate::source::read_document;
use crate::trace_context;

/// What the results of all targets are.
const TYPE: &str = "cache";

/// Begins a Commit of `client`, or joins the one that runs.
pub(super) fn commit(
    sessions: &Arc<Sessions>,
    session: &Arc<Session>,
    request: CommitRequest,
    client: Principal,
) -> Result<CommitWatcher, ApiError> {
    let targets = check(session, &request)?;
    let mut stage = session.stage();
    if let Some(running) = &stage.running {
        if running.targets == request.targets {
            return Ok(running.watch());
        }
        let message = "a Commit with other targets runs; wait for its end";
        return Err(ApiError::new(Code::FailedPrecondition, Reason::CommitRunning, message));
    }
    if stage.state == ExportState::Committed {
        let known = |target: &CommitTarget| {
            let (given, result) = stage.results.get(&target.target_id)?;
            (given == target).then(|| result.clone())
        };
        if let Some(results) = request.targets.iter().map(known).collect::<Option<Vec<_>>>() {
            let results = CommitResults { results, state: stage.state.into() };
            return Ok(CommitTask::ended(request.targets, results).watch());
        }
    }
    if stage.ended.is_some() {
        drop(stage);
        session.check_alive()?;
        return Err(ApiError::new(Code::Internal, Reason::EngineRefused, "the export has ended"));
    }
    stage.state = ExportState::Committing;
    let task = Arc::new(CommitTask::new(request.targets));
    stage.running = Some(task.clone());
    drop(stage);
    let watching = task.watch();
    let (sessions, session, span) = (sessions.clone(), session.clone(), Span::current());
    tokio::spawn(async move {
        let work = run(sessions.clone(), session.clone(), task.clone(), targets, client);
        let running = tokio::spawn(work.instrument(span));
        let results = running.await.unwrap_or_default();
        finish(&sessions, &session, &task, results).await;
    });
    Ok(watching)
}

/// A target of a Commit, and what becomes a version of it.
type Checked = (Target, CommitTarget, Option<Given>);

/// The root that a client gives, which is made from records if it gives none.
#[derive(Debug, Clone)]
struct Given {
    root: Descriptor,
    /// The layers that stay out.
    absent: HashSet<Digest>,
}

fn check(session: &Session, request: &CommitRequest) -> Result<Vec<Checked>, ApiError> {
    let (mut targets, mut wrong) = (Vec::new(), Vec::new());
    if request.targets.is_empty() {
        wrong.push(("targets".to_owned(), "none is given; expected at least one".to_owned()));
    }
    for (at, given) in request.targets.iter().enumerate() {
        let field = |name: &str| format!("targets[{at}].{name}");
        let id = &given.target_id;
        if request.targets[..at].iter().any(|other| other.target_id == *id) {
            wrong.push((field("target_id"), "it is given twice".to_owned()));
        }
        let target = session.targets.iter().find(|target| target.id == *id);
        if target.is_none() {
            let shown: String = id.chars().take(64).collect();
            wrong.push((field("target_id"), format!("`{shown}` is no target of the export")));
        }
        if given.root.is_none() {
            session.check_records()?;
        }
        let root = match &given.root {
            None if session.records().is_empty() => {
                Err(vec![(field("root"), "not given, and there are no records that were put".to_owned())])
            }
            None => Ok(None),
            Some(root) => descriptor(&field("root"), root).and_then(|root| {
                Ok(Some(Given { root, absent: absent(&field("absent_layers"), &given.absent_layers)? }))
            }),
        };
        match (target, root) {
            (_, Ok(Some(Given { root, .. }))) if !CacheRoot::may_be(&root) => {
                let what = format!("`{}` is the type of no root; expected an index or a manifest", root.media_type);
                wrong.push((field("root.media_type"), what));
            }
            (Some(target), Ok(root)) => targets.push((target.clone(), given.clone(), root)),
            (None, Ok(_)) => {}
            (_, Err(found)) => wrong.extend(found),
        }
    }
    if wrong.is_empty() { Ok(targets) } else { Err(ApiError::fields(wrong)) }
}

/// The digests of layers that stay out.
fn absent(field: &str, given: &[String]) -> Result<HashSet<Digest>, Vec<(String, String)>> {
    if given.len() > MAX_CACHE_LAYERS {
        return Err(vec![(
            field.to_owned(),
            format!("{} digests; a cache has at most {MAX_CACHE_LAYERS} layers", given.len()),
        )]);
    }
    let parsed = given
        .iter()
        .enumerate()
        .map(|(at, text)| text.parse::<Digest>().map_err(|error| vec![(format!("{field}[{at}]"), error.to_string())]));
    parsed.collect()
}

/// Stores one version after the other.
async fn run(
    sessions: Arc<Sessions>,
    session: Arc<Session>,
    task: Arc<CommitTask>,
    targets: Vec<Checked>,
    client: Principal,
) -> Vec<TargetResult> {
    // What is being deleted goes first; from now on nothing is.
    drop(session.contents.deleting.write().await);
    let mut results = Vec::with_capacity(targets.len());
    for (target, given, root) in targets {
        let id = target.id.clone();
        let known = session.stage().results.get(&id).filter(|(earlier, _)| *earlier == given).cloned();
        let result = match known.filter(|(_, result)| result.error.is_none()) {
            Some((_, result)) => result,
            None => {
                let storing = store(&sessions, &session, &task, &target, root, &client);
                let stored = session.contents.cancel.run_until_cancelled(storing).await;
                let stored = stored.unwrap_or_else(|| {
                    Err(ApiError::new(Code::Aborted, Reason::ExportAborted, "the export was aborted"))
                });
                let result = result(&id, stored);
                match &result.error {
                    Some(error) => {
                        // The call itself ends well: its results say what failed.
                        if !matches!(Code::from(error.code), Code::Aborted | Code::Cancelled) {
                            trace_context::fail(&Span::current(), &error.message);
                        }
                        task.report(&id, ProgressKind::Failed, &error.message);
                    }
                    None => task.report(&id, ProgressKind::Stored, ""),
                }
                session.stage().results.insert(id, (given, result.clone()));
                result
            }
        };
        results.push(result);
    }
    results
}

/// Ends a Commit, and with the last target the export.
async fn finish(sessions: &Sessions, session: &Session, task: &CommitTask, results: Vec<TargetResult>) {
    let is_complete = {
        let mut stage = session.stage();
        if stage.state == ExportState::Committing {
            stage.state = ExportState::Open;
        }
        stage.running = None;
        let succeeded = |target: &Target| stage.results.get(&target.id).is_some_and(|(_, it)| it.error.is_none());
        stage.state == ExportState::Open && session.targets.iter().all(succeeded)
    };
    let is_ended = is_complete && session.end(ExportState::Committed);
    let results = if results.is_empty() {
        let error = ApiError::new(Code::Internal, Reason::EngineRefused, "the commit broke off").message();
        let broken = |target: &CommitTarget| TargetResult {
            id: target.target_id.clone(),
            r#type: TYPE.to_owned(),
            error: Some(error.clone()),
            ..TargetResult::default()
        };
        task.targets.iter().map(broken).collect()
    } else {
        results
    };
    let state = session.stage().state.into();
    task.end(CommitResults { results, state });
    if is_ended {
        session.contents.stop().await;
        sessions.exports.release(session.contents.lease.clone());
    }
}

fn result(id: &str, stored: Result<Stored, ApiError>) -> TargetResult {
    let result = TargetResult { id: id.to_owned(), r#type: TYPE.to_owned(), ..TargetResult::default() };
    match stored {
        Ok(Stored { version, current, dropped }) => TargetResult {
            unchanged: current.as_ref().is_some_and(|current| current.id == version.id),
            replaced: current.filter(|current| current.id != version.id).as_ref().map(messages::version),
            version: Some(messages::version(&version)),
            dropped: dropped.iter().map(messages::dropped).collect(),
            ..result
        },
        Err(error) => TargetResult { error: Some(error.message()), ..result },
    }
}

/// What a part has now, and what it had before.
struct Stored {
    version: CacheVersion,
    current: Option<CacheVersion>,
    /// The versions that went because of a limit.
    dropped: Vec<Dropped>,
}

/// Stores a version of `target`.
async fn store(
    sessions: &Sessions,
    session: &Session,
    task: &CommitTask,
    target: &Target,
    given: Option<Given>,
    client: &Principal,
) -> Result<Stored, ApiError> {
    task.report(&target.id, ProgressKind::Checking, "");
    let ((config, root), absent) = match given {
        Some(Given { root, absent }) => (documents(session, &root, &absent).await?, absent),
        None => (made(session)?, HashSet::new()),
    };
    let origin = Session::origin(session.id(), &session.record, client);
    let (reference, new) = (request::reference(&target.r#ref)?, request::new_version(target));
    let keep = usize::try_from(target.keep).unwrap_or(1).max(1);
    let _storing = sessions.storing.lock().await;
    let export = sessions.caches.begin_version(&reference, new, keep, &origin).await?;
    let current = export.current().cloned();
    check_current(&export, target, current.as_ref().map_or("", |version| &version.id)).await?;
    task.report(&target.id, ProgressKind::Storing, "");
    let version = export.commit(config, root, absent).await?;
    Ok(Stored { version, current, dropped: export.dropped() })
}

/// Refuses a part that has another version than the client expects.
async fn check_current(export: &CacheExport, target: &Target, current: &str) -> Result<(), ApiError> {
    let Some(expected) = &target.expect_current else { return Ok(()) };
    if expected.version_id == current {
        return Ok(());
    }
    export.abort().await?;
    let shown = |id: &str| if id.is_empty() { "none".to_owned() } else { format!("`{id}`") };
    let message = format!(
        "the cache `{}` has the version {} of this part, expected {}; import it, and export again",
        target.r#ref,
        shown(current),
        shown(&expected.version_id),
    );
    Err(ApiError::new(Code::Aborted, Reason::CurrentChanged, message).with("current", current))
}

/// The documents of a cache that has the records that were put, with the results whose layers are in the scope.
fn made(session: &Session) -> Result<(CacheDocument, CacheDocument), ApiError> {
    let (records, scope) = (session.records(), session.contents.scope());
    let is_present = |layer: &Descriptor| scope.get(&layer.digest).is_some_and(|found| found.size == layer.size);
    let made = records.documents(is_present);
    made.map_err(|error| ApiError::new(Code::Internal, Reason::EngineRefused, error.to_string()))
}

/// The documents of a cache out of the scope, which must have all that they list but for the layers `absent`.
async fn documents(
    session: &Session,
    root: &Descriptor,
    absent: &HashSet<Digest>,
) -> Result<(CacheDocument, CacheDocument), ApiError> {
    let limit = Limits::default().document_bytes;
    if root.size > limit {
        let message = format!("the root {} has {} bytes; at most {limit} are allowed", root.digest, root.size);
        return Err(ApiError::limit(Code::InvalidArgument, "document_bytes", limit, message));
    }
    check_scope(session, [root])?;
    let invalid = |error| ApiError::from(crate::caches::CacheError::from(error));
    let bytes = read_document(&session.contents.images, root).await?;
    let listed = CacheRoot::parse(root.clone(), bytes.clone()).map_err(invalid)?;
    if listed.config.size > MAX_CACHE_CONFIG {
        let (size, limit) = (listed.config.size, MAX_CACHE_CONFIG);
        let message = format!("the config {} has {size} bytes; at most {limit} are allowed", listed.config.digest);
        return Err(ApiError::limit(Code::InvalidArgument, "config_bytes", limit, message));
    }
    let layers = listed.layers.iter().filter(|layer| !absent.contains(&layer.digest));
    check_scope(session, [&listed.config].into_iter().chain(layers))?;
    let root = CacheDocument { descriptor: listed.descriptor.clone(), bytes };
    let descriptor = Descriptor { media_type: CACHE_CONFIG.to_owned(), ..listed.config.clone() };
    let bytes = read_document(&session.contents.images, &descriptor).await?;
    Ok((CacheDocument { descriptor, bytes }, root))
}

/// Fails unless all `blobs` are in the scope, with their sizes.
fn check_scope<'a>(session: &Session, blobs: impl IntoIterator<Item = &'a Descriptor>) -> Result<(), ApiError> {
    let (mut missing, mut wrong) = (Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    let scope = session.contents.scope();
    for blob in blobs.into_iter().filter(|blob| seen.insert(&blob.digest)) {
        match scope.get(&blob.digest) {
            None => missing.push(&blob.digest),
            Some(found) if found.size != blob.size => {
                let what = format!("it has {} bytes, and its descriptor says {}", found.size, blob.size);
                wrong.push((blob.digest.to_string(), what));
            }
            Some(_) => {}
        }
    }
    if !missing.is_empty() {
        return Err(ApiError::missing(missing, "the cache"));
    }
    let message = match &wrong[..] {
        [(digest, what)] => format!("{digest}: {what}"),
        [(digest, what), ..] => {
            format!("{} blobs have other sizes than their descriptors say; {digest}: {what}", wrong.len())
        }
        [] => return Ok(()),
    };
    let error = ApiError::new(Code::InvalidArgument, Reason::DocumentInvalid, message);
    Err(ApiError { violations: wrong, ..error })
}
