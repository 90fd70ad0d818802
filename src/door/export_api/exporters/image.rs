//! `image`: a record in the engine.

use async_trait::async_trait;

use super::{Exporter, IMAGE, Job, Success, attribute, response};
use crate::engine::{EngineKind, Identity, UnpackFor};
use crate::export::Request;
use crate::export_v1::ApiError;
use crate::export_v1::proto::{AttributeKind, ExporterType, NameUse, OutputKind};
use crate::image::Reference;

/// Sets names in the engine, or records an image without one.
#[derive(Debug)]
pub(super) struct Image;

#[async_trait]
impl Exporter for Image {
    fn describe(&self, engine: &Identity) -> ExporterType {
        // dockerd unpacks whatever it loads, a layout and a bucket nothing.
        let unpack = match engine.kind {
            EngineKind::Containerd => &["true", "false"][..],
            EngineKind::Layout | EngineKind::Object => &["false"],
            _ => &["true"],
        };
        ExporterType {
            name: IMAGE.to_owned(),
            documentation: "Makes the image visible in the engine, under its names or, without any, by its digest."
                .to_owned(),
            output: OutputKind::Record.into(),
            names: NameUse::Optional.into(),
            attributes: vec![
                attribute("name", AttributeKind::List, "", "Names to set, beside those of Commit.", &[]),
                attribute(
                    "name-canonical",
                    AttributeKind::Boolean,
                    "false",
                    "Also sets each name with the digest of the root, as in `demo@sha256:…`.",
                    &[],
                ),
                attribute(
                    "unpack",
                    AttributeKind::Boolean,
                    unpack[0],
                    "Unpacks the image of this machine's platform before it becomes visible.",
                    unpack,
                ),
            ],
            repeatable: true,
        }
    }

    async fn run(&self, job: Job) -> Result<Success, ApiError> {
        let mut names = job.names;
        if job.attributes.get("name-canonical").is_some_and(|value| value == "true") {
            let canonical: Vec<Reference> = names
                .iter()
                .filter(|name| name.digest().is_none())
                .filter_map(|name| format!("{}@{}", name.name(), job.root.digest).parse().ok())
                .filter(|name| !names.contains(name))
                .collect();
            names.extend(canonical);
        }
        let is_unpacked = job.attributes.get("unpack").is_none_or(|value| value != "false");
        let unpack = if is_unpacked { UnpackFor::Commit } else { UnpackFor::Nobody };
        let request =
            Request { unpack, received: job.received, ..Request::new(job.root.clone(), names.clone(), job.origin) };
        let response = response(&job.root, &job.graph, &names);
        job.exports.commit(request, job.graph, job.lease, job.events, job.cancel).await?;
        Ok(Success { response, names, output: None })
    }
}
