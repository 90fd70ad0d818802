//! `oci` and `docker`: the image as one tar archive, read with ReadOutput or left in a folder of the server.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;

use super::dest::{self, Left};
use super::{Exporter, Job, Success, attribute, response};
use crate::engine::Identity;
use crate::export_v1::ApiError;
use crate::export_v1::proto::{AttributeKind, ExporterType, NameUse, OutputKind};
use crate::image::{Digest, Kind};
use crate::output::Output;
use crate::output::archive::{Archive as Plan, ArchiveFormat};
use crate::progress::{Event, State};

/// Plans an archive of what the export holds. Its bytes are made while they are read.
#[derive(Debug)]
pub(super) struct Archive(pub(super) ArchiveFormat);

#[async_trait]
impl Exporter for Archive {
    fn describe(&self, _engine: &Identity) -> ExporterType {
        let (name, documentation) = match self.0 {
            ArchiveFormat::Oci => ("oci", "Makes an archive of an OCI image layout, of any number of platforms."),
            ArchiveFormat::Docker | ArchiveFormat::Save => {
                ("docker", "Makes an archive for docker load, of an image of one platform.")
            }
        };
        ExporterType {
            name: name.to_owned(),
            documentation: documentation.to_owned(),
            output: OutputKind::Archive.into(),
            names: NameUse::Optional.into(),
            attributes: vec![
                attribute("name", AttributeKind::List, "", "Names in the archive, beside those of Commit.", &[]),
                attribute(
                    "tar",
                    AttributeKind::Boolean,
                    "true",
                    "Whether it is one tar archive; `false` leaves an OCI image layout in the folder `dest`.",
                    &[],
                ),
                dest::describe(),
            ],
            repeatable: true,
        }
    }

    async fn run(&self, job: Job) -> Result<Success, ApiError> {
        let format = self.0;
        let absent = absent(&job).await?;
        let plan = Plan::new(&job.graph, &job.names, format, &absent)
            .map_err(|error| ApiError::field("root", error.to_string()))?;
        let plan = Arc::new(plan);
        let output = match job.attributes.get(dest::KEY) {
            Some(path) => {
                let source = job.exports.engine().images()?;
                let is_tar = job.attributes.get("tar").is_none_or(|tar| tar == "true");
                let size = plan.size();
                let left = || match is_tar {
                    true => Left::File(plan.read(source, 0)),
                    false => Left::Folder(plan.items(source)),
                };
                dest::leave(&job, path, size, left).await?;
                None
            }
            None => Some(plan as Arc<dyn Output>),
        };
        job.events.emit(Event::State(State::Committed));
        let response = response(&job.root, &job.graph, &job.names);
        Ok(Success { response, names: job.names, output })
    }
}

/// The foreign layers that the engine does not hold.
pub(super) async fn absent(job: &Job) -> Result<HashSet<Digest>, ApiError> {
    let images = job.exports.engine().images()?;
    let mut absent = HashSet::new();
    for layer in job.graph.leaves().iter().filter(|leaf| leaf.kind() == Kind::ForeignLayer) {
        if images.size(&layer.digest).await?.is_none() {
            absent.insert(layer.digest.clone());
        }
    }
    Ok(absent)
}
