//! The exports of a build, inside it or between the builder's response and the client's, and each exporter's result.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bollard_buildkit_proto::moby::buildkit::v1::Descriptor as HistoryDescriptor;
use futures_util::future::join_all;
use tonic::Status;

use super::builder::{Builder, Record};
use super::builds::Build;
use super::exporters::{EXPLICIT_TYPE, Exporter};
use super::frontend_metadata::FrontendMetadata;
use super::load_error::{Failure, failure, prefixed};
use super::names;
use super::progress::{Display, Placement};
use super::rebuild::rebuild;
use super::remarks;
use super::response::{BuildResponse, ExporterResult, Keys, archive_keys, config_digest, dated, source_time};
use super::slow::{MissingLayers, slow_load};
use super::solve::Solve;
use crate::build_outputs::{LoadCompression, OutputOptions, SlowLoads};
use crate::engine::Origin;
use crate::export::response::{NAME, image_response};
use crate::export::{ExportError, Exports, Request, unique_id};
use crate::image::{Descriptor, Document, Kind, Limits, View};
use crate::net::Principal;
use crate::source::read_document;

/// How often a build is repeated. One repetition fetches lazy layers; the others allow for a builder that prunes
/// meanwhile.
const REPETITIONS: usize = 3;

/// The warning for an explicit export without a name. buildx adds its tags only to outputs that it knows.
const NAMELESS: &str = "linkspan: the image gets no name, for `-t` does not reach `type=linkspan`; hint: \
                        `-o type=linkspan,name=NAME`, or `--load -t NAME`";

/// One build whose image goes to the engine.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) builder: Arc<Builder>,
    pub(super) exports: Arc<Exports>,
    pub(super) client: Principal,
    pub(super) build: Arc<Build>,
    pub(super) solve: Solve,
    /// How the door treats outputs.
    pub(super) outputs: OutputOptions,
    pub(super) slow_loads: SlowLoads,
    /// The exporters that replaced the client's in the builder's request.
    pub(super) builder_exporters: Vec<Exporter>,
}

/// The image that one exporter of the builder made.
#[derive(Debug, Clone)]
struct BuiltImage {
    root: Descriptor,
    /// The config's digest, if it is an image of one platform.
    config: Option<String>,
}

/// When a load is exported.
#[derive(Debug)]
pub(super) enum ExportPhase {
    /// While the builder waits for it, with what it has reported of the frontend's metadata.
    InBuild(Option<FrontendMetadata>),
    /// After the builder's response.
    AfterBuild,
}

impl Load {
    /// Refuses names that policy does not allow, if they are known before the build.
    pub(super) fn check(&self) -> Result<(), Status> {
        let loads = self.solve.exporters.iter().zip(self.loads()).filter_map(|(given, load)| load.map(|_| given));
        for load in loads {
            self.exports.policy(&self.client).check(&names::known(load)).map_err(|error| failure(&error))?;
        }
        Ok(())
    }

    /// Exports what the builder made and completes the builder's response.
    pub(super) async fn finish(&self, response: BuildResponse, phase: ExportPhase) -> Result<BuildResponse, Status> {
        let (placement, frontend) = match phase {
            ExportPhase::InBuild(frontend) => (Placement::Inline, frontend),
            ExportPhase::AfterBuild => (Placement::AfterBuild, None),
        };
        self.export(&self.solve.build, response, &self.displays(placement, |_| true), &self.builder_exporters, frontend)
            .await
    }

    /// Removes a repetition from the builder's history.
    pub(super) async fn forget(&self, build: &str) {
        if let Err(error) = self.builder.forget(build).await {
            tracing::warn!(%build, %error, "a repeated build stays in the builder's history");
        }
    }

    /// The exporter that replaces each load in the builder's request.
    pub(super) fn loads(&self) -> impl Iterator<Item = Option<&Exporter>> {
        let pairs = self.solve.exporters.iter().zip(&self.builder_exporters);
        pairs.map(|(given, sent)| (given != sent).then_some(sent))
    }

    pub(super) fn any_load(&self) -> &Exporter {
        self.loads().flatten().next().unwrap_or(&self.builder_exporters[0])
    }

    /// Starts the progress display of each load that `is_shown`.
    pub(super) fn displays(&self, placement: Placement, is_shown: impl Fn(usize) -> bool) -> Vec<Option<Display>> {
        let engine = self.exports.engine().identity().kind.name();
        self.loads()
            .enumerate()
            .map(|(index, load)| {
                let display = load
                    .filter(|_| is_shown(index))
                    .map(|_| Display::start(self.build.frames.clone(), engine, index, placement));
                (self.solve.exporters[index].is_plain(), display)
            })
            .inspect(|(plain, display)| {
                if let Some(display) = display.as_ref().filter(|_| *plain) {
                    display.note(remarks::TAKEN);
                }
            })
            .map(|(_, display)| display)
            .collect()
    }

    /// Exports the loads of `build` that have a display, and shows the outcome. A repetition uses the exporters
    /// `again`. `frontend` is the frontend's metadata, if the builder has reported it.
    pub(super) async fn export(
        &self,
        build: &str,
        response: BuildResponse,
        displays: &[Option<Display>],
        again: &[Exporter],
        frontend: Option<FrontendMetadata>,
    ) -> Result<BuildResponse, Status> {
        let result = self.persist(build, response, displays, again, frontend).await;
        if let Err(status) = &result {
            displays.iter().flatten().for_each(|display| display.fail(status.message()));
        }
        result
    }

    /// Exports, and repeats the build and the export if the builder lacks blobs of its own image.
    async fn persist(
        &self,
        build: &str,
        response: BuildResponse,
        displays: &[Option<Display>],
        again: &[Exporter],
        frontend: Option<FrontendMetadata>,
    ) -> Result<BuildResponse, Status> {
        let mut attempt = self.attempt(build, response, displays, frontend.clone()).await?;
        for _ in 0..REPETITIONS {
            let Err(error) = attempt else { break };
            tracing::info!(build = %self.build.id(), %error, "the builder is asked to fetch what it lacks");
            for display in displays.iter().flatten() {
                display.note("waiting for the builder to fetch layers that it does not hold");
            }
            let recording = self.build.recording();
            let repeated = rebuild(&self.builder, &self.solve, again, self.any_load(), &recording).await;
            let repeated = repeated.map_err(|status| prefixed(&format!("{error}; fetching it"), &status))?;
            let result = self.attempt(&repeated.build, repeated.response, displays, frontend.clone()).await;
            self.forget(&repeated.build).await;
            attempt = result?;
        }
        attempt.map_err(|error| failure(&error))
    }

    /// The outer error is final; the inner one says that the builder lacks blobs of its own image.
    async fn attempt(
        &self,
        build: &str,
        mut response: BuildResponse,
        displays: &[Option<Display>],
        frontend: Option<FrontendMetadata>,
    ) -> Result<Result<BuildResponse, ExportError>, Status> {
        let Record { roots, mut frontend, .. } = self.record(build, &response, frontend).await?;
        let made = match response.root().filter(|_| self.builder_exporters.len() == 1) {
            Some(root) => {
                // The response of a single exporter has the name that replaced the wildcard.
                frontend.name = Some(response.keys.get(NAME).cloned().unwrap_or_default());
                vec![Some(BuiltImage { root, config: config_digest(&response.keys) })]
            }
            None => match self.made(roots, response.root()).await? {
                Ok(made) => made,
                Err(error) => return Ok(Err(error)),
            },
        };
        let exporters = self.solve.exporters.iter().zip(&made).zip(displays);
        let attempts: Vec<_> = exporters
            .map(|((exporter, made), display)| self.result_of(exporter, made.as_ref(), display.as_ref(), &frontend))
            .collect();
        let (mut results, mut failed) = (Vec::new(), None);
        for (id, (keys, exporter)) in join_all(attempts).await.into_iter().zip(&self.solve.exporters).enumerate() {
            match keys {
                Ok(response) => results.push(ExporterResult { id, kind: exporter.kind.clone(), response }),
                // Blobs that the builder can still fetch take precedence over final errors.
                Err(Failure::Export(error)) if error.absent().is_some() => return Ok(Err(error)),
                Err(Failure::Export(error)) => failed = failed.or_else(|| Some(failure(&error))),
                Err(Failure::Final(status)) => failed = failed.or(Some(status)),
            }
        }
        if let Some(status) = failed {
            return Err(status);
        }
        response.merge(&results);
        Ok(Ok(response))
    }

    /// The result of one exporter; we export those that have a display.
    async fn result_of(
        &self,
        exporter: &Exporter,
        made: Option<&BuiltImage>,
        display: Option<&Display>,
        frontend: &FrontendMetadata,
    ) -> Result<Keys, Failure> {
        match (display, made) {
            (Some(display), Some(made)) => self.load(exporter, made, frontend, display).await,
            (Some(_), None) => Err(Status::internal("linkspan: the builder's response names no image").into()),
            (None, Some(made)) => Ok(self.archive_or_push(exporter, made, frontend)),
            (None, None) => Ok(Keys::new()),
        }
    }

    /// Exports the image of one exporter.
    async fn load(
        &self,
        exporter: &Exporter,
        made: &BuiltImage,
        frontend: &FrontendMetadata,
        display: &Display,
    ) -> Result<Keys, Failure> {
        let names = names::in_full(exporter, frontend)?;
        if exporter.kind == EXPLICIT_TYPE && !exporter.attrs.contains_key("name") {
            display.warn(NAMELESS);
        }
        let (builder, principal) = (self.builder.name.clone(), self.client.clone());
        let origin = Origin { export: unique_id(), door: "buildkit", builder, principal };
        // With the time of the export, which the builder's own exporter writes into the `index.json` of a layout.
        let root = dated(&made.root, self.source_time(exporter, frontend));
        let request = Request::new(root.clone(), names.clone(), origin);
        let (begun, layers) = (Instant::now(), MissingLayers::default());
        let events = layers.listening(display.events());
        let outcome = self.exports.run(request, self.builder.content(), events).await?;
        let remark = self.remark_on_time(exporter, &layers, begun.elapsed()).await;
        display.succeed(&outcome, remark.as_ref().map_or(&[], |lines| lines.as_slice()));
        // The root already has its time.
        Ok(archive_keys(&root, made.config.clone(), &names, None))
    }

    /// The remark on a load that took `elapsed` from the end of the build on, and which sent `layers`.
    async fn remark_on_time(
        &self,
        exporter: &Exporter,
        layers: &MissingLayers,
        elapsed: Duration,
    ) -> Option<[String; 2]> {
        // Of several exporters, and where a setting would not have helped, nothing is known.
        let is_set = self.outputs.load_compression != LoadCompression::Unchanged || exporter.names_compression();
        if is_set || self.builder_exporters.len() > 1 || self.solve.cache.has_others {
            return None;
        }
        let slow = slow_load(&self.builder, self.build.layers_export(), layers, elapsed).await?;
        let lines = slow.lines();
        self.slow_loads.note(slow);
        Some(lines)
    }

    /// The response of an exporter that is not ours, as far as the merged map hides it.
    fn archive_or_push(&self, exporter: &Exporter, made: &BuiltImage, frontend: &FrontendMetadata) -> Keys {
        match exporter.kind.as_str() {
            // These return full names, like a load; a name that they refuse has already failed the build.
            "oci" | "docker" => {
                let names = names::in_full(exporter, frontend).unwrap_or_default();
                archive_keys(&made.root, made.config.clone(), &names, self.source_time(exporter, frontend))
            }
            _ => {
                let names = names::of_image(exporter, frontend, &made.root.digest);
                image_response(&made.root, made.config.clone(), Some(names).filter(|names| !names.is_empty()))
            }
        }
    }

    fn source_time(&self, exporter: &Exporter, frontend: &FrontendMetadata) -> Option<i64> {
        source_time(exporter, self.solve.epoch.as_deref(), frontend)
    }

    /// The facts about a build that its response lacks. The history has the results of several exporters, and the
    /// metadata of a frontend that the builder ran.
    async fn record(
        &self,
        build: &str,
        response: &BuildResponse,
        frontend: Option<FrontendMetadata>,
    ) -> Result<Record, Status> {
        let recording = self.build.recording();
        let frontend = frontend.or_else(|| recording.result.as_deref().map(FrontendMetadata::from_return));
        let alone = self.builder_exporters.len() == 1 && response.root().is_some();
        if alone && (frontend.is_some() || !(self.solve.has_frontend || recording.incomplete)) {
            return Ok(Record { frontend: frontend.unwrap_or_default(), ..Record::default() });
        }
        let record = match self.builder.record(build).await {
            Err(status) if alone => {
                tracing::warn!(%build, %status, "what the frontend said is not known");
                Record::default()
            }
            record => record?,
        };
        Ok(Record { frontend: frontend.unwrap_or(record.frontend), ..record })
    }

    /// The image of each of several exporters, by index. `merged` is the root in the builder's response.
    async fn made(
        &self,
        roots: Vec<(usize, HistoryDescriptor)>,
        merged: Option<Descriptor>,
    ) -> Result<Result<Vec<Option<BuiltImage>>, ExportError>, Status> {
        let mut made: Vec<Option<BuiltImage>> = vec![None; self.builder_exporters.len()];
        for (index, recorded) in roots {
            let digest = recorded.digest.parse();
            let digest = digest.map_err(|error| Status::internal(format!("the builder's history: {error}")))?;
            let root = match &merged {
                // The response's own descriptor is more complete: it has the platform.
                Some(root) if root.digest == digest => root.clone(),
                _ => Descriptor {
                    media_type: recorded.media_type,
                    digest,
                    size: u64::try_from(recorded.size).unwrap_or(0),
                    annotations: recorded.annotations.into_iter().collect(),
                    platform: None,
                    artifact_type: None,
                },
            };
            let config = match self.config_of(&root).await {
                Ok(config) => config,
                Err(error) if error.absent().is_some() => return Ok(Err(error)),
                Err(error) => return Err(failure(&error)),
            };
            if let Some(place) = made.get_mut(index) {
                *place = Some(BuiltImage { root, config });
            }
        }
        Ok(Ok(made))
    }

    /// The config's digest, if `root` is a manifest.
    async fn config_of(&self, root: &Descriptor) -> Result<Option<String>, ExportError> {
        if root.kind() != Kind::Manifest || root.size > Limits::default().document_bytes {
            return Ok(None);
        }
        let bytes = read_document(&*self.builder.content(), root).await?;
        let document = Document::parse(root.clone(), bytes).map_err(crate::image::GraphError::from)?;
        Ok(match document.view {
            View::Manifest(manifest) => Some(manifest.config.digest.to_string()),
            _ => None,
        })
    }
}
