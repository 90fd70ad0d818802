//! Programs that embed Linkspan: everything that it takes to export an image is in `embed/program.rs`; the others are those of
//! the crate's documentation.
#![allow(clippy::unwrap_used, reason = "tests state what they expect by failing loudly")]
#![allow(unreachable_pub, clippy::print_stdout, reason = "as a program would have them")]

#[path = "embed/copy.rs"]
mod copy;
#[path = "embed/layout.rs"]
mod layout;
#[path = "embed/own_programs.rs"]
mod own_programs;
#[path = "embed/packaged.rs"]
mod packaged;
#[path = "embed/program.rs"]
mod program;
#[path = "embed/serve.rs"]
mod serve;

use std::collections::HashMap;
use std::fs;

use bytes::Bytes;
use linkspan::image::{Descriptor, Digest};
use serde_json::json;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn keep(blobs: &mut HashMap<Digest, Bytes>, media_type: &str, bytes: Vec<u8>) -> Descriptor {
    let digest = Digest::sha256(&bytes);
    let descriptor = Descriptor::new(media_type, digest.clone(), bytes.len() as u64);
    blobs.insert(digest, bytes.into());
    descriptor
}

/// An artifact, because its layer can be anything; the result is its root.
fn artifact(blobs: &mut HashMap<Digest, Bytes>) -> Descriptor {
    let layer = keep(blobs, "text/plain", b"cargo".to_vec());
    let config = keep(blobs, "application/vnd.oci.empty.v1+json", b"{}".to_vec());
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]});
    keep(blobs, MANIFEST, serde_json::to_vec(&manifest).unwrap())
}

#[tokio::test]
async fn it_exports_an_image_into_a_folder() {
    let mut blobs = HashMap::new();
    let root = artifact(&mut blobs);
    let folder = tempfile::tempdir().unwrap();
    let outcome = program::export(folder.path(), root.clone(), program::Memory(blobs)).await.unwrap();
    assert_eq!((outcome.sent_blobs, outcome.present_blobs), (3, 0));
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.path().join("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"][0]["digest"], root.digest.as_str());
}

#[test]
fn it_is_short() {
    let lines = include_str!("embed/program.rs").lines().filter(|line| !line.is_empty() && !line.starts_with("//"));
    let lines = lines.count();
    assert!(lines < 30, "{lines} lines");
}
