//! The documents of an image, as far as the engine holds them.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Deserialize;
use tonic::Code;

use super::super::proto::Reason;
use super::super::refusal::Refusal;
use crate::engine::images::Images;
use crate::image::{Config, Descriptor, Digest, Document, Kind, Limits, Manifest, Platform, View};
use crate::source::{SourceError, read_document};

/// The documents below a root. What is absent, but for the root, is left out.
#[derive(Debug)]
pub(super) struct Tree {
    root: Descriptor,
    documents: HashMap<Digest, Document>,
    /// Who named each document first; the root has none.
    parents: HashMap<Digest, Digest>,
}

/// One image of a tree.
#[derive(Debug, Clone, Copy)]
pub(super) struct Image<'a> {
    /// How it is named: the root, or an entry of an index.
    pub(super) entry: &'a Descriptor,
    /// Its manifest, if it is there.
    pub(super) manifest: Option<(&'a Document, &'a Manifest)>,
    /// Its config, if it is there.
    pub(super) config: Option<&'a Config>,
}

impl Image<'_> {
    /// As its entry says, otherwise as its config does.
    pub(super) fn platform(&self) -> Option<&Platform> {
        self.entry.platform.as_ref().or(self.config.map(|config| &config.platform))
    }
}

impl Tree {
    /// Reads the documents below `root`, which must be an index or a manifest, within the default [`Limits`].
    pub(super) async fn load(images: &dyn Images, root: &Descriptor) -> Result<Self, Refusal> {
        let limits = Limits::default();
        let mut tree = Self { root: root.clone(), documents: HashMap::new(), parents: HashMap::new() };
        let (mut wanted, mut seen, mut bytes) = (vec![(root.clone(), 1)], HashSet::new(), 0u64);
        while let Some((descriptor, depth)) = wanted.pop() {
            if !seen.insert(descriptor.digest.clone()) {
                continue;
            }
            bytes = bytes.saturating_add(descriptor.size);
            let is_too_large = descriptor.size > limits.bytes_of(descriptor.kind()) || bytes > limits.total_bytes;
            if is_too_large || depth > limits.depth + 1 || seen.len() > limits.blobs {
                let message = format!("{}: the image is deeper or larger than is read here", descriptor.digest);
                return Err(Refusal::new(Code::InvalidArgument, Reason::DocumentInvalid, message));
            }
            let Some(document) = read(images, &descriptor).await? else { continue };
            for child in document.children().into_iter().filter(|child| child.kind().is_document()) {
                let digest = || descriptor.digest.clone();
                tree.parents.entry(child.digest.clone()).or_insert_with(digest);
                wanted.push((child.clone(), depth + 1));
            }
            tree.documents.insert(descriptor.digest, document);
        }
        if tree.documents.contains_key(&root.digest) {
            return Ok(tree);
        }
        Err(super::absent(&format!("blob {}", root.digest), "it was removed meanwhile, or never came"))
    }

    /// The document of this digest, if it is there.
    pub(super) fn document(&self, digest: &Digest) -> Option<&Document> {
        self.documents.get(digest)
    }

    /// Everything that may stand for an image or its attestations: the root, or the entries of all indexes, in order.
    pub(super) fn entries(&self) -> Vec<&Descriptor> {
        let (mut found, mut open, mut seen) = (Vec::new(), vec![&self.root], HashSet::new());
        while let Some(entry) = open.pop() {
            match self.document(&entry.digest).map(|document| &document.view) {
                Some(View::Index(index)) if seen.insert(&entry.digest) => open.extend(index.manifests.iter().rev()),
                Some(View::Index(_)) => {}
                _ => found.push(entry),
            }
        }
        found
    }

    /// Every image, whether its documents are there or not; attestations are none.
    pub(super) fn images(&self) -> Vec<Image<'_>> {
        let is_image = |entry: &&Descriptor| entry.kind() == Kind::Manifest && !entry.is_attestation();
        let image = |entry| {
            let manifest = self.manifest(entry);
            let config = manifest.and_then(|(_, manifest)| match &self.document(&manifest.config.digest)?.view {
                View::Config(config) => Some(config),
                _ => None,
            });
            Image { entry, manifest, config }
        };
        self.entries().into_iter().filter(is_image).map(image).collect()
    }

    /// The manifest that an entry names, if it is there.
    pub(super) fn manifest(&self, entry: &Descriptor) -> Option<(&Document, &Manifest)> {
        let document = self.document(&entry.digest)?;
        match &document.view {
            View::Manifest(manifest) => Some((document, manifest)),
            _ => None,
        }
    }

    /// The way from the root down to a document, both included.
    pub(super) fn way(&self, to: &Digest) -> Vec<&Document> {
        let mut way: Vec<_> = self.document(to).into_iter().collect();
        let mut at = to;
        while *at != self.root.digest
            && let Some(parent) = self.parents.get(at)
        {
            way.extend(self.document(parent));
            at = parent;
        }
        way.reverse();
        way
    }
}

/// A document, if the engine holds it.
async fn read(images: &dyn Images, descriptor: &Descriptor) -> Result<Option<Document>, Refusal> {
    let bytes = match read_document(images, descriptor).await {
        Err(SourceError::NotFound { .. }) => return Ok(None),
        bytes => bytes?,
    };
    let invalid = |error: crate::image::DocumentError| {
        Refusal::new(Code::InvalidArgument, Reason::DocumentInvalid, format!("the image is invalid: {error}"))
    };
    Document::parse(descriptor.clone(), bytes).map(Some).map_err(invalid)
}

/// The annotations that an index or a manifest gives itself.
pub(super) fn annotations(document: &Document) -> Result<BTreeMap<String, String>, Refusal> {
    #[derive(Deserialize)]
    struct Annotated {
        #[serde(default)]
        annotations: Option<BTreeMap<String, String>>,
    }
    let read: Result<Annotated, _> = serde_json::from_slice(&document.bytes);
    read.map(|read| read.annotations.unwrap_or_default()).map_err(|error| {
        let message = format!("the annotations of {}: {error}", document.descriptor.digest);
        Refusal::new(Code::InvalidArgument, Reason::DocumentInvalid, message)
    })
}
