//! The commands on images: `load`, `images`, `manifest`, `config`, `digest`, beside the tools whose habits they have.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests state what they expect by failing loudly")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../engine/fixture.rs"]
#[allow(dead_code, reason = "made for the tests of engines with a daemon")]
mod fixture;

mod broken;
mod duplicate_members;
mod engines;
mod equal_layers;
mod interrupted;
mod load;
mod names;
mod ps;
mod read;
mod registries;
mod remote;
mod save;
mod silent;
mod ssh;
mod terminal;
mod usage;

use std::fs;
use std::path::Path;

use common::{Run, linkspan, text};
use fixture::{Image, image};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The program on the layout `folder`.
fn on(folder: &TempDir, args: &[&str]) -> Run {
    linkspan(args.iter().copied()).args(["--engine", "layout", "--layout", text(folder.path())])
}

/// An image that runs and is like no other.
/// `images` as a layout folder, each with the annotations that are said.
fn layout(folder: &Path, images: &[(&Image, Value)]) {
    let entries: Vec<_> = images
        .iter()
        .map(|(image, annotations)| {
            let root = &image.root;
            json!({"mediaType": root.media_type, "digest": root.digest, "size": root.size, "annotations": annotations})
        })
        .collect();
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    for (digest, bytes) in images.iter().flat_map(|(image, _)| &image.blobs) {
        fs::write(blobs.join(digest.hex()), bytes).unwrap();
    }
    fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let index = json!({"schemaVersion": 2, "manifests": entries});
    fs::write(folder.join("index.json"), index.to_string()).unwrap();
}

/// The same as an archive.
fn archive(images: &[(&Image, Value)]) -> tempfile::NamedTempFile {
    let folder = tempfile::tempdir().unwrap();
    layout(folder.path(), images);
    archive_of(folder.path())
}

/// A folder as an archive.
fn archive_of(folder: &Path) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    Run::new("tar").arg("-C").arg(folder).arg("-cf").arg(file.path()).arg(".").ok();
    file
}

fn named(name: &str) -> Value {
    json!({"io.containerd.image.name": name})
}

/// The images of the layout `folder`, by what the program says: name and digest.
fn listed(folder: &TempDir) -> Vec<(String, String)> {
    let lines = on(folder, &["images", "--json"]).ok().stdout;
    let pair = |line: &str| {
        let image: Value = serde_json::from_str(line).unwrap();
        let text = |key: &str| image[key].as_str().unwrap_or_default().to_owned();
        (text("name"), text("digest"))
    };
    lines.lines().map(pair).collect()
}
