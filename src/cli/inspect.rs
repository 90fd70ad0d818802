//! `linkspan inspect`.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value, json};

use super::settings::TargetSettings;
use super::{CommandError, block_on, engine, output};
use crate::engine::images::Images;
use crate::image::{Descriptor, Document, Graph, Manifest, View};

/// The annotation of an attestation with what it says of (BuildKit `attestation-storage.md`).
const REFERENCE: &str = "vnd.docker.reference.digest";
/// The annotation of a statement with what kind it is (ibid.).
const PREDICATE: &str = "in-toto.io/predicate-type";

/// Prints one JSON document about an image: platforms, layers, annotations and attestations.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Inspect {
    /// Its name, its digest, or the beginning of that
    #[arg(value_name = "REF")]
    reference: String,

    #[command(flatten)]
    target: TargetSettings,
}

const EXAMPLES: &str = "\
Examples:
  linkspan inspect demo | jq '.images[].layers[].size'
  linkspan inspect --engine containerd --namespace k8s.io registry.example/app:1
  linkspan inspect --to unix:///run/linkspan/export.sock demo";

impl Inspect {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let (_, target) = engine::target(self.target)?;
        block_on(async {
            let (engine, images) = engine::images(&target).await?;
            let root = engine::resolve(&*engine, &*images, &self.reference).await?;
            let graph = engine::graph(&*images, root).await?;
            let described = describe(&self.reference, &graph, &*images).await?;
            output::print(&serde_json::to_string_pretty(&described)?)?;
            Ok(ExitCode::SUCCESS)
        })?
    }
}

async fn describe(reference: &str, graph: &Graph, images: &dyn Images) -> Result<Value, CommandError> {
    let mut entries: Vec<&Descriptor> = Vec::new();
    for document in graph.documents() {
        if let View::Index(index) = &document.view {
            entries.extend(&index.manifests);
        }
    }
    // A single image has no entry, and thus nothing that an entry says.
    let root = graph.root();
    if entries.is_empty() {
        entries.push(root);
    }
    let mut described = Vec::new();
    for entry in entries.iter().filter(|entry| !entry.is_attestation()) {
        let Some(document) = graph.document(&entry.digest) else { continue };
        let View::Manifest(manifest) = &document.view else { continue };
        let attestations = entries.iter().filter(|other| {
            other.is_attestation() && other.annotations.get(REFERENCE).is_some_and(|of| *of == entry.digest.as_str())
        });
        let attestations: Vec<_> = attestations.filter_map(|other| attestation(graph, other)).collect();
        described.push(image(graph, entry, document, manifest, attestations, images).await?);
    }
    let document = graph.document(&root.digest);
    Ok(json!({
        "reference": reference,
        "digest": root.digest, "mediaType": root.media_type, "size": root.size,
        "annotations": document.map(annotations).unwrap_or_default(),
        "blobs": graph.blobs(), "blobBytes": graph.bytes(),
        "images": described,
    }))
}

async fn image(
    graph: &Graph,
    entry: &Descriptor,
    document: &Document,
    manifest: &Manifest,
    attestations: Vec<Value>,
    images: &dyn Images,
) -> Result<Value, CommandError> {
    let config = match graph.document(&manifest.config.digest).map(|document| &document.view) {
        Some(View::Config(config)) => Some(config),
        _ => None,
    };
    let diff_ids = config.map(|config| &config.rootfs.diff_ids[..]).unwrap_or_default();
    let (mut layers, mut complete) = (Vec::new(), true);
    for (at, layer) in manifest.layers.iter().enumerate() {
        let present = images.size(&layer.digest).await? == Some(layer.size);
        complete &= present;
        layers.push(json!({
            "digest": layer.digest, "mediaType": layer.media_type, "size": layer.size,
            "diffId": diff_ids.get(at), "annotations": layer.annotations, "present": present,
        }));
    }
    let platform = entry.platform.as_ref().or(config.map(|config| &config.platform));
    Ok(json!({
        "digest": entry.digest, "mediaType": entry.media_type, "size": entry.size,
        "platform": platform, "platformName": platform.map(ToString::to_string),
        "config": {"digest": manifest.config.digest, "mediaType": manifest.config.media_type, "size": manifest.config.size},
        "layers": layers, "complete": complete,
        "descriptorAnnotations": entry.annotations, "annotations": annotations(document),
        "attestations": attestations,
    }))
}

fn attestation(graph: &Graph, entry: &Descriptor) -> Option<Value> {
    let View::Manifest(manifest) = &graph.document(&entry.digest)?.view else { return None };
    let statement = |layer: &Descriptor| {
        json!({"digest": layer.digest, "mediaType": layer.media_type, "size": layer.size,
            "predicateType": layer.annotations.get(PREDICATE)})
    };
    let statements: Vec<_> = manifest.layers.iter().map(statement).collect();
    Some(json!({"digest": entry.digest, "size": entry.size, "statements": statements}))
}

/// The annotations that an index or manifest has of its own.
fn annotations(document: &Document) -> Map<String, Value> {
    #[derive(serde::Deserialize)]
    struct Annotated {
        #[serde(default)]
        annotations: Option<Map<String, Value>>,
    }
    let read = serde_json::from_slice::<Annotated>(&document.bytes).ok();
    read.and_then(|document| document.annotations).unwrap_or_default()
}
