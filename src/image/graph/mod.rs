//! The graph of an image, walked without I/O.

mod arrange;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::HashMap;

use super::{Config, Descriptor, Digest, Document, DocumentError, Manifest, Platform, View};
pub use walk::Walk;

/// Why a graph was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// A document is not what its descriptor says.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A bound of [`Limits`](super::Limits) was passed.
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
    /// One blob is named twice, and differently.
    #[error("{digest} is named as `{first}` of {first_size} bytes and as `{second}` of {second_size} bytes")]
    Conflict {
        /// The blob.
        digest: Digest,
        /// The media type by which it was known.
        first: String,
        /// The size by which it was known, in bytes.
        first_size: u64,
        /// Its other media type.
        second: String,
        /// Its other size, in bytes.
        second_size: u64,
    },
    /// A document was supplied that the walk did not ask for, or asked-for documents are missing.
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
    /// Where each document is.
    positions: HashMap<Digest, usize>,
}

/// One image of a graph.
#[derive(Debug, Clone, Copy)]
pub struct PlatformImage<'a> {
    /// The descriptor by which it is named: the root, or an entry of an index.
    pub entry: &'a Descriptor,
    /// Its manifest.
    pub manifest: &'a Document,
    /// What the manifest says.
    pub view: &'a Manifest,
    /// Its config.
    pub config: &'a Document,
    /// What the config says.
    pub config_view: &'a Config,
}

impl PlatformImage<'_> {
    /// What it is for: as its entry says, otherwise as its config does.
    pub fn platform(&self) -> &Platform {
        self.entry.platform.as_ref().unwrap_or(&self.config_view.platform)
    }
}

impl Graph {
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
    /// Of several that fit alike the first one named is taken. Attestation manifests never count.
    ///
    /// An entry of an index is judged by the platform that it gives, otherwise by that of the config,
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

    /// Every image of a platform, in the order in which indexes name them: attestations and artifacts left out. One that
    /// two entries name comes twice.
    pub fn images(&self) -> impl Iterator<Item = PlatformImage<'_>> {
        self.entries().filter(|entry| !entry.is_attestation()).filter_map(|entry| {
            let (manifest, view, config, config_view) = self.image(&entry.digest)?;
            Some(PlatformImage { entry, manifest, view, config, config_view })
        })
    }

    /// The root and all entries of indexes: what may stand for an image.
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
