//! The exporter types: what each is, and what it does. A new one is added to [`all`], and nowhere else.

mod archive;
mod dest;
mod files;
mod image;

use std::collections::{BTreeMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::outputs::Outputs;
use crate::engine::{Identity, Lease, Origin};
use crate::export::response::image_response;
use crate::export::{Exports, Rights};
use crate::export_v1::ApiError;
use crate::export_v1::proto::{self, Attribute, AttributeKind, ExporterType, NameUse, Reason};
use crate::image::{Descriptor, Digest, Graph, Reference, View};
use crate::output::Output;
use crate::output::archive::ArchiveFormat;
use crate::output::folder::Folders;
use crate::progress::Events;

/// The type that makes an image of the engine.
pub(super) const IMAGE: &str = "image";

/// One type of exporter.
#[async_trait]
pub(super) trait Exporter: Debug + Send + Sync {
    /// What it is with this engine; the name never changes.
    fn describe(&self, engine: &Identity) -> ExporterType;

    /// Exports one image. What fails leaves nothing visible.
    async fn run(&self, job: Job) -> Result<Success, ApiError>;
}

/// Every type that this server has.
pub(super) fn all() -> [&'static dyn Exporter; 5] {
    [
        &image::Image,
        &archive::Archive(ArchiveFormat::Oci),
        &archive::Archive(ArchiveFormat::Docker),
        &files::Files { is_tar: true },
        &files::Files { is_tar: false },
    ]
}

/// The type called `kind`.
pub(super) fn find(kind: &str, engine: &Identity) -> Option<&'static dyn Exporter> {
    all().into_iter().find(|exporter| exporter.describe(engine).name == kind)
}

/// What one exporter is to do.
#[derive(Debug)]
pub(super) struct Job {
    /// The exporter's id and its type.
    pub(super) id: String,
    pub(super) kind: String,
    pub(super) exports: Arc<Exports>,
    pub(super) outputs: Arc<Outputs>,
    /// What keeps the blobs of the export.
    pub(super) lease: Arc<dyn Lease>,
    /// The image; every blob of it is in the scope.
    pub(super) graph: Arc<Graph>,
    /// Its root, with the annotations of Commit.
    pub(super) root: Descriptor,
    /// The names to set: those of Commit and of the attributes, each once.
    pub(super) names: Vec<Reference>,
    /// The attributes that were given.
    pub(super) attributes: BTreeMap<String, String>,
    pub(super) origin: Origin,
    /// Blobs that the client has sent.
    pub(super) received: HashSet<Digest>,
    pub(super) events: Events,
    pub(super) cancel: CancellationToken,
}

/// The response of an exporter.
#[derive(Debug, Clone)]
pub(super) struct Success {
    pub(super) response: BTreeMap<String, String>,
    pub(super) names: Vec<Reference>,
    /// What can be read with ReadOutput now.
    pub(super) output: Option<Arc<dyn Output>>,
}

/// The response of an exporter of images for `root` under `names`.
fn response(root: &Descriptor, graph: &Graph, names: &[Reference]) -> BTreeMap<String, String> {
    let config = match graph.document(&root.digest).map(|document| &document.view) {
        Some(View::Manifest(manifest)) => Some(manifest.config.digest.to_string()),
        _ => None,
    };
    let texts: Vec<_> = names.iter().map(ToString::to_string).collect();
    image_response(root, config, (!texts.is_empty()).then(|| texts.join(",")))
}

/// Adds everything that is wrong with the exporters of an Open to `wrong`.
pub(super) fn check(
    exporters: &[proto::Exporter],
    engine: &Identity,
    policy: &Rights<'_>,
    folders: &Folders,
    wrong: &mut Vec<(String, String)>,
) -> Result<(), ApiError> {
    let types: Vec<_> = all().into_iter().map(|exporter| exporter.describe(engine)).collect();
    for (at, exporter) in exporters.iter().enumerate() {
        if !is_id(&exporter.id) {
            wrong.push((format!("exporters[{at}].id"), "expected 1 to 64 characters of [a-zA-Z0-9._-]".to_owned()));
        } else if exporters[..at].iter().any(|earlier| earlier.id == exporter.id) {
            wrong.push((format!("exporters[{at}].id"), format!("`{}` is the id of an earlier one", exporter.id)));
        }
        let Some(kind) = types.iter().find(|kind| kind.name == exporter.r#type) else {
            return Err(unknown(at, &exporter.r#type, &types));
        };
        for (key, value) in &exporter.attributes {
            if let Err(what) = check_attribute(kind, key, value) {
                wrong.push((format!("exporters[{at}].attributes[{key}]"), what));
            }
        }
        if kind.attributes.iter().any(|attribute| attribute.key == dest::KEY) {
            dest::check(&format!("exporters[{at}]"), &exporter.attributes, folders, wrong)?;
        }
        if let Some(names) = exporter.attributes.get("name") {
            match names_of(names) {
                Ok(names) => policy.check(&names)?,
                Err(what) => wrong.push((format!("exporters[{at}].attributes[name]"), what)),
            }
        }
    }
    Ok(())
}

fn unknown(at: usize, kind: &str, types: &[ExporterType]) -> ApiError {
    let available: Vec<_> = types.iter().map(|kind| kind.name.as_str()).collect();
    let shown: String = kind.chars().take(64).collect();
    let message = format!("there is no exporter type `{shown}` here; available: {}", available.join(", "));
    ApiError {
        violations: vec![(format!("exporters[{at}].type"), message.clone())],
        ..ApiError::new(Code::InvalidArgument, Reason::UnknownExporterType, message)
            .with("available", available.join(","))
    }
}

fn check_attribute(kind: &ExporterType, key: &str, value: &str) -> Result<(), String> {
    let Some(attribute) = kind.attributes.iter().find(|attribute| attribute.key == key) else {
        let known: Vec<_> = kind.attributes.iter().map(|attribute| attribute.key.as_str()).collect();
        return Err(format!("`{}` has no such attribute; expected one of: {}", kind.name, known.join(", ")));
    };
    if attribute.kind() == AttributeKind::Boolean && !matches!(value, "true" | "false") {
        return Err(format!("`{value}` is neither `true` nor `false`"));
    }
    let is_number = |text: &str| text.is_empty() || text.parse::<u32>().is_ok_and(|_| !text.starts_with('+'));
    if attribute.kind() == AttributeKind::Number && !is_number(value) {
        return Err(format!("`{value}` is no whole number of at most {}", u32::MAX));
    }
    if !attribute.values.is_empty() && !attribute.values.iter().any(|allowed| allowed == value) {
        return Err(format!("`{value}` is not offered with this engine; expected: {}", attribute.values.join(", ")));
    }
    Ok(())
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

/// The names in a list with commas, in full.
pub(super) fn names_of(list: &str) -> Result<Vec<Reference>, String> {
    list.split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.parse().map_err(|error| format!("{error}")))
        .collect()
}

/// Whether a type takes so many names.
pub(super) fn check_names(kind: &ExporterType, names: usize) -> Result<(), String> {
    match kind.names() {
        NameUse::Unused if names > 0 => Err(format!("`{}` takes no names", kind.name)),
        NameUse::Required if names == 0 => Err(format!("`{}` needs a name", kind.name)),
        _ => Ok(()),
    }
}

fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}
