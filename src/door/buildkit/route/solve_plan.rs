//! What becomes of a request for a build, decided before the builder gets it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use tokio::time::timeout;
use tonic::Status;
use tracing::Span;

use super::super::builds::Build;
use super::super::cache::{CacheRefusal, Cached};
use super::super::explicit::refusal;
use super::super::exporters::Exporter;
use super::super::finalize::Finalizer;
use super::super::from_engine::SessionImages;
use super::super::load::Load;
use super::super::solve::Solve;
use super::super::wire::WireError;
use super::super::{progress, remarks};
use super::Route;
use crate::activity::Refused;

/// How long a build waits for the builder's capabilities. A builder ends a client's progress call if no build has
/// started after some seconds (BuildKit `solver/jobs.go`), so a longer wait would fail the build.
const CAPABILITIES_TIMEOUT: Duration = Duration::from_secs(2);

/// What becomes of a request for a build.
pub(super) enum SolvePlan {
    /// It is refused before the build starts; what is not the client's doing has no reason that is counted.
    Refuse(Option<Refused>, Status),
    /// It is forwarded unchanged. Messages about the build are shown as long as `build` is kept.
    Forward { build: Option<Arc<Build>> },
    /// Its loads stay as they are: `message`, which the builder gets, has other caches, or lets images come from the engine.
    Edit { build: Arc<Build>, message: Bytes, cached: Option<Cached>, images: Option<Arc<SessionImages>> },
    /// Its loads are replaced as well: `message` is what the builder gets. We export the images, inside the build if there is a
    /// finalizer.
    Export {
        load: Arc<Load>,
        message: Bytes,
        finalizer: Option<Arc<Finalizer>>,
        cached: Option<Cached>,
        images: Option<Arc<SessionImages>>,
    },
}

/// What becomes of a request's loads.
enum LoadPlan {
    /// It has none.
    Nothing,
    /// We cannot export them, perhaps with the remark about that for the client.
    Pass(Option<String>),
    /// The exporters that replace the client's, and whether the builder can wait for the export.
    Replace { builder_exporters: Vec<Exporter>, finalizes: bool },
}

impl Route {
    /// The plan for a request.
    pub(super) async fn plan(&self, solve: Option<Solve>, headers: &HeaderMap) -> SolvePlan {
        // Not a request that we understand: the builder reports what is wrong with it.
        let Some(solve) = solve else { return SolvePlan::Forward { build: None } };
        if let Some(status) = refusal(&solve.exporters) {
            return SolvePlan::Refuse(Some(Refused::Input), status);
        }
        let door = &*self.door;
        // Kept from now on, so that all calls share it.
        let build = door.builds.get(&solve.build);
        if solve.has_session_exporter {
            door.finalizers.leave_to_client(&solve.session);
        }
        let loads = self.plan_loads(&solve).await;
        let has_caches = door.caching.handles(&solve.cache).await;
        let is_finalized = matches!(loads, LoadPlan::Replace { finalizes: true, .. });
        let images = self.engine_images(&solve, &build).await;
        let needs_split = is_finalized || images.is_some() || has_caches && door.caching.is_able();
        let is_split = door.sessions.decide(&solve.session, needs_split);
        if images.is_some() && !is_split {
            progress::remark(&build.frames, remarks::UNSPLIT);
        }
        let (solve, images) = match images.filter(|_| is_split).zip(solve.with_policy_session().ok()) {
            Some((images, edited)) => (edited, Some(images)),
            None => (solve, None),
        };
        let (solve, cached) = match has_caches {
            false => (solve, None),
            true => match self.replace_caches(&solve, is_split).await {
                Ok((solve, cached)) => (solve, Some(cached)),
                Err((reason, status)) => return SolvePlan::Refuse(reason, status),
            },
        };
        self.replace_loads(solve, loads, is_split, headers, (cached, images))
    }

    /// What becomes of the request's loads. Requests the capabilities of the builder.
    async fn plan_loads(&self, solve: &Solve) -> LoadPlan {
        let door = &*self.door;
        let Some(builder_exporters) = solve.builder_exporters(door.outputs) else { return LoadPlan::Nothing };
        let why = match timeout(CAPABILITIES_TIMEOUT, self.capabilities()).await {
            Ok(Ok(able)) if able.exports_directly => {
                // Of several exporters the builder reports the results only after the build, in its history.
                let finalizes = able.finalizes && builder_exporters.len() == 1 && !solve.has_session_exporter;
                return LoadPlan::Replace { builder_exporters, finalizes };
            }
            Ok(Ok(_)) => return LoadPlan::Pass(None),
            // A builder that does not respond will hardly build; if it does, the client's own export still works.
            Ok(Err(status)) => format!("the builder does not say what it is ({})", status.message()),
            Err(_) => format!("the builder has not said within {} s what it is", CAPABILITIES_TIMEOUT.as_secs()),
        };
        tracing::warn!(builder = %door.builder.name, build = %solve.build, %why, "no direct export");
        LoadPlan::Pass(Some(remarks::passed(&why)))
    }

    /// The engine's images for the request's build; `None` where none are to come from there.
    async fn engine_images(&self, solve: &Solve, build: &Build) -> Option<Arc<SessionImages>> {
        let images = self.door.engine_images.as_ref()?;
        let client_decides = !solve.policy_session.is_empty();
        if solve.session.is_empty() || client_decides && solve.policy_session != solve.session {
            progress::remark(&build.frames, remarks::FOREIGN_POLICY);
            return None;
        }
        match timeout(CAPABILITIES_TIMEOUT, self.capabilities()).await {
            Ok(Ok(able)) if able.converts_sources => {}
            Ok(Ok(_)) => {
                progress::remark(&build.frames, remarks::NO_SOURCES);
                return None;
            }
            _ => {
                progress::remark(&build.frames, remarks::UNKNOWN_BUILDER);
                return None;
            }
        }
        let entered = images.enter(&solve.session, &self.client, &build.frames, client_decides);
        if entered.is_none() {
            progress::remark(&build.frames, remarks::FOREIGN_POLICY);
        }
        entered
    }

    /// The request without our own cache entries, and the caches that replace them.
    async fn replace_caches(&self, solve: &Solve, is_split: bool) -> Result<(Solve, Cached), CacheRefusal> {
        let door = &*self.door;
        let build = door.builds.get(&solve.build);
        let Solve { message, cache, session, .. } = solve;
        let cached = door.caching.solve(message, cache, session, is_split, &self.client, &build).await?;
        Ok((Solve::read(cached.message.clone()).map_err(|error| (None, unread(error)))?, cached))
    }

    /// The plan for the request, with its loads replaced where it has any. `is_split` tells whether we can handle calls in the
    /// client's session.
    fn replace_loads(
        &self,
        solve: Solve,
        loads: LoadPlan,
        is_split: bool,
        headers: &HeaderMap,
        (cached, images): (Option<Cached>, Option<Arc<SessionImages>>),
    ) -> SolvePlan {
        let door = &*self.door;
        let build = door.builds.get(&solve.build);
        Span::current().record("build", build.id());
        let (builder_exporters, finalizes) = match loads {
            LoadPlan::Nothing => {
                let is_able = self.capabilities.get().is_some_and(|able| able.exports_directly);
                let remark = remarks::plain(&solve.exporters, headers).filter(|_| is_able);
                return without_loads(&build, remark.as_deref(), solve.message, cached, images);
            }
            LoadPlan::Pass(remark) => return without_loads(&build, remark.as_deref(), solve.message, cached, images),
            LoadPlan::Replace { builder_exporters, finalizes } => (builder_exporters, finalizes && is_split),
        };
        let Ok(message) = solve.with_exporters(&builder_exporters) else {
            return without_loads(&build, None, solve.message, cached, images);
        };
        let (builder, exports, client) = (door.builder.clone(), door.exports.clone(), self.client.clone());
        let (outputs, slow_loads) = (door.outputs, door.slow_loads.clone());
        let load = Arc::new(Load { builder, exports, client, build, solve, outputs, slow_loads, builder_exporters });
        if let Err(status) = load.check() {
            return SolvePlan::Refuse(Some(Refused::Policy), status);
        }
        match finalizes.then(|| door.finalizers.add(&load)).flatten() {
            Some(finalizer) => {
                let message = Solve::with_session_exporter(&message);
                SolvePlan::Export { load, message, finalizer: Some(finalizer), cached, images }
            }
            None => SolvePlan::Export { load, message, finalizer: None, cached, images },
        }
    }
}

/// The plan for a request whose loads stay as they are, with a remark about that for the client.
fn without_loads(
    build: &Arc<Build>,
    remark: Option<&str>,
    message: Bytes,
    cached: Option<Cached>,
    images: Option<Arc<SessionImages>>,
) -> SolvePlan {
    if let Some(text) = remark {
        progress::remark(&build.frames, text);
    }
    if cached.is_none() && images.is_none() {
        return SolvePlan::Forward { build: Some(build.clone()) };
    }
    SolvePlan::Edit { build: build.clone(), message, cached, images }
}

/// The error for a request that we edited and that cannot be read.
fn unread(error: WireError) -> Status {
    Status::internal(format!("linkspan: the edited request is {error}"))
}
