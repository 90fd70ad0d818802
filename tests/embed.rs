//! A program that embeds Linkspan: everything that it takes to export an image is in `embed/program.rs`.
#![allow(clippy::unwrap_used, reason = "tests state what they expect by failing loudly")]

#[path = "embed/program.rs"]
mod program;

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

#[tokio::test]
async fn it_exports_an_image_into_a_folder() {
    let mut blobs = HashMap::new();
    // An artifact, because its layer can be anything.
    let layer = keep(&mut blobs, "text/plain", b"cargo".to_vec());
    let config = keep(&mut blobs, "application/vnd.oci.empty.v1+json", b"{}".to_vec());
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]});
    let root = keep(&mut blobs, MANIFEST, serde_json::to_vec(&manifest).unwrap());
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
