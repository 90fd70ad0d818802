//! `image`: a record in the engine.

use futures_util::future::BoxFuture;

use super::{Exporter, Job, Success};
use crate::door::export_api::proto::{Attribute, AttributeKind, ExporterType, NameUse, OutputKind};
use crate::door::export_api::refusal::Refusal;
use crate::engine::Identity;
use crate::export::Request;
use crate::export::response::image_response;
use crate::image::{Reference, View};

/// Sets names in the engine, or records an image without one.
#[derive(Debug)]
pub(super) struct Image;

impl Exporter for Image {
    fn describe(&self, engine: &Identity) -> ExporterType {
        // dockerd unpacks whatever it loads, and a layout nothing.
        let unpack = match engine.kind {
            "containerd" => &["true", "false"][..],
            "layout" => &["false"],
            _ => &["true"],
        };
        ExporterType {
            name: "image".to_owned(),
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

    fn run(&self, job: Job) -> BoxFuture<'static, Result<Success, Refusal>> {
        Box::pin(async move {
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
            if job.attributes.get("unpack").is_some_and(|value| value == "false") {
                job.ingest.skip_unpack();
            }
            let request = Request { root: job.root.clone(), names: names.clone(), origin: job.origin };
            let config = match job.graph.document(&job.root.digest).map(|document| &document.view) {
                Some(View::Manifest(manifest)) => Some(manifest.config.digest.to_string()),
                _ => None,
            };
            job.exports.commit(request, job.graph, job.ingest, job.events, job.cancel).await?;
            let texts: Vec<_> = names.iter().map(ToString::to_string).collect();
            let response = image_response(&job.root, config, (!texts.is_empty()).then(|| texts.join(",")));
            Ok(Success { response, names })
        })
    }
}

fn attribute(key: &str, kind: AttributeKind, default: &str, documentation: &str, values: &[&str]) -> Attribute {
    Attribute {
        key: key.to_owned(),
        kind: kind.into(),
        default_value: default.to_owned(),
        documentation: documentation.to_owned(),
        values: values.iter().map(|&value| value.to_owned()).collect(),
    }
}
