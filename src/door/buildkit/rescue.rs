//! Loads of a build that failed because another of its outputs did: they are built and exported again.

use tonic::{Code, Status};

use super::exporters::Exporter;
use super::load::Load;
use super::progress::Display;
use super::rebuild::once;
use super::response::BuildResponse;

impl Load<'_> {
    /// Exports what the builder made although it failed, and said so with `code`: it pushes, and writes caches, when all its
    /// exporters are done, and by then a load of its own would have reached the engine. Where another exporter failed, it
    /// keeps what none of them made (BuildKit `solver/llbsolver/export.go`, `runExporters`), so it makes the image again.
    /// The client is told of the builder's failure alone.
    pub(super) async fn rescue(&self, code: Code) {
        let record = match self.builder.record(&self.solve.build).await {
            Ok(record) => record,
            Err(status) => {
                return tracing::debug!(build = %self.build.id, %status, "nothing is known of a failed build");
            }
        };
        // What is not a load has failed, or is done.
        let again: Vec<_> = self.loads().map(|load| load.unwrap_or_else(|| self.any_load()).clone()).collect();
        let displays = self.displays(|index| record.roots.iter().any(|(made, _)| *made == index));
        let rescued = if displays.iter().flatten().next().is_some() {
            tracing::info!(build = %self.build.id, "the build failed when its image was made; that is exported");
            self.export(&self.solve.build, BuildResponse::default(), &displays, &again).await.map(drop)
        } else if record.is_built && code != Code::Cancelled && self.can_be_made_again() {
            tracing::info!(build = %self.build.id, "another output failed before the image was made; that is made again");
            self.make_again(&self.displays(|_| true), &again).await
        } else {
            return;
        };
        if let Err(status) = rescued {
            tracing::warn!(build = %self.build.id, error = status.message(), "the image of a failed build is not exported");
        }
    }

    /// Whether a repetition helps, which a load that failed itself does not need, and costs little, which is not so
    /// where the steps of a build come from no cache.
    fn can_be_made_again(&self) -> bool {
        let recording = self.build.recording();
        self.loads().any(|load| load.is_none()) && !(self.solve.is_uncached || recording.is_uncached())
    }

    /// Runs the build again for its loads alone, and exports what they make.
    async fn make_again(&self, displays: &[Option<Display>], again: &[Exporter]) -> Result<(), Status> {
        for display in displays.iter().flatten() {
            display.note("waiting for the builder to make the image again, because another output failed");
        }
        let repeated = once(self.builder, &self.solve, again, &self.build.recording()).await.inspect_err(|status| {
            displays.iter().flatten().for_each(|display| display.fail(status.message()));
        })?;
        let exported = self.export(&repeated.build, repeated.answer, displays, again).await;
        self.forget(&repeated.build).await;
        exported.map(drop)
    }
}
