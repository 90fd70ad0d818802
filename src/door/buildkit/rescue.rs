//! Loads of a build that failed because another of its outputs failed: they are built and exported again.

use tonic::{Code, Status};

use super::exporters::Exporter;
use super::load::Load;
use super::progress::{Display, Placement};
use super::rebuild::once;
use super::response::BuildResponse;

impl Load {
    /// Exports the images of a build that failed with `code`. The builder pushes and writes caches after all its
    /// exporters are done, when a load of its own would have reached the engine. If another exporter failed, the
    /// builder keeps no exporter's result (BuildKit `solver/llbsolver/export.go`, `runExporters`), so the image is
    /// built again. The client gets only the builder's error.
    pub(super) async fn rescue(&self, code: Code) {
        let record = match self.builder.record(&self.solve.build).await {
            Ok(record) => record,
            Err(status) => {
                return tracing::debug!(build = %self.build.id(), %status, "nothing is known of a failed build");
            }
        };
        // Outputs that are not loads have failed or are done.
        let again: Vec<_> = self.loads().map(|load| load.unwrap_or_else(|| self.any_load()).clone()).collect();
        let displays =
            self.displays(Placement::AfterBuild, |index| record.roots.iter().any(|(made, _)| *made == index));
        let rescued = if displays.iter().flatten().next().is_some() {
            tracing::info!(build = %self.build.id(), "the build failed when its image was made; that is exported");
            self.export(&self.solve.build, BuildResponse::default(), &displays, &again, None).await.map(drop)
        } else if record.is_built && code != Code::Cancelled && self.can_be_made_again() {
            tracing::info!(build = %self.build.id(), "another output failed before the image was made; that is made again");
            self.make_again(&self.displays(Placement::AfterBuild, |_| true), &again).await
        } else {
            return;
        };
        if let Err(status) = rescued {
            tracing::warn!(build = %self.build.id(), error = status.message(), "the image of a failed build is not exported");
        }
    }

    /// Whether a repetition helps, which it does not if a load itself failed, and is cheap, which it is not if the
    /// build does not use the cache.
    fn can_be_made_again(&self) -> bool {
        let recording = self.build.recording();
        self.loads().any(|load| load.is_none()) && !(self.solve.is_uncached || recording.is_uncached())
    }

    /// Repeats the build for its loads alone, and exports their images.
    async fn make_again(&self, displays: &[Option<Display>], again: &[Exporter]) -> Result<(), Status> {
        for display in displays.iter().flatten() {
            display.note("waiting for the builder to make the image again, because another output failed");
        }
        let repeated =
            once(&self.builder, &self.solve, again, &self.build.recording()).await.inspect_err(|status| {
                displays.iter().flatten().for_each(|display| display.fail(status.message()));
            })?;
        let exported = self.export(&repeated.build, repeated.response, displays, again, None).await;
        self.forget(&repeated.build).await;
        exported.map(drop)
    }
}
