//! What happens between the builder's answer and the client's: the exports, and the results of each exporter.

use std::sync::Arc;

use futures_util::future::join_all;
use tonic::{Code, Status};

use super::answer::{Answer, ExporterResult, Keys, config_digest, image_keys};
use super::builder::Builder;
use super::builds::Build;
use super::exporters::Exporter;
use super::progress::Display;
use super::remarks;
use super::repeat::repeat;
use super::solve::Solve;
use crate::engine::{EngineError, Origin};
use crate::export::{ExportError, Exports, Request, unique_id};
use crate::image::{Descriptor, Document, Kind, Limits, Reference, View};
use crate::source::{SourceError, read_document};

/// How often a build is repeated. Once makes lazy layers present; a builder that prunes all the time can win a
/// race or two.
const REPETITIONS: usize = 3;

/// One build whose image goes to the engine.
pub(super) struct Load<'a> {
    pub(super) builder: &'a Builder,
    pub(super) exports: &'a Exports,
    pub(super) build: Arc<Build>,
    pub(super) solve: Solve,
    /// What the builder was asked for in place of the client's exporters.
    pub(super) asked: Vec<Exporter>,
}

/// The image that one exporter of the builder made.
#[derive(Debug, Clone)]
struct Made {
    root: Descriptor,
    /// The config's digest, if it is an image of one platform.
    config: Option<String>,
}

impl Load<'_> {
    /// Exports what the builder made and completes its answer.
    pub(super) async fn finish(&self, answer: Answer) -> Result<Answer, Status> {
        let engine = self.exports.engine().identity().kind;
        let loads = self.solve.exporters.iter().zip(&self.asked).map(|(given, asked)| given != asked);
        let displays: Vec<_> = loads
            .enumerate()
            .map(|(index, load)| load.then(|| Display::start(self.build.clone(), engine, index)))
            .collect();
        for (exporter, display) in self.solve.exporters.iter().zip(&displays) {
            if let Some(display) = display.as_ref().filter(|_| exporter.is_plain()) {
                display.note(remarks::TAKEN);
            }
        }
        let result = self.export(answer, &displays).await;
        if let Err(status) = &result {
            displays.iter().flatten().for_each(|display| display.fail(status.message()));
        }
        result
    }

    /// Exports, and again from a repeated build if the builder does not hold its own image.
    async fn export(&self, answer: Answer, displays: &[Option<Display>]) -> Result<Answer, Status> {
        let mut attempt = self.attempt(&self.solve.build, answer, displays).await?;
        for _ in 0..REPETITIONS {
            let Err(error) = attempt else { break };
            tracing::info!(build = %self.build.id, %error, "the builder is asked to fetch what it lacks");
            for display in displays.iter().flatten() {
                display.note("waiting for the builder to fetch layers that it does not hold");
            }
            let repeated = repeat(self.builder, &self.solve, &self.asked, &self.build.recording()).await;
            let repeated = repeated.map_err(|status| prefixed(&format!("{error}; fetching it"), &status))?;
            let result = self.attempt(&repeated.build, repeated.answer, displays).await;
            if let Err(error) = self.builder.forget(&repeated.build).await {
                tracing::warn!(build = %repeated.build, %error, "a repeated build stays in the builder's history");
            }
            attempt = result?;
        }
        attempt.map_err(|error| failure(&error))
    }

    /// The outer error is final; the inner one says that the builder does not hold its own image.
    async fn attempt(
        &self,
        build: &str,
        mut answer: Answer,
        displays: &[Option<Display>],
    ) -> Result<Result<Answer, ExportError>, Status> {
        let made = match self.made(build, &answer).await? {
            Ok(made) => made,
            Err(error) => return Ok(Err(error)),
        };
        let exporters = self.solve.exporters.iter().zip(&made).zip(displays);
        let attempts: Vec<_> = exporters
            .map(|((exporter, made), display)| self.one(exporter, made.as_ref(), display.as_ref(), &answer))
            .collect();
        let mut results = Vec::new();
        for (id, (keys, exporter)) in join_all(attempts).await.into_iter().zip(&self.solve.exporters).enumerate() {
            match keys {
                Ok(response) => results.push(ExporterResult { id, kind: exporter.kind.clone(), response }),
                Err(Failure::Final(status)) => return Err(status),
                Err(Failure::Export(error)) if error.absent().is_some() => return Ok(Err(error)),
                Err(Failure::Export(error)) => return Err(failure(&error)),
            }
        }
        answer.merge(&results);
        Ok(Ok(answer))
    }

    /// The result of one exporter; those with a display are ours.
    async fn one(
        &self,
        exporter: &Exporter,
        made: Option<&Made>,
        display: Option<&Display>,
        answer: &Answer,
    ) -> Result<Keys, Failure> {
        match (display, made) {
            (Some(display), Some(made)) => self.load(exporter, made, answer, display).await,
            (Some(_), None) => Err(Status::internal("linkspan: the builder's answer names no image").into()),
            (None, Some(made)) => Ok(archive_or_push(exporter, made)),
            (None, None) => Ok(Keys::new()),
        }
    }

    /// Exports the image of one exporter.
    async fn load(
        &self,
        exporter: &Exporter,
        made: &Made,
        answer: &Answer,
        display: &Display,
    ) -> Result<Keys, Failure> {
        let names = names(exporter, answer)?;
        let origin = Origin { export: unique_id(), door: "buildkit", builder: self.builder.name.clone() };
        let request = Request { root: made.root.clone(), names: names.clone(), origin };
        let outcome = self.exports.run(request, self.builder.content(), display.events()).await?;
        display.succeed(&outcome);
        Ok(image_keys(exporter, &made.root, made.config.clone(), Some(&names)))
    }

    /// What each exporter made, by its place. One alone is in the answer; several are told apart by the history.
    async fn made(&self, build: &str, answer: &Answer) -> Result<Result<Vec<Option<Made>>, ExportError>, Status> {
        let merged = answer.root();
        if self.asked.len() == 1 {
            return Ok(Ok(vec![merged.map(|root| Made { root, config: config_digest(&answer.keys) })]));
        }
        let mut made: Vec<Option<Made>> = vec![None; self.asked.len()];
        for (index, recorded) in self.builder.roots(build).await? {
            let digest = recorded.digest.parse();
            let digest = digest.map_err(|error| Status::internal(format!("the builder's history: {error}")))?;
            let root = match &merged {
                // The answer's own is more complete: it has the platform.
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
                *place = Some(Made { root, config });
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

/// What an exporter that is not ours answered, as far as the merged map hides it.
fn archive_or_push(exporter: &Exporter, made: &Made) -> Keys {
    match exporter.kind.as_str() {
        // These give names in full, like a load; one that they refused has failed the build already.
        "oci" | "docker" => {
            let names: Vec<_> = split_names(exporter).filter_map(|name| name.parse().ok()).collect();
            image_keys(exporter, &made.root, made.config.clone(), Some(&names))
        }
        _ => image_keys(exporter, &made.root, made.config.clone(), None),
    }
}

/// The names that an export is to get, in full. Refused as late as the builder's own exporter would: a failing
/// build shall fail for its own reason.
fn names(exporter: &Exporter, answer: &Answer) -> Result<Vec<Reference>, Status> {
    let chosen = answer.chosen_name().map(str::to_owned);
    let names: Vec<String> = match exporter.attrs.get("name").map(String::as_str) {
        Some("*") => chosen.into_iter().filter(|name| name != "*").collect(),
        _ => split_names(exporter).map(str::to_owned).collect(),
    };
    names
        .iter()
        .map(|name| name.parse().map_err(|error| Status::unknown(format!("failed to parse {name}: {error}"))))
        .collect()
}

fn split_names(exporter: &Exporter) -> impl Iterator<Item = &str> {
    exporter.attrs.get("name").map(String::as_str).unwrap_or_default().split(',').filter(|name| !name.is_empty())
}

/// Why one exporter has no result.
enum Failure {
    Export(ExportError),
    Final(Status),
}

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Self {
        Self::Export(error)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Final(status)
    }
}

/// What the client is told. `Unknown` is the code of BuildKit's own export errors; buildx prints just the text.
fn failure(error: &ExportError) -> Status {
    match (error, hint(error)) {
        (ExportError::Cancelled, _) => Status::cancelled(error.to_string()),
        (_, Some(hint)) => Status::unknown(format!("linkspan: {error}; to mend it: {hint}")),
        (_, None) => Status::unknown(format!("linkspan: {error}")),
    }
}

/// What a person can do about it, who knows that the bytes come from a builder.
fn hint(error: &ExportError) -> Option<String> {
    match error {
        ExportError::Engine(EngineError::Corrupt { .. }) => {
            Some("build again; if it stays, the builder's cache is damaged: `docker buildx prune`".to_owned())
        }
        ExportError::Source(SourceError::Read { .. } | SourceError::Length { .. }) => {
            Some("build again; if it stays, look at the builder's log".to_owned())
        }
        _ => error.hint(),
    }
}

fn prefixed(what: &str, status: &Status) -> Status {
    let code = if status.code() == Code::Ok { Code::Unknown } else { status.code() };
    Status::new(code, format!("linkspan: {what} failed: {}", status.message()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Digest;

    #[test]
    fn what_is_damaged_is_the_builders() {
        let corrupt = EngineError::Corrupt { digest: Digest::sha256(b"x"), reason: "it is".to_owned() };
        let export = ExportError::from(corrupt.clone());
        assert!(failure(&export).message().contains("docker buildx prune"));
        assert_eq!((corrupt.hint(), export.hint()), (None, None), "others read from elsewhere");
    }
}
