//! The graph of an image, walked without I/O.

mod arrange;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::HashMap;

use super::{Config, Descriptor, Digest, Document, DocumentError, Kind, Manifest, Platform, View};
pub use walk::Walk;

/// Why a graph was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// A document does not match its descriptor.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A bound of [`Limits`](super::Limits) is exceeded.
    #[error("{digest}: {what} exceeds the limit of {limit}")]
    Limit {
        /// The document at fault.
        digest: Digest,
        /// What is too large.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The root is no image.
    #[error("the root {digest} has the media type `{media_type}`; expected an image index or manifest")]
    Root {
        /// The root.
        digest: Digest,
        /// Its media type.
        media_type: String,
    },
    /// Two descriptors of one blob contradict each other.
    #[error("{digest} is named as `{first}` of {first_size} bytes and as `{second}` of {second_size} bytes")]
    Conflict {
        /// The blob.
        digest: Digest,
        /// The media type of the first descriptor.
        first: String,
        /// The size of the first descriptor, in bytes.
        first_size: u64,
        /// The media type of the second one.
        second: String,
        /// The size of the second one, in bytes.
        second_size: u64,
    },
    /// A document was supplied that was not pending, or pending documents are missing.
    #[error("{digest} was {what}")]
    Unexpected {
        /// Which document.
        digest: Digest,
        /// What happened.
        what: &'static str,
    },
}

/// Every document and leaf of one image, each once.
#[derive(Debug, Clone)]
pub struct Graph {
    root: Descriptor,
    documents: Vec<Document>,
    leaves: Vec<Descriptor>,
    /// The index of each document.
    positions: HashMap<Digest, usize>,
}

/// One image of a graph.
#[derive(Debug, Clone, Copy)]
pub struct PlatformImage<'a> {
    /// Its descriptor: the root, or an entry of an index.
    pub entry: &'a Descriptor,
    /// Its manifest.
    pub manifest: &'a Document,
    /// The parsed manifest.
    pub view: &'a Manifest,
    /// Its config.
    pub config: &'a Document,
    /// The parsed config.
    pub config_view: &'a Config,
}

impl PlatformImage<'_> {
    /// Its platform: the one in the entry, else the one in the config.
    pub fn platform(&self) -> &Platform {
        self.entry.platform.as_ref().unwrap_or(&self.config_view.platform)
    }
}

impl Graph {
    /// The graph of a root that refers to nothing, of whatever type: artifacts and caches may be one blob. It has no
    /// documents.
    ///
    /// # Errors
    /// [`GraphError::Unexpected`] if `root` is an index or a manifest, whose graph is found by a [`Walk`].
    pub fn of_blob(root: Descriptor) -> Result<Self, GraphError> {
        if matches!(root.kind(), Kind::Index | Kind::Manifest) {
            return Err(GraphError::Unexpected {
                digest: root.digest,
                what: "given as one blob, and refers to others",
            });
        }
        let root = root.without_names();
        Ok(Self { leaves: vec![root.clone()], root, documents: Vec::new(), positions: HashMap::new() })
    }

    /// The descriptor of the root, without names.
    pub fn root(&self) -> &Descriptor {
        &self.root
    }

    /// Indexes, manifests and configs; every parent of a document precedes it. Backwards, this
    /// is an order in which they can be committed.
    pub fn documents(&self) -> &[Document] {
        &self.documents
    }

    /// Layers and other blobs, in the order in which the documents name them.
    pub fn leaves(&self) -> &[Descriptor] {
        &self.leaves
    }

    /// The document of this digest, if it is one of the image's.
    pub fn document(&self, digest: &Digest) -> Option<&Document> {
        self.positions.get(digest).map(|at| &self.documents[*at])
    }

    /// The descriptors of all blobs: the documents, then the leaves.
    pub fn descriptors(&self) -> impl Iterator<Item = &Descriptor> {
        self.documents.iter().map(|document| &document.descriptor).chain(&self.leaves)
    }

    /// How many distinct blobs there are, documents included.
    pub fn blobs(&self) -> usize {
        self.documents.len() + self.leaves.len()
    }

    /// The size of all distinct blobs together, in bytes, documents included.
    pub fn bytes(&self) -> u64 {
        self.descriptors().fold(0, |sum, descriptor| sum.saturating_add(descriptor.size))
    }

    /// The manifest and config of the image that fits `host` best; none if no image here runs on it.
    /// Of several that fit equally well, the first one. Attestation manifests never count.
    ///
    /// The platform of an index entry counts, otherwise that of the config,
    /// as containerd does (`core/images`, `Manifest`). To pair the layers with their diff ids see
    /// [`Manifest::layers_with_diff_ids`].
    pub fn image_for(&self, host: &Platform) -> Option<(&Document, &Manifest, &Document, &Config)> {
        let mut best = None;
        for image in self.images() {
            let fit = image.platform().fit(host);
            if fit > best.map(|(fit, _)| fit) {
                best = fit.map(|fit| (fit, (image.manifest, image.view, image.config, image.config_view)));
            }
        }
        best.map(|(_, image)| image)
    }

    /// Every image with a platform, in the order of the indexes, without attestations and artifacts. An image that two entries
    /// name comes twice.
    pub fn images(&self) -> impl Iterator<Item = PlatformImage<'_>> {
        self.entries().filter(|entry| !entry.is_attestation()).filter_map(|entry| {
            let (manifest, view, config, config_view) = self.image(&entry.digest)?;
            Some(PlatformImage { entry, manifest, view, config, config_view })
        })
    }

    /// The root and all entries of indexes, which are the descriptors of images.
    pub fn entries(&self) -> impl Iterator<Item = &Descriptor> {
        let indexes = self.documents.iter().filter_map(|document| match &document.view {
            View::Index(index) => Some(&index.manifests),
            _ => None,
        });
        std::iter::once(&self.root).chain(indexes.flatten())
    }

    /// The manifest of this digest and its config, if it has the config of an image.
    fn image(&self, manifest: &Digest) -> Option<(&Document, &Manifest, &Document, &Config)> {
        let document = self.document(manifest)?;
        let View::Manifest(manifest) = &document.view else { return None };
        let config_document = self.document(&manifest.config.digest)?;
        let View::Config(config) = &config_document.view else { return None };
        Some((document, manifest, config_document, config))
    }
}
