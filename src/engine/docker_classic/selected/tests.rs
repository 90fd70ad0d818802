use std::collections::HashMap;

use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::image::{Limits, Walk};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Documents and layers by their digests, as a builder would have them.
#[derive(Default)]
struct Blobs(HashMap<Digest, Bytes>);

impl Blobs {
    fn add(&mut self, media_type: &str, value: &Value) -> Value {
        let bytes = Bytes::from(value.to_string());
        let digest = Digest::sha256(&bytes);
        let descriptor = json!({"mediaType": media_type, "digest": digest, "size": bytes.len()});
        self.0.insert(digest, bytes);
        descriptor
    }

    /// An image with a layer for each of `layers`, which are its media type and content.
    fn image(&mut self, platform: &str, layers: &[(&str, &str)]) -> Value {
        let (os, architecture) = platform.split_once('/').unwrap();
        let diff_ids: Vec<_> = layers.iter().map(|(_, content)| Digest::sha256(content.as_bytes())).collect();
        let config =
            json!({"os": os, "architecture": architecture, "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = self.add("application/vnd.oci.image.config.v1+json", &config);
        let layers: Vec<_> = layers.iter().map(|(media_type, content)| self.add(media_type, &json!(content))).collect();
        self.add(
            "application/vnd.oci.image.manifest.v1+json",
            &json!({"schemaVersion": 2, "config": config, "layers": layers}),
        )
    }

    fn index(&mut self, manifests: &[Value]) -> Value {
        self.add("application/vnd.oci.image.index.v1+json", &json!({"schemaVersion": 2, "manifests": manifests}))
    }

    fn selected(&self, root: Value, version: &str) -> Result<SelectedImage, EngineError> {
        let mut walk = Walk::new(serde_json::from_value(root).unwrap(), Limits::default()).unwrap();
        while let Some(pending) = walk.pending().first().map(|pending| pending.digest.clone()) {
            walk.supply(&pending, self.0[&pending].clone()).unwrap();
        }
        SelectedImage::of(&walk.finish().unwrap(), version)
    }
}

fn host() -> String {
    format!("linux/{}", Platform::host().architecture)
}

fn attestation(manifest: &Value) -> Value {
    let mut entry = manifest.clone();
    entry["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    entry["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    entry
}

#[test]
fn of_several_images_the_hosts_is_taken() {
    let mut blobs = Blobs::default();
    let foreign = blobs.image("linux/s390x", &[(LAYER, "foreign")]);
    let own = blobs.image(&host(), &[(LAYER, "own"), (LAYER, "upper")]);
    let proof = blobs.image("unknown/unknown", &[("application/vnd.in-toto+json", "proof")]);
    let root = blobs.index(&[foreign, attestation(&proof), own]);
    let selected = blobs.selected(root, "29.7.2").unwrap();
    assert_eq!(selected.layers.len(), 2);
    assert_eq!(selected.layers[0].diff_id, Digest::sha256(b"own"));
    assert_eq!(selected.layers[0].chain, selected.layers[0].diff_id);
    assert_ne!(selected.layers[1].chain, selected.layers[1].diff_id);
}

#[test]
fn the_only_image_is_taken_whatever_it_runs_on() {
    let mut blobs = Blobs::default();
    let foreign = blobs.image("linux/s390x", &[(LAYER, "foreign")]);
    assert!(blobs.selected(foreign.clone(), "29.7.2").is_ok());
    let proof = blobs.image("unknown/unknown", &[("application/vnd.in-toto+json", "proof")]);
    let root = blobs.index(&[foreign, attestation(&proof)]);
    assert!(blobs.selected(root, "29.7.2").is_ok());
}

#[test]
fn what_docker_cannot_hold_is_refused_with_the_reason() {
    let mut blobs = Blobs::default();
    let (s390x, riscv) = (blobs.image("linux/s390x", &[(LAYER, "a")]), blobs.image("linux/riscv64", &[(LAYER, "b")]));
    let neither = blobs.index(&[s390x, riscv]);
    let windows = blobs.image("windows/amd64", &[(LAYER, "a")]);
    let nothing = blobs.index(&[]);
    let encrypted = blobs.image(&host(), &[("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "a")]);
    let wasm = blobs.image(&host(), &[("application/wasm", "a")]);
    for (root, version, reason) in [
        (neither, "29.7.2", "only for linux/s390x, linux/riscv64"),
        (windows, "29.7.2", "it is for windows/amd64"),
        (nothing, "29.7.2", "no container image"),
        (encrypted, "29.7.2", "no layer that docker knows"),
        (wasm, "29.7.2", "no layer that docker knows"),
    ] {
        let error = blobs.selected(root, version).unwrap_err();
        assert!(matches!(error, EngineError::Unsuitable { .. }) && error.to_string().contains(reason), "{error}");
    }
}

#[test]
fn an_old_docker_cannot_read_zstd_but_may_have_it() {
    let mut blobs = Blobs::default();
    let zstd = "application/vnd.oci.image.layer.v1.tar+zstd";
    let root = blobs.image(&host(), &[(zstd, "a")]);
    let missing = |version: &str, present: bool| blobs.selected(root.clone(), version).unwrap().missing(|_| present);
    assert!(missing("20.10.24+dfsg1", false).unwrap_err().to_string().contains("compression=gzip"));
    assert_eq!(missing("20.10.24+dfsg1", true).unwrap(), []);
    assert_eq!(missing("23.0.0", false).unwrap().len(), 1);
}

#[test]
fn a_blob_is_sent_once_and_if_any_of_its_places_needs_it() {
    let mut blobs = Blobs::default();
    let root = blobs.image(&host(), &[(LAYER, "twice"), (LAYER, "a longer one"), (LAYER, "twice")]);
    let selected = blobs.selected(root, "29.7.2").unwrap();
    let sizes = |present: usize| -> Vec<u64> {
        selected.missing(|at| at < present).unwrap().iter().map(|blob| blob.size).collect()
    };
    let (short, long) = (selected.layers[0].blob.size, selected.layers[1].blob.size);
    assert_eq!(sizes(0), [long, short]);
    assert_eq!(sizes(1), [long, short], "it is below another layer the second time");
    assert_eq!(sizes(2), [short]);
    assert_eq!(sizes(3), [0; 0]);
}

#[test]
fn a_layer_that_is_kept_elsewhere_must_be_there() {
    let mut blobs = Blobs::default();
    let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let root = blobs.image(&host(), &[(foreign, "a"), (LAYER, "b")]);
    let selected = blobs.selected(root, "29.7.2").unwrap();
    assert_eq!(selected.missing(|at| at < 1).unwrap().len(), 1);
    assert!(selected.missing(|_| false).unwrap_err().to_string().contains("kept elsewhere"));
}
