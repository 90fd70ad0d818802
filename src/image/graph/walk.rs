//! The walk: which documents to read next.

use std::collections::HashMap;

use bytes::Bytes;

use super::{Graph, GraphError, arrange};
use crate::image::{Descriptor, Digest, Document, Kind, Limits, media_type_of};

/// A walk over a graph: it lists which documents are pending, the caller reads them.
///
/// Each blob is met once, whatever the order in which documents are supplied and however often
/// they name each other; the [`Graph`] at the end depends on neither.
#[derive(Debug)]
pub struct Walk {
    limits: Limits,
    root: Descriptor,
    pending: Vec<Descriptor>,
    /// The index of each pending document in `pending`.
    positions: HashMap<Digest, usize>,
    /// What descriptors say of every blob.
    known: HashMap<Digest, SeenBlob>,
    documents: Vec<Document>,
    /// The sizes of all documents, pending ones included.
    total_bytes: u64,
}

/// What descriptors say of a blob.
#[derive(Debug)]
struct SeenBlob {
    /// Of several media types, the one that asks most of the blob; of those that ask the same, the first.
    media_type: String,
    /// Whether it is a document that another descriptor has by another media type of the same kind: OCI's and Docker's.
    has_two_types: bool,
    size: u64,
    /// The number of indexes and manifests from the root to this blob, including itself.
    depth: usize,
}

impl Walk {
    /// Starts at `root`, which must be an index or a manifest. Its graph has the root without names
    /// ([`Descriptor::without_names`]): every engine and output takes the root from there, so
    /// no source can bring a name along.
    ///
    /// # Errors
    /// When the root's media type or size rules it out.
    pub fn new(root: Descriptor, limits: Limits) -> Result<Self, GraphError> {
        if !matches!(root.kind(), Kind::Index | Kind::Manifest) {
            return Err(GraphError::Root { digest: root.digest, media_type: root.media_type });
        }
        let root = root.without_names();
        let mut walk = Self {
            limits,
            root: root.clone(),
            pending: Vec::new(),
            positions: HashMap::new(),
            known: HashMap::new(),
            documents: Vec::new(),
            total_bytes: 0,
        };
        let digest = root.digest.clone();
        walk.meet(&digest, &root, 0)?;
        Ok(walk)
    }

    /// The descriptor of the root.
    pub fn root(&self) -> &Descriptor {
        &self.root
    }

    /// The documents to read next, all of which may be read at once. Empty when the walk is complete.
    /// None is larger than [`Limits`] allow.
    pub fn pending(&self) -> &[Descriptor] {
        &self.pending
    }

    /// Layers and other leaves that were met so far, in no order. Complete when nothing is pending any more.
    pub fn leaves(&self) -> impl Iterator<Item = (&Digest, Kind)> {
        self.known
            .iter()
            .map(|(digest, known)| (digest, Kind::of(&known.media_type)))
            .filter(|(_, kind)| !kind.is_document())
    }

    /// Hands in the bytes of a pending document.
    ///
    /// # Errors
    /// When the document is not what it should be ([`GraphError::Document`] with this digest: it stays pending, so
    /// another source may be tried), or the graph is contradictory or grows past its limits: then the walk is
    /// of no more use.
    pub fn supply(&mut self, digest: &Digest, bytes: Bytes) -> Result<(), GraphError> {
        let Some(&at) = self.positions.get(digest) else {
            return Err(GraphError::Unexpected { digest: digest.clone(), what: "supplied but not wanted" });
        };
        let mut descriptor = self.pending[at].clone();
        if self.known.get(digest).is_some_and(|known| known.has_two_types)
            && let Some(own) = media_type_of(&bytes).filter(|own| Kind::of(own) == descriptor.kind())
        {
            descriptor.media_type = own;
        }
        let document = Document::parse_within(descriptor, bytes, &self.limits)?;
        let children = document.children();
        if children.len() > self.limits.children {
            return Err(limit(digest, "the number of blobs named by one document", self.limits.children as u64));
        }
        let depth = self.known.get(digest).map_or(0, |known| known.depth);
        for child in children {
            self.meet(digest, child, depth)?;
        }
        self.documents.push(document);
        self.forget(digest, at);
        Ok(())
    }

    /// Records that a pending document is not to be had, and that the graph is to be without it: engines hold indexes of many
    /// platforms and the images of one. Its parent still names it.
    ///
    /// # Errors
    /// When it is not pending, or is the root.
    pub fn skip(&mut self, digest: &Digest) -> Result<(), GraphError> {
        match self.positions.get(digest) {
            Some(&at) if *digest != self.root.digest => {
                self.forget(digest, at);
                Ok(())
            }
            _ => Err(GraphError::Unexpected { digest: digest.clone(), what: "left out but not to be" }),
        }
    }

    /// It is no longer pending.
    fn forget(&mut self, digest: &Digest, at: usize) {
        self.positions.remove(digest);
        self.pending.swap_remove(at);
        if let Some(moved) = self.pending.get(at) {
            self.positions.insert(moved.digest.clone(), at);
        }
    }

    /// The whole graph.
    ///
    /// # Errors
    /// When documents are still pending, or the graph is deeper or more entangled than its limits allow.
    pub fn finish(self) -> Result<Graph, GraphError> {
        match self.pending.first() {
            Some(pending) => Err(GraphError::Unexpected { digest: pending.digest.clone(), what: "never supplied" }),
            None => arrange::arrange(self.root, self.documents, &self.limits),
        }
    }

    /// Takes note of a blob that `parent` names, and makes it pending if it is a document not yet known.
    fn meet(&mut self, parent: &Digest, child: &Descriptor, parent_depth: usize) -> Result<(), GraphError> {
        let kind = child.kind();
        let depth = parent_depth + usize::from(matches!(kind, Kind::Index | Kind::Manifest));
        // Without this check a chain of indexes would be read to its end before it is refused.
        if depth > self.limits.depth {
            return Err(limit(parent, arrange::DEPTH, self.limits.depth as u64));
        }
        if let Some(known) = self.known.get_mut(&child.digest) {
            let was_document = Kind::of(&known.media_type).is_document();
            known.also(child)?;
            if was_document || !kind.is_document() {
                return Ok(());
            }
        } else if self.known.len() >= self.limits.blobs {
            return Err(limit(parent, "the number of blobs", self.limits.blobs as u64));
        }
        if kind.is_document() {
            Document::check_size(child, &self.limits)?;
            let total_bytes = self.total_bytes.saturating_add(child.size);
            if total_bytes > self.limits.total_bytes {
                return Err(limit(parent, "the size of all documents together", self.limits.total_bytes));
            }
            self.total_bytes = total_bytes;
            self.positions.insert(child.digest.clone(), self.pending.len());
            self.pending.push(child.clone());
        }
        let known = SeenBlob { media_type: child.media_type.clone(), has_two_types: false, size: child.size, depth };
        self.known.insert(child.digest.clone(), known);
        Ok(())
    }
}

impl SeenBlob {
    /// Adds another descriptor of the blob. One blob may be several things, such as a layer and a config; it has one size, and a
    /// document is of one kind.
    fn also(&mut self, other: &Descriptor) -> Result<(), GraphError> {
        let (kind, known) = (other.kind(), Kind::of(&self.media_type));
        if self.size != other.size || kind.is_document() && known.is_document() && kind != known {
            return Err(GraphError::Conflict {
                digest: other.digest.clone(),
                first: self.media_type.clone(),
                first_size: self.size,
                second: other.media_type.clone(),
                second_size: other.size,
            });
        }
        if kind.is_document() && kind == known {
            self.has_two_types |= self.media_type != other.media_type;
        } else if kind.demand() > known.demand() {
            self.media_type.clone_from(&other.media_type);
        }
        Ok(())
    }
}

fn limit(digest: &Digest, what: &'static str, limit: u64) -> GraphError {
    GraphError::Limit { digest: digest.clone(), what, limit }
}
