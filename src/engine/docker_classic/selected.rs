//! The one image of a graph that goes into a classic store, and whether that can take it.

use crate::engine::EngineError;
use crate::image::{Config, Descriptor, Digest, Document, Graph, Kind, Manifest, Platform, View};

/// The first docker that inflates zstd (moby `pkg/archive`, 23.0).
const FIRST_WITH_ZSTD: u32 = 23;

/// An image: its config, and its layers, lowest first.
#[derive(Debug, Clone)]
pub(super) struct SelectedImage {
    pub(super) root: Digest,
    /// The version of docker.
    pub(super) docker: String,
    pub(super) config: Document,
    pub(super) layers: Vec<Layer>,
}

/// One layer.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub(super) blob: Descriptor,
    pub(super) diff_id: Digest,
    /// The id of the chain that ends with it, under which dockerd knows it.
    pub(super) chain: Digest,
}

impl SelectedImage {
    /// What of `graph` goes to a docker of `version`: the only image there is, whatever its architecture, as with
    /// `docker load`; of several the one for this host.
    pub(super) fn of(graph: &Graph, version: &str) -> Result<Self, EngineError> {
        let host = Platform::host();
        let (manifest, document, config) = choose(graph, &host)?;
        let refused = |reason: String| refused(graph, reason);
        if config.platform.os != host.os {
            return Err(refused(format!("it is for {}, and this docker runs {} images", config.platform, host.os)));
        }
        let pairs = manifest.layers_with_diff_ids(config).map_err(|error| refused(error.to_string()))?;
        let layers = pairs.into_iter().zip(config.rootfs.chain_ids()).map(|((blob, diff_id), chain)| Layer {
            blob: blob.clone(),
            diff_id: diff_id.clone(),
            chain,
        });
        let layers = layers.collect();
        let selected =
            Self { root: graph.root().digest.clone(), docker: version.to_owned(), config: document.clone(), layers };
        for Layer { blob, .. } in &selected.layers {
            let kind = blob.kind();
            if !matches!(kind, Kind::Layer | Kind::ForeignLayer) || !is_known(&blob.media_type) {
                return Err(refused(format!("{} is no layer that docker knows: `{}`", blob.digest, blob.media_type)));
            }
        }
        Ok(selected)
    }

    /// The blobs that must be sent when the layers whose place `is_present` says yes to are there already: each once,
    /// the largest first.
    ///
    /// # Errors
    /// When one of them is of those that no builder has, or that this docker cannot read.
    pub(super) fn missing(&self, is_present: impl Fn(usize) -> bool) -> Result<Vec<Descriptor>, EngineError> {
        let mut missing: Vec<Descriptor> = Vec::new();
        for (at, Layer { blob, .. }) in self.layers.iter().enumerate() {
            if is_present(at) || missing.iter().any(|known| known.digest == blob.digest) {
                continue;
            }
            self.check_readable(blob)?;
            missing.push(blob.clone());
        }
        missing.sort_by_key(|blob| std::cmp::Reverse(blob.size));
        Ok(missing)
    }

    fn check_readable(&self, blob: &Descriptor) -> Result<(), EngineError> {
        let Descriptor { digest, media_type, .. } = blob;
        let reason = if blob.kind() == Kind::ForeignLayer {
            format!(
                "its layer {digest} is kept elsewhere (`{media_type}`), and docker lacks it; pull the base image first"
            )
        } else if is_zstd(media_type) && major(&self.docker).is_some_and(|major| major < FIRST_WITH_ZSTD) {
            format!(
                "docker {} cannot read zstd, with which layer {digest} is compressed; build with \
                 `compression=gzip,force-compression=true` among the attributes of the output",
                self.docker
            )
        } else {
            return Ok(());
        };
        Err(EngineError::Unsuitable { root: self.root.clone(), reason })
    }

    /// Which layer dockerd means by the beginning of its diff id, in hexadecimal.
    pub(super) fn by_diff_id(&self, beginning: &str) -> Option<&Layer> {
        self.layers.iter().find(|layer| !beginning.is_empty() && layer.diff_id.hex().starts_with(beginning))
    }
}

fn choose<'a>(graph: &'a Graph, host: &Platform) -> Result<(&'a Manifest, &'a Document, &'a Config), EngineError> {
    let images: Vec<_> = graph.documents().iter().filter_map(|document| image(graph, document)).collect();
    if let [only] = images[..] {
        return Ok(only);
    }
    match graph.image_for(host) {
        Some((_, manifest, document, config)) => Ok((manifest, document, config)),
        None if images.is_empty() => Err(refused(graph, "it is no container image but another artifact".to_owned())),
        None => {
            let there: Vec<_> = images.iter().map(|(.., config)| config.platform.to_string()).collect();
            Err(refused(graph, format!("it has no image for {host}, only for {}", there.join(", "))))
        }
    }
}

/// The image whose manifest `document` is, if it is one and no attestation.
fn image<'a>(graph: &'a Graph, document: &'a Document) -> Option<(&'a Manifest, &'a Document, &'a Config)> {
    let View::Manifest(manifest) = &document.view else { return None };
    let config_document = graph.document(&manifest.config.digest)?;
    let View::Config(config) = &config_document.view else { return None };
    let is_attestation = document.descriptor.is_attestation() || config.platform.is_unknown();
    (!is_attestation).then_some((manifest, config_document, config))
}

fn refused(graph: &Graph, reason: String) -> EngineError {
    EngineError::Unsuitable { root: graph.root().digest.clone(), reason }
}

/// Tar archives, plain or compressed: neither encrypted ones nor other file systems.
fn is_known(media_type: &str) -> bool {
    let plain = [".tar", ".tar+gzip", ".tar.gzip", ".tar+zstd", ".tar.zstd"];
    plain.iter().any(|ending| media_type.ends_with(ending))
}

fn is_zstd(media_type: &str) -> bool {
    media_type.ends_with("zstd")
}

fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests;
