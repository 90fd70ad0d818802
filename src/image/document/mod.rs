//! JSON documents: the raw bytes with a parsed view.

mod error;
mod guess;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::json::{self, Keys, null_as_default};
use super::{Descriptor, Digest, Kind, Limits, Platform};
pub use error::DocumentError;
pub use guess::media_type_of;

/// A small JSON blob of an image: index, manifest or config.
///
/// The raw bytes are what is stored and hashed; the view is never written back,
/// because re-serialising drops unknown fields and so changes the digest.
#[derive(Debug, Clone)]
pub struct Document {
    /// Its descriptor.
    pub descriptor: Descriptor,
    /// The raw bytes.
    pub bytes: Bytes,
    /// The parsed view.
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

/// The part of an index that matters here (image-spec `image-index.md`).
#[derive(Debug, Clone, Deserialize)]
pub struct Index {
    /// The entries, in order.
    #[serde(deserialize_with = "null_as_default")]
    pub manifests: Vec<Descriptor>,
}

/// The part of a manifest that matters here (image-spec `manifest.md`).
#[derive(Debug, Clone, Deserialize)]
pub struct Manifest {
    /// The config. Not every manifest has an *image* config: see [`Descriptor::kind`].
    pub config: Descriptor,
    /// The layers, lowest first.
    #[serde(deserialize_with = "null_as_default")]
    pub layers: Vec<Descriptor>,
}

/// The part of an image config that matters here (image-spec `config.md`).
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "ConfigFields")]
pub struct Config {
    /// The platform the image was built for.
    pub platform: Platform,
    /// The layers' uncompressed digests, lowest first.
    pub rootfs: RootFs,
}

/// `rootfs` of an image config.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct RootFs {
    /// The layers' uncompressed digests, lowest first.
    #[serde(default, deserialize_with = "null_as_default")]
    pub diff_ids: Vec<Digest>,
}

/// The JSON form of a config. (`flatten` would keep all unknown fields in memory first.)
#[derive(Deserialize)]
struct ConfigFields {
    #[serde(default, deserialize_with = "null_as_default")]
    architecture: String,
    #[serde(default, deserialize_with = "null_as_default")]
    os: String,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default, rename = "os.version")]
    os_version: Option<String>,
    #[serde(default, rename = "os.features", deserialize_with = "null_as_default")]
    os_features: Vec<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    rootfs: RootFs,
}

impl From<ConfigFields> for Config {
    fn from(fields: ConfigFields) -> Self {
        let ConfigFields { architecture, os, variant, os_version, os_features, rootfs } = fields;
        Self { platform: Platform { architecture, os, variant, os_version, os_features }, rootfs }
    }
}

/// The fields by which an index or manifest identifies itself.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    #[serde(default)]
    schema_version: Option<u64>,
    #[serde(default, deserialize_with = "null_as_default")]
    media_type: String,
}

impl Document {
    /// Checks `bytes` against `descriptor` and parses them, within the default [`Limits`].
    ///
    /// # Errors
    /// When size, digest, media type or content disagree, or the bytes are too many.
    pub fn parse(descriptor: Descriptor, bytes: Bytes) -> Result<Self, DocumentError> {
        Self::parse_within(descriptor, bytes, &Limits::default())
    }

    /// Checks `bytes` against `descriptor` and parses them.
    ///
    /// # Errors
    /// When size, digest, media type or content disagree, or the bytes are too many.
    pub fn parse_within(descriptor: Descriptor, bytes: Bytes, limits: &Limits) -> Result<Self, DocumentError> {
        Self::check_size(&descriptor, limits)?;
        if bytes.len() as u64 != descriptor.size {
            return Err(DocumentError::SizeMismatch {
                digest: descriptor.digest,
                expected: descriptor.size,
                actual: bytes.len() as u64,
            });
        }
        let actual = Digest::of(descriptor.digest.algorithm(), &bytes);
        if actual != descriptor.digest {
            return Err(DocumentError::DigestMismatch { expected: descriptor.digest, actual });
        }
        let view = View::parse(&descriptor, &bytes)?;
        Ok(Self { descriptor, bytes, view })
    }

    /// Checks that a document may be read, before it is.
    ///
    /// # Errors
    /// When it is no document, or too large.
    pub(super) fn check_size(descriptor: &Descriptor, limits: &Limits) -> Result<(), DocumentError> {
        let kind = descriptor.kind();
        if !kind.is_document() {
            return Err(DocumentError::NotADocument {
                digest: descriptor.digest.clone(),
                media_type: descriptor.media_type.clone(),
            });
        }
        let limit = limits.bytes_of(kind);
        if descriptor.size > limit {
            return Err(DocumentError::TooLarge {
                digest: descriptor.digest.clone(),
                media_type: descriptor.media_type.clone(),
                size: descriptor.size,
                limit,
            });
        }
        Ok(())
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

/// Parses an index without a descriptor, such as the `index.json` of a layout. The caller bounds its size.
///
/// # Errors
/// When it is no index, or can be read in two ways.
pub fn index_of(bytes: &[u8]) -> Result<Index, DocumentError> {
    let digest = Digest::sha256(bytes);
    let unnamed = Descriptor::new("application/vnd.oci.image.index.v1+json", digest, bytes.len() as u64);
    match View::parse(&unnamed, bytes)? {
        View::Index(index) => Ok(index),
        View::Manifest(_) | View::Config(_) => {
            Err(DocumentError::NotADocument { digest: unnamed.digest, media_type: unnamed.media_type })
        }
    }
}

impl View {
    fn parse(descriptor: &Descriptor, bytes: &[u8]) -> Result<Self, DocumentError> {
        let malformed = |error: serde_json::Error| DocumentError::Malformed {
            digest: descriptor.digest.clone(),
            media_type: descriptor.media_type.clone(),
            reason: error.to_string(),
        };
        fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
            serde_json::from_slice(bytes)
        }
        let kind = descriptor.kind();
        if kind == Kind::Config {
            json::CONFIG.check(bytes).map_err(malformed)?;
            return read(bytes).map(Self::Config).map_err(malformed);
        }
        let keys = json::MANIFEST_OR_INDEX.check(bytes).map_err(malformed)?;
        check_keys(descriptor, kind, &keys)?;
        check_header(descriptor, read(bytes).map_err(malformed)?)?;
        match kind {
            Kind::Index => read(bytes).map(Self::Index),
            _ => read(bytes).map(Self::Manifest),
        }
        .map_err(malformed)
    }
}

/// Refuses documents that another program could read as the other kind (CVE-2021-41190). As in containerd's
/// `validateMediaType`, a key counts when it is there, even with `null`.
fn check_keys(descriptor: &Descriptor, kind: Kind, keys: &Keys) -> Result<(), DocumentError> {
    let foreign: &[&'static str] = match kind {
        Kind::Index => &["config", "layers", "fsLayers"],
        _ => &["manifests", "fsLayers"],
    };
    match foreign.iter().find(|key| keys.has(key)) {
        Some(key) => Err(DocumentError::Contradiction {
            digest: descriptor.digest.clone(),
            media_type: descriptor.media_type.clone(),
            key,
        }),
        None => Ok(()),
    }
}

fn check_header(descriptor: &Descriptor, header: Header) -> Result<(), DocumentError> {
    if !header.media_type.is_empty() && header.media_type != descriptor.media_type {
        return Err(DocumentError::MediaType {
            digest: descriptor.digest.clone(),
            expected: descriptor.media_type.clone(),
            actual: header.media_type,
        });
    }
    match header.schema_version {
        None | Some(2) => Ok(()),
        Some(actual) => Err(DocumentError::SchemaVersion { digest: descriptor.digest.clone(), actual }),
    }
}

impl RootFs {
    /// The id of the chain that ends with each layer, lowest first (image-spec `config.md`, "Layer ChainID").
    pub fn chain_ids(&self) -> Vec<Digest> {
        let mut chains: Vec<Digest> = Vec::with_capacity(self.diff_ids.len());
        for diff_id in &self.diff_ids {
            let chain = match chains.last() {
                None => diff_id.clone(),
                Some(parent) => Digest::of(parent.algorithm(), format!("{parent} {diff_id}").as_bytes()),
            };
            chains.push(chain);
        }
        chains
    }
}

impl Manifest {
    /// The layers with their diff ids, lowest first: what an unpack needs.
    ///
    /// Only images have this pairing. The config of an attestation has no diff id for its
    /// in-toto statements, or as many as it likes; a walk does not ask.
    ///
    /// # Errors
    /// When the config does not have one diff id per layer.
    pub fn layers_with_diff_ids<'a>(
        &'a self,
        config: &'a Config,
    ) -> Result<Vec<(&'a Descriptor, &'a Digest)>, DocumentError> {
        let diff_ids = &config.rootfs.diff_ids;
        if self.layers.len() != diff_ids.len() {
            return Err(DocumentError::LayerCount {
                config: self.config.digest.clone(),
                layers: self.layers.len(),
                diff_ids: diff_ids.len(),
            });
        }
        Ok(self.layers.iter().zip(diff_ids).collect())
    }
}
