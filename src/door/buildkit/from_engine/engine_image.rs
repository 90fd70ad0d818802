//! One image of the engine, as far as a build needs it.

use std::sync::Arc;

use crate::engine::images::Images;
use crate::engine::{Lease, Origin};
use crate::export::Exports;
use crate::image::{Descriptor, Document, Graph, Kind, Limits, Platform, Reference, View, Walk};
use crate::source::{SourceError, read_document};

/// An image of one platform that the engine has whole. It is leased until this is dropped.
#[derive(Debug)]
pub(super) struct EngineImage {
    /// Its root: an index where the engine has one, of which only this platform is read.
    pub(super) root: Descriptor,
    /// Its documents and layers.
    pub(super) blobs: Vec<Descriptor>,
    exports: Arc<Exports>,
    /// `None` where the engine keeps by itself what is read.
    lease: Option<Arc<dyn Lease>>,
}

impl Drop for EngineImage {
    fn drop(&mut self) {
        self.lease.take().into_iter().for_each(|lease| self.exports.release(lease));
    }
}

impl EngineImage {
    /// Leases the image `name` for `platform`; `None` if the engine has no such image, or not all of it.
    ///
    /// # Errors
    /// When the engine cannot be queried, or the image is invalid.
    pub(super) async fn find(
        exports: &Arc<Exports>,
        images: &Arc<dyn Images>,
        origin: &Origin,
        name: &Reference,
        platform: &Platform,
    ) -> Result<Option<Self>, String> {
        let Some(root) = images.resolve(name).await.map_err(|error| error.to_string())? else { return Ok(None) };
        let Some(graph) = graph(images, &root, platform).await? else { return Ok(None) };
        let graph = Arc::new(graph);
        let lease = exports.read_lease(origin, &graph).await.map_err(|error| error.to_string())?;
        let blobs = graph.descriptors().cloned().collect();
        let image = Self { root, blobs, exports: exports.clone(), lease };
        // Only what is there now stays.
        for blob in &image.blobs {
            let size = images.size(&blob.digest).await.map_err(|error| error.to_string())?;
            if blob.kind() == Kind::ForeignLayer || size != Some(blob.size) {
                return Ok(None);
            }
        }
        Ok(Some(image))
    }
}

/// The documents of `root` that a builder reads for `platform`; `None` if the engine lacks one of them.
async fn graph(images: &Arc<dyn Images>, root: &Descriptor, platform: &Platform) -> Result<Option<Graph>, String> {
    let mut walk = Walk::new(root.clone(), Limits::default()).map_err(|error| error.to_string())?;
    let mut chosen = None;
    while let Some(pending) = walk.pending().first().cloned() {
        let is_of_index = root.kind() == Kind::Index && pending.digest != root.digest;
        if is_of_index && pending.kind() != Kind::Config && chosen.as_ref() != Some(&pending.digest) {
            walk.skip(&pending.digest).map_err(|error| error.to_string())?;
            continue;
        }
        let bytes = match read_document(images, &pending).await {
            Err(SourceError::NotFound { .. }) => return Ok(None),
            read => read.map_err(|error| error.to_string())?,
        };
        if pending.digest == root.digest && root.kind() == Kind::Index {
            let index = Document::parse(pending.clone(), bytes.clone()).map_err(|error| error.to_string())?;
            let View::Index(index) = index.view else { return Ok(None) };
            chosen = best(&index.manifests, platform).map(|entry| entry.digest.clone());
            if chosen.is_none() {
                return Ok(None);
            }
        }
        walk.supply(&pending.digest, bytes).map_err(|error| error.to_string())?;
    }
    walk.finish().map(Some).map_err(|error| error.to_string())
}

/// The manifest that a builder takes of an index for `platform`, whether it is there or not: of several that fit equally well
/// the first. One that does not say its platform is taken if it is the only one.
fn best<'a>(entries: &'a [Descriptor], platform: &Platform) -> Option<&'a Descriptor> {
    let images: Vec<_> =
        entries.iter().filter(|entry| entry.kind() == Kind::Manifest && !entry.is_attestation()).collect();
    if let [only] = images[..]
        && only.platform.is_none()
    {
        return Some(only);
    }
    let fitting = images.iter().filter_map(|entry| Some((entry.platform.as_ref()?.fit(platform)?, *entry)));
    fitting.reduce(|best, other| if other.0 > best.0 { other } else { best }).map(|(_, entry)| entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Digest;

    #[test]
    fn the_builders_choice_does_not_depend_on_what_is_there() {
        let entry = |name: &str, platform: Option<&str>| {
            let mut entry =
                Descriptor::new("application/vnd.oci.image.manifest.v1+json", Digest::sha256(name.as_bytes()), 1);
            entry.platform = platform.map(|text| text.parse().unwrap());
            entry
        };
        let [amd64, v7, v6] = ["linux/amd64", "linux/arm/v7", "linux/arm/v6"].map(|text| entry(text, Some(text)));
        let entries = [amd64.clone(), v6, v7.clone()];
        let best = |entries: &[Descriptor], text: &str| best(entries, &text.parse().unwrap()).cloned();
        assert_eq!(best(&entries, "linux/amd64"), Some(amd64));
        assert_eq!(best(&entries, "linux/arm/v7"), Some(v7));
        assert_eq!(best(&entries, "linux/riscv64"), None);
        let unknown = entry("unknown", None);
        assert_eq!(best(std::slice::from_ref(&unknown), "linux/arm/v7"), Some(unknown));
    }
}
