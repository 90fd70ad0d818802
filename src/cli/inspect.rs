//! `linkspan inspect`.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::settings::TargetSettings;
use super::{CommandError, block_on, engine, output};
use crate::engine::images::Images;
use crate::image::{Descriptor, Manifest};
use crate::source::tree::{self, Image, PREDICATE, Tree};

/// Prints one JSON document about an image: platforms, layers, annotations and attestations.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct Inspect {
    /// Its name, its digest, or the beginning of that
    #[arg(value_name = "REF")]
    reference: String,

    /// Accepted for likeness with other commands; the output always is JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pub(super) target: TargetSettings,
}

const EXAMPLES: &str = "\
Examples:
  linkspan inspect demo | jq '.images[].layers[].size'
  linkspan inspect --engine containerd --namespace k8s.io \\
    registry.example/app:1
  linkspan inspect --to unix:///run/linkspan/export.sock demo";

impl Inspect {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let Self { reference, json: _, target } = self;
        let (_, target) = engine::target(target)?;
        block_on(engine::reading(&target, async |engine, images| {
            let root = engine::resolve(&*engine, &*images, &reference).await?;
            let tree = engine::tree(&*images, &root).await?;
            let described = describe(&reference, &root, &tree, &*images).await?;
            output::print(&serde_json::to_string_pretty(&described)?)?;
            Ok(ExitCode::SUCCESS)
        }))?
    }
}

async fn describe(reference: &str, root: &Descriptor, tree: &Tree, images: &dyn Images) -> Result<Value, CommandError> {
    let mut described = Vec::new();
    for found in tree.images() {
        described.push(image(tree, found, images).await?);
    }
    let blobs = tree.blobs();
    Ok(json!({
        "reference": reference,
        "digest": root.digest, "mediaType": root.media_type, "size": root.size,
        "annotations": tree.document(&root.digest).map(tree::annotations).transpose()?,
        "blobs": blobs.len(), "blobBytes": blobs.iter().fold(0_u64, |sum, blob| sum.saturating_add(blob.size)),
        "images": described,
    }))
}

/// One image, whether the engine has its documents or not.
async fn image(tree: &Tree, image: Image<'_>, images: &dyn Images) -> Result<Value, CommandError> {
    let entry = image.entry;
    let diff_ids = image.config.map(|config| &config.rootfs.diff_ids[..]).unwrap_or_default();
    let (mut layers, mut complete) = (Vec::new(), image.config.is_some());
    for (at, layer) in image.manifest.iter().flat_map(|(_, manifest)| &manifest.layers).enumerate() {
        let present = images.size(&layer.digest).await? == Some(layer.size);
        complete &= present;
        layers.push(json!({
            "digest": layer.digest, "mediaType": layer.media_type, "size": layer.size,
            "diffId": diff_ids.get(at), "annotations": layer.annotations, "present": present,
        }));
    }
    let config = image.manifest.map(|(_, manifest)| &manifest.config);
    let attestations: Vec<_> = tree.attestations(entry).into_iter().map(attestation).collect();
    Ok(json!({
        "digest": entry.digest, "mediaType": entry.media_type, "size": entry.size,
        "platform": image.platform(), "platformName": image.platform().map(ToString::to_string),
        "config": config.map(|config| json!({"digest": config.digest, "mediaType": config.media_type, "size": config.size})),
        "layers": layers, "complete": complete,
        "descriptorAnnotations": entry.annotations,
        "annotations": image.manifest.map(|(document, _)| tree::annotations(document)).transpose()?.unwrap_or_default(),
        "attestations": attestations,
    }))
}

fn attestation((entry, manifest): (&Descriptor, &Manifest)) -> Value {
    let statement = |layer: &Descriptor| {
        json!({"digest": layer.digest, "mediaType": layer.media_type, "size": layer.size,
            "predicateType": layer.annotations.get(PREDICATE)})
    };
    let statements: Vec<_> = manifest.layers.iter().map(statement).collect();
    json!({"digest": entry.digest, "size": entry.size, "statements": statements})
}
