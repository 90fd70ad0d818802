//! JSON documents: raw bytes kept beside the parsed view.

use bytes::Bytes;
use serde::Deserialize;

use super::{Descriptor, Digest, Kind, Platform};

/// A small JSON blob of an image: index, manifest or config.
///
/// The raw bytes are what is stored and hashed; the view is never written back,
/// because re-serialising drops unknown fields and so changes the digest.
#[derive(Debug, Clone)]
pub struct Document {
    /// The descriptor by which it was reached.
    pub descriptor: Descriptor,
    /// The bytes as they were read.
    pub bytes: Bytes,
    /// What they say.
    pub view: View,
}

/// The parsed side of a [`Document`].
#[derive(Debug, Clone)]
pub enum View {
    /// An index or manifest list.
    Index(Index),
    /// An image manifest.
    Manifest(Manifest),
    /// An image config.
    Config(Config),
}

/// The part of an index that matters here.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// The entries, in order.
    pub manifests: Vec<Descriptor>,
}

/// The part of a manifest that matters here.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// The config.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// The part of an image config that matters here.
#[derive(Debug, Clone, Deserialize)]
pub struct Config {
    /// The platform the image was built for.
    #[serde(flatten)]
    pub platform: Platform,
    /// The layers' uncompressed digests, lowest first.
    #[serde(default)]
    pub rootfs: RootFs,
}

/// `rootfs` of an image config.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct RootFs {
    /// The layers' uncompressed digests, lowest first.
    #[serde(default)]
    pub diff_ids: Vec<Digest>,
}

/// Why a blob is not the document its descriptor promises.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// The JSON is broken.
    #[error("{digest} is not valid JSON for {media_type}: {reason}")]
    Malformed {
        /// Which document.
        digest: Digest,
        /// What it should have been.
        media_type: String,
        /// What the parser said.
        reason: String,
    },
}

impl Document {
    /// Checks `bytes` against `descriptor` and parses them.
    ///
    /// # Errors
    /// When size, digest, media type or content disagree.
    pub fn parse(descriptor: Descriptor, bytes: Bytes) -> Result<Self, DocumentError> {
        let malformed = |error: serde_json::Error| DocumentError::Malformed {
            digest: descriptor.digest.clone(),
            media_type: descriptor.media_type.clone(),
            reason: error.to_string(),
        };
        let view = match descriptor.kind() {
            Kind::Index => View::Index(serde_json::from_slice(&bytes).map_err(malformed)?),
            Kind::Manifest => View::Manifest(serde_json::from_slice(&bytes).map_err(malformed)?),
            _ => View::Config(serde_json::from_slice(&bytes).map_err(malformed)?),
        };
        Ok(Self { descriptor, bytes, view })
    }

    /// The blobs that this document names, in order: config first, then layers, or the entries of an index.
    pub fn children(&self) -> Vec<&Descriptor> {
        match &self.view {
            View::Index(index) => index.manifests.iter().collect(),
            View::Manifest(manifest) => std::iter::once(&manifest.config).chain(&manifest.layers).collect(),
            View::Config(_) => Vec::new(),
        }
    }
}
