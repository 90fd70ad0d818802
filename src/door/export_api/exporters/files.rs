//! `tar` and `local`: the files of an image, its layers laid over each other.

use std::sync::Arc;

use async_trait::async_trait;

use super::archive::absent;
use super::dest::{self, Left};
use super::{Exporter, Job, Success, attribute, response};
use crate::engine::Identity;
use crate::export::ExportError;
use crate::export_v1::ApiError;
use crate::export_v1::proto::{AttributeKind, ExporterType, NameUse, OutputKind};
use crate::output::Output as _;
use crate::output::rootfs::{Limits, Options, Rootfs};
use crate::progress::{Event, State};

/// The files as a tar stream, or as a folder of the server.
#[derive(Debug)]
pub(super) struct Files {
    /// Whether it is the type `tar`: with `dest` it leaves one file, and `local` leaves a folder.
    pub(super) is_tar: bool,
}

const SPLIT: &str = "platform-split";
const EPOCH: &str = "source-date-epoch";

#[async_trait]
impl Exporter for Files {
    fn describe(&self, _engine: &Identity) -> ExporterType {
        let (name, documentation) = if self.is_tar {
            ("tar", "Makes a tar archive of the files that a container of the image begins with.")
        } else {
            (
                "local",
                "Leaves the files that a container of the image begins with in a folder of the server, or makes a tar \
                 stream of them to be unpacked by whoever reads it.",
            )
        };
        ExporterType {
            name: name.to_owned(),
            documentation: documentation.to_owned(),
            output: OutputKind::Files.into(),
            names: NameUse::Unused.into(),
            attributes: vec![
                dest::describe(),
                attribute(
                    SPLIT,
                    AttributeKind::Boolean,
                    "",
                    "Whether the files of each platform are in a folder of its own, such as `linux_arm64`. By default \
                     they are if there are several platforms.",
                    &[],
                ),
                attribute(
                    EPOCH,
                    AttributeKind::Number,
                    "",
                    "The time, in seconds since 1970, that every file gets instead of its own.",
                    &[],
                ),
            ],
            repeatable: true,
        }
    }

    async fn run(&self, job: Job) -> Result<Success, ApiError> {
        let is_tar = self.is_tar;
        let rootfs = job.cancel.run_until_cancelled(plan(&job)).await.unwrap_or(Err(ExportError::Cancelled.into()))?;
        let response = response(&job.root, &job.graph, &[]);
        let source = job.exports.engine().images()?;
        let output = match job.attributes.get(dest::KEY) {
            Some(path) => {
                let size = rootfs.size();
                let left = || match is_tar {
                    true => Left::File(rootfs.read(source, 0)),
                    false => Left::Folder(rootfs.items(source)),
                };
                dest::leave(&job, path, size, left).await?;
                None
            }
            None => Some(job.outputs.keep(rootfs)?),
        };
        job.events.emit(Event::State(State::Committed));
        Ok(Success { response, names: Vec::new(), output })
    }
}

/// Reads the layers for the first time.
async fn plan(job: &Job) -> Result<Arc<Rootfs>, ApiError> {
    let absent = absent(job).await?;
    let options = Options {
        platform_split: job.attributes.get(SPLIT).map(|split| split == "true"),
        epoch: job.attributes.get(EPOCH).and_then(|epoch| epoch.parse().ok()),
    };
    let _turn = job.outputs.turn(&job.events).await?;
    let source = job.exports.engine().images()?;
    Ok(Arc::new(Rootfs::new(&*source, &job.graph, &absent, options, Limits::default()).await?))
}
