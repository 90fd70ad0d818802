//! Archives made by hand.

use std::path::{Path, PathBuf};

use linkspan::image::Digest;

use crate::common::{Tar, blob_name};

/// An image by hand: its documents, and layers of one file each.
#[derive(Debug, Clone)]
pub(super) struct Image {
    pub(super) layers: Vec<Vec<u8>>,
    pub(super) config: Vec<u8>,
    pub(super) manifest: Vec<u8>,
}

impl Image {
    /// With a layer for each of `files`.
    pub(super) fn of(files: &[&[u8]]) -> Self {
        let named = files.iter().enumerate().map(|(number, file)| Tar::default().file(&format!("file{number}"), file));
        Self::of_layers(named.map(|tar| tar.end().0).collect())
    }

    /// With these layers.
    pub(super) fn of_layers(layers: Vec<Vec<u8>>) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::sha256(layer)).collect();
        Self::with_diff_ids(layers, &diff_ids, "amd64")
    }

    /// With a config that says anything of the layers.
    pub(super) fn with_diff_ids(layers: Vec<Vec<u8>>, diff_ids: &[Digest], architecture: &str) -> Self {
        let config = serde_json::json!({
            "architecture": architecture, "os": "linux", "config": {"Cmd": ["/file0"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = config.to_string().into_bytes();
        let descriptors: Vec<_> =
            layers.iter().map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar", layer)).collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config), "layers": descriptors,
        });
        Self { layers, config, manifest: manifest.to_string().into_bytes() }
    }

    /// The `index.json` that names it.
    pub(super) fn index(&self, name: &str) -> Vec<u8> {
        self.index_as(&format!("docker.io/library/{name}"))
    }

    /// The same, with the name as it is.
    pub(super) fn index_as(&self, name: &str) -> Vec<u8> {
        let mut descriptor = descriptor(MANIFEST, &self.manifest);
        descriptor["annotations"] = serde_json::json!({ "io.containerd.image.name": name });
        serde_json::json!({ "schemaVersion": 2, "manifests": [descriptor] }).to_string().into_bytes()
    }

    /// The `manifest.json` that names it, by the names that its files have in an OCI layout.
    pub(super) fn docker_manifest(&self, name: &str) -> Vec<u8> {
        let layers: Vec<_> = self.layers.iter().map(|layer| blob_name(layer)).collect();
        let item = serde_json::json!({ "Config": blob_name(&self.config), "RepoTags": [name], "Layers": layers });
        serde_json::json!([item]).to_string().into_bytes()
    }

    /// Its blobs.
    pub(super) fn blobs(&self, tar: Tar) -> Tar {
        self.layers.iter().fold(tar.blob(&self.manifest).blob(&self.config), |tar, layer| tar.blob(layer))
    }

    /// As an OCI layout.
    pub(super) fn oci(&self, name: &str) -> Tar {
        self.blobs(Tar::default()).file("index.json", self.index(name)).layout()
    }

    /// As a docker archive that has its files under the names of an OCI layout.
    pub(super) fn docker(&self, name: &str) -> Tar {
        self.blobs(Tar::default()).file("manifest.json", self.docker_manifest(name))
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn descriptor(media_type: &str, bytes: &[u8]) -> serde_json::Value {
    serde_json::json!({ "mediaType": media_type, "digest": Digest::sha256(bytes), "size": bytes.len() })
}

/// `path` with another last extension appended.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}
