//! The root of a cache.

use std::collections::HashSet;

use bytes::Bytes;
use oci_spec::image::MediaType;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{CACHE_CONFIG, CacheDocumentError, IMPORT_BYTES, MAX_CACHE_LAYERS};
use crate::image::{Descriptor, Digest, Document, Kind, View, layout};

/// What a root lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheRoot {
    /// The root itself.
    pub descriptor: Descriptor,
    /// Its cache config.
    pub config: Descriptor,
    /// Its layers, in order and each as often as it is listed.
    pub layers: Vec<Descriptor>,
    /// Whether it is an index, which every version of BuildKit imports.
    pub is_index: bool,
}

impl CacheRoot {
    /// The media type of the roots that are made here.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

    /// Checks `bytes` against `descriptor` and reads them.
    ///
    /// # Errors
    /// When they are not the bytes that the descriptor names, no index or manifest, or of no cache.
    pub fn parse(descriptor: Descriptor, bytes: Bytes) -> Result<Self, CacheDocumentError> {
        let document = Document::parse(descriptor, bytes)?;
        let digest = document.descriptor.digest.clone();
        let (listed, is_index) = match document.view {
            View::Index(index) => (index.manifests, true),
            View::Manifest(manifest) => {
                let own = Some(manifest.config).filter(|config| config.media_type == CACHE_CONFIG);
                (manifest.layers.into_iter().chain(own).collect(), false)
            }
            View::Config(_) => (Vec::new(), false),
        };
        // None of a manifest's layers is one either: an index made of them would have two.
        let (configs, layers): (Vec<_>, Vec<_>) = listed.into_iter().partition(|it| it.media_type == CACHE_CONFIG);
        let found = configs.len();
        let Ok([config]) = <[Descriptor; 1]>::try_from(configs) else {
            return Err(CacheDocumentError::NoConfig { digest, found });
        };
        if layers.len() > MAX_CACHE_LAYERS {
            let (count, limit) = (layers.len(), MAX_CACHE_LAYERS);
            return Err(CacheDocumentError::TooMany { digest, what: "layers", count, limit });
        }
        Ok(Self { descriptor: document.descriptor, config, layers, is_index })
    }

    /// The descriptor of a root that is known by digest and size alone, from what it says of itself: a config has neither a
    /// schema version nor a media type. `None` for what is no root.
    pub fn sniff(blob: &Descriptor, bytes: &[u8]) -> Option<Descriptor> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Form {
            schema_version: u8,
            media_type: Option<String>,
            manifests: Option<IgnoredAny>,
        }
        let form: Form = serde_json::from_slice(bytes).ok().filter(|form: &Form| form.schema_version == 2)?;
        let default = if form.manifests.is_some() { MediaType::ImageIndex } else { MediaType::ImageManifest };
        Some(Descriptor::new(form.media_type.unwrap_or_else(|| default.to_string()), blob.digest.clone(), blob.size))
    }

    /// The documents and layers, each once.
    pub fn blobs(&self) -> Vec<&Descriptor> {
        let mut seen = HashSet::new();
        let all = [&self.descriptor, &self.config].into_iter().chain(&self.layers);
        all.filter(|blob| seen.insert(&blob.digest)).collect()
    }

    /// Whether every version of BuildKit imports the root as it is, and would find all its layers in `present`.
    pub fn is_importable(&self, present: &HashSet<Digest>) -> bool {
        self.is_index
            && self.config.size <= IMPORT_BYTES
            && self.layers.iter().all(|layer| present.contains(&layer.digest))
    }

    /// An index for an import that offers the layers in `present` and no others. BuildKit takes a layer that its root does not
    /// list for one that is not there, and refuses a config of which the descriptor says that it is longer than
    /// 1 MiB, but reads as many bytes as its provider says that there are.
    ///
    /// # Errors
    /// When it cannot be written, which strings and numbers never cause.
    pub fn import(&self, present: &HashSet<Digest>) -> Result<(Descriptor, Bytes), serde_json::Error> {
        let config = Descriptor { size: self.config.size.min(IMPORT_BYTES), ..self.config.clone() };
        let layers = self.layers.iter().filter(|layer| present.contains(&layer.digest)).cloned();
        let entries: Vec<_> = layers.chain([config]).collect();
        let bytes = Bytes::from(layout::index(&entries)?);
        Ok((Descriptor::new(Self::INDEX, Digest::sha256(&bytes), bytes.len() as u64), bytes))
    }

    /// Whether `descriptor` may be that of a root.
    pub fn may_be(descriptor: &Descriptor) -> bool {
        matches!(descriptor.kind(), Kind::Index | Kind::Manifest)
    }
}
