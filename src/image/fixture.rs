//! Small images for the tests of this module.

use std::collections::HashMap;

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Descriptor, Digest, Graph, GraphError, Limits, Walk};

pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(super) const FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
pub(super) const IN_TOTO: &str = "application/vnd.in-toto+json";
pub(super) const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// Blobs by their digests: a source for walks.
#[derive(Debug, Default)]
pub(super) struct Store(HashMap<Digest, Bytes>);

impl Store {
    /// Puts a document in and gives its descriptor as JSON, to be put into others.
    pub(super) fn put(&mut self, media_type: &str, document: &Value) -> Value {
        let bytes = Bytes::from(document.to_string());
        let digest = Digest::sha256(&bytes);
        let descriptor = json!({"mediaType": media_type, "digest": digest, "size": bytes.len()});
        self.0.insert(digest, bytes);
        descriptor
    }

    pub(super) fn config(&mut self, os: &str, architecture: &str, layers: usize) -> Value {
        let diff_ids: Vec<_> = (0..layers).map(|n| Digest::sha256(format!("diff {n}").as_bytes())).collect();
        let rootfs = json!({"type": "layers", "diff_ids": diff_ids});
        self.put(CONFIG, &json!({"os": os, "architecture": architecture, "rootfs": rootfs, "history": [{}]}))
    }

    /// An image with as many layers, all of which images for other architectures share.
    pub(super) fn image(&mut self, architecture: &str, layers: usize) -> Value {
        let config = self.config("linux", architecture, layers);
        let layers: Vec<_> = (0..layers).map(|n| leaf(LAYER, n as u64)).collect();
        self.manifest(&config, &layers)
    }

    pub(super) fn manifest(&mut self, config: &Value, layers: &[Value]) -> Value {
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        self.put(MANIFEST, &manifest)
    }

    pub(super) fn index(&mut self, manifests: &[Value]) -> Value {
        self.put(INDEX, &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}))
    }

    pub(super) fn bytes(&self, digest: &Digest) -> Bytes {
        self.0[digest].clone()
    }

    /// Walks the whole graph; of several pending documents `pick` chooses the next.
    pub(super) fn walk_by(
        &self,
        root: &Value,
        limits: Limits,
        mut pick: impl FnMut(usize) -> usize,
    ) -> Result<Graph, GraphError> {
        let mut walk = Walk::new(descriptor(root), limits)?;
        while !walk.pending().is_empty() {
            let digest = walk.pending()[pick(walk.pending().len())].digest.clone();
            walk.supply(&digest, self.bytes(&digest))?;
        }
        walk.finish()
    }

    pub(super) fn walk(&self, root: &Value) -> Result<Graph, GraphError> {
        self.walk_by(root, Limits::default(), |_| 0)
    }
}

/// The descriptor of a blob that no walk reads, of as many bytes.
pub(super) fn leaf(media_type: &str, size: u64) -> Value {
    json!({"mediaType": media_type, "digest": Digest::sha256(format!("leaf {size}").as_bytes()), "size": size})
}

pub(super) fn descriptor(value: &Value) -> Descriptor {
    serde_json::from_value(value.clone()).unwrap()
}

/// The descriptor with one more field.
pub(super) fn with(descriptor: &Value, key: &str, value: Value) -> Value {
    let mut descriptor = descriptor.clone();
    descriptor[key] = value;
    descriptor
}
