//! The graph of an image, walked without I/O.

use std::collections::HashSet;

use bytes::Bytes;

use super::{Config, Descriptor, Digest, Document, DocumentError, Kind, Manifest, Platform, View};

/// Bounds on what a walk accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest JSON document, in bytes.
    pub document_bytes: u64,
    /// How deep indexes may nest.
    pub depth: usize,
    /// How many distinct blobs an image may have.
    pub blobs: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { document_bytes: 4 << 20, depth: 4, blobs: 20_000 }
    }
}

/// Why a graph was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// A document is not what its descriptor says.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A bound of [`Limits`] was passed.
    #[error("{digest}: {what} exceeds the limit of {limit}")]
    Limit {
        /// The document at fault.
        digest: Digest,
        /// What is too large.
        what: &'static str,
        /// The limit.
        limit: u64,
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

/// A walk over a graph: it says which documents it wants, the caller reads them.
#[derive(Debug)]
pub struct Walk {
    limits: Limits,
    wanted: Vec<Descriptor>,
    seen: HashSet<Digest>,
    root: Descriptor,
    documents: Vec<Document>,
    leaves: Vec<Descriptor>,
}

impl Walk {
    /// Starts at `root`, which must be an index or a manifest.
    ///
    /// # Errors
    /// When the root's media type or size rules it out.
    pub fn new(root: Descriptor, limits: Limits) -> Result<Self, GraphError> {
        Ok(Self {
            limits,
            wanted: vec![root.clone()],
            seen: HashSet::from([root.digest.clone()]),
            root,
            documents: Vec::new(),
            leaves: Vec::new(),
        })
    }

    /// The documents to read next, all of which may be read at once. Empty when the walk is complete.
    pub fn wanted(&self) -> &[Descriptor] {
        &self.wanted
    }

    /// Hands in the bytes of a wanted document.
    ///
    /// # Errors
    /// When the document is not what it should be, or the graph grows past its limits.
    pub fn supply(&mut self, digest: &Digest, bytes: Bytes) -> Result<(), GraphError> {
        let at = self
            .wanted
            .iter()
            .position(|wanted| wanted.digest == *digest)
            .ok_or_else(|| GraphError::Unexpected { digest: digest.clone(), what: "supplied but not wanted" })?;
        let document = Document::parse(self.wanted.remove(at), bytes)?;
        for child in document.children() {
            if !self.seen.insert(child.digest.clone()) {
                continue;
            }
            if self.seen.len() > self.limits.blobs {
                let limit = self.limits.blobs as u64;
                return Err(GraphError::Limit { digest: digest.clone(), what: "the number of blobs", limit });
            }
            match child.kind() {
                Kind::Index | Kind::Manifest | Kind::Config => self.wanted.push(child.clone()),
                _ => self.leaves.push(child.clone()),
            }
        }
        self.documents.push(document);
        Ok(())
    }

    /// The whole graph.
    ///
    /// # Errors
    /// When documents are still wanted.
    pub fn finish(self) -> Result<Graph, GraphError> {
        match self.wanted.first() {
            Some(wanted) => Err(GraphError::Unexpected { digest: wanted.digest.clone(), what: "never supplied" }),
            None => Ok(Graph { root: self.root, documents: self.documents, leaves: self.leaves }),
        }
    }
}

/// Every document and leaf of one image, each once.
#[derive(Debug, Clone)]
pub struct Graph {
    root: Descriptor,
    documents: Vec<Document>,
    leaves: Vec<Descriptor>,
}

impl Graph {
    /// The descriptor of the root.
    pub fn root(&self) -> &Descriptor {
        &self.root
    }

    /// Indexes, manifests and configs; a parent always precedes its children.
    pub fn documents(&self) -> &[Document] {
        &self.documents
    }

    /// Layers and other blobs, in order of discovery.
    pub fn leaves(&self) -> &[Descriptor] {
        &self.leaves
    }

    /// The manifest and config of the image that fits `host` best; none if no image here runs on it.
    /// Attestation manifests never count.
    pub fn image_for(&self, host: &Platform) -> Option<(&Document, &Manifest, &Document, &Config)> {
        let find = |digest: &Digest| self.documents.iter().find(|document| document.descriptor.digest == *digest);
        self.documents
            .iter()
            .filter_map(|document| {
                let View::Manifest(manifest) = &document.view else { return None };
                let config_document = find(&manifest.config.digest)?;
                let View::Config(config) = &config_document.view else { return None };
                Some((config.platform.fit(host)?, (document, manifest, config_document, config)))
            })
            .max_by_key(|(fit, _)| *fit)
            .map(|(_, image)| image)
    }
}
