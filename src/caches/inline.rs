//! Inline caches: images of the engine whose configs say of which build steps their layers are the results.

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::HashMap;

use super::{CacheError, Caches};
use crate::engine::images::Images;
use crate::image::cache::{CacheDocumentError, INLINE_CACHE};
use crate::image::{
    Descriptor, Document, DocumentError, Kind, Limits, Manifest, Platform, Reference, UNCOMPRESSED, View,
};
use crate::source::read_document;

/// How many entries of an index are looked into.
const MAX_PLATFORMS: usize = 64;

/// The inline cache of an image of one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InlineCache {
    /// The image's manifest, which a build imports.
    pub manifest: Descriptor,
    /// The image's config, which has the records.
    pub config: Descriptor,
    /// The image's layers, the lowest first, each with the digest of its uncompressed form as BuildKit's own caches have it.
    pub layers: Vec<Descriptor>,
    /// The image's platform.
    pub platform: Platform,
}

impl InlineCache {
    /// The manifest, the config and the layers.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        [&self.manifest, &self.config].into_iter().chain(&self.layers)
    }
}

impl Caches {
    /// The caches in the image `name`: those of the platforms that are in the
    /// engine with all their layers, and whose config has such a cache. Never the index, of which BuildKit wants all
    /// children. None if there is no such image.
    ///
    /// # Errors
    /// When the engine cannot be queried.
    pub async fn inline(&self, name: &Reference) -> Result<Vec<InlineCache>, CacheError> {
        let Some(images) = &self.images else { return Ok(Vec::new()) };
        let Some(root) = images.resolve(name).await? else { return Ok(Vec::new()) };
        let candidates = match root.kind() {
            Kind::Manifest => vec![root],
            Kind::Index => match self.document(&**images, &root).await?.map(|document| document.view) {
                Some(View::Index(index)) => index.manifests,
                _ => Vec::new(),
            },
            _ => Vec::new(),
        };
        let is_image = |entry: &Descriptor| entry.kind() == Kind::Manifest && !entry.is_attestation();
        let mut found = Vec::new();
        for manifest in candidates.into_iter().filter(is_image).take(MAX_PLATFORMS) {
            match self.of_manifest(&**images, &manifest).await {
                Ok(cache) => found.extend(cache),
                Err(error) => tracing::debug!(%error, %name, manifest = %manifest.digest, "it offers no inline cache"),
            }
        }
        Ok(found)
    }

    async fn of_manifest(&self, images: &dyn Images, manifest: &Descriptor) -> Result<Option<InlineCache>, CacheError> {
        let document = self.document(images, manifest).await?;
        let Some(View::Manifest(Manifest { config, layers })) = document.map(|document| document.view) else {
            return Ok(None);
        };
        let Some(document) = self.document(images, &config).await? else { return Ok(None) };
        let View::Config(described) = &document.view else { return Ok(None) };
        let diff_ids = &described.rootfs.diff_ids;
        if !names_inline(&document.bytes) || diff_ids.len() != layers.len() {
            return Ok(None);
        }
        for layer in &layers {
            if images.size(&layer.digest).await? != Some(layer.size) {
                return Ok(None);
            }
        }
        let manifest = Descriptor::new(&*manifest.media_type, manifest.digest.clone(), manifest.size);
        let layers = layers.into_iter().zip(diff_ids).map(|(mut layer, diff_id)| {
            layer.annotations.insert(UNCOMPRESSED.to_owned(), diff_id.to_string());
            layer
        });
        let (layers, platform) = (layers.collect(), described.platform.normalised());
        Ok(Some(InlineCache { manifest, config, layers, platform }))
    }

    /// A document of an image; `None` if it is not there.
    async fn document(&self, images: &dyn Images, blob: &Descriptor) -> Result<Option<Document>, CacheError> {
        let (kind, limits) = (blob.kind(), Limits::default());
        if !kind.is_document() || images.size(&blob.digest).await? != Some(blob.size) {
            return Ok(None);
        }
        let limit = limits.bytes_of(kind);
        if blob.size > limit {
            let (digest, media_type, size) = (blob.digest.clone(), blob.media_type.clone(), blob.size);
            return Err(CacheDocumentError::from(DocumentError::TooLarge { digest, media_type, size, limit }).into());
        }
        let bytes = read_document(images, blob).await?;
        Ok(Some(Document::parse(blob.clone(), bytes).map_err(CacheDocumentError::from)?))
    }
}

/// Whether an image config has an inline cache. BuildKit reads what it says.
fn names_inline(config: &Bytes) -> bool {
    #[derive(Deserialize)]
    struct Keys(HashMap<String, IgnoredAny>);
    serde_json::from_slice::<Keys>(config).is_ok_and(|Keys(keys)| keys.contains_key(INLINE_CACHE))
}
