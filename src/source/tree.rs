//! The documents of an image that a source has: engines often hold an index of many platforms and the blobs of one.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Deserialize;

use super::{Source, SourceError, read_document};
use crate::image::{Config, Descriptor, Digest, Document, DocumentError, Kind, Limits, Manifest, Platform, View};

/// The annotation that names an attestation's image (buildkit `docs/attestations/attestation-storage.md`).
const SUBJECT: &str = "vnd.docker.reference.digest";
/// The annotation that names the predicate type of a statement.
pub(crate) const PREDICATE: &str = "in-toto.io/predicate-type";

/// Why the documents of an image cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TreeError {
    /// The root is no image.
    #[error("{digest} is neither an index nor a manifest, but `{media_type}`")]
    Root { digest: Digest, media_type: String },
    /// The source lacks the root.
    #[error("{source_name} does not hold {digest}: it was removed, or never arrived")]
    Absent { source_name: String, digest: Digest },
    /// It exceeds the default [`Limits`].
    #[error("{digest}: the image exceeds the limits of depth or size")]
    Limit { digest: Digest },
    /// A document is invalid.
    #[error("the image is invalid: {0}")]
    Document(#[from] DocumentError),
    /// The source cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// The documents below a root that the source has.
#[derive(Debug)]
pub(crate) struct Tree {
    root: Descriptor,
    documents: HashMap<Digest, Document>,
    /// The parent that named each document first; the root has none.
    parents: HashMap<Digest, Digest>,
}

/// One image of a tree.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Image<'a> {
    /// Its descriptor: the root, or an entry of an index.
    pub(crate) entry: &'a Descriptor,
    /// Its manifest, if the source has it.
    pub(crate) manifest: Option<(&'a Document, &'a Manifest)>,
    /// Its config, if the source has it.
    pub(crate) config: Option<&'a Config>,
}

impl Image<'_> {
    /// The platform in the entry, else the one in the config.
    pub(crate) fn platform(&self) -> Option<&Platform> {
        self.entry.platform.as_ref().or(self.config.map(|config| &config.platform))
    }
}

impl Tree {
    /// Reads the documents below `root`, an index or a manifest, within the default [`Limits`].
    pub(crate) async fn load(source: &dyn Source, root: &Descriptor) -> Result<Self, TreeError> {
        if !matches!(root.kind(), Kind::Index | Kind::Manifest) {
            return Err(TreeError::Root { digest: root.digest.clone(), media_type: root.media_type.clone() });
        }
        let limits = Limits::default();
        let mut tree = Self { root: root.clone(), documents: HashMap::new(), parents: HashMap::new() };
        let (mut pending, mut seen, mut bytes) = (vec![(root.clone(), 1)], HashSet::new(), 0u64);
        while let Some((descriptor, depth)) = pending.pop() {
            if !seen.insert(descriptor.digest.clone()) {
                continue;
            }
            bytes = bytes.saturating_add(descriptor.size);
            let is_too_large = descriptor.size > limits.bytes_of(descriptor.kind()) || bytes > limits.total_bytes;
            if is_too_large || depth > limits.depth + 1 || seen.len() > limits.blobs {
                return Err(TreeError::Limit { digest: descriptor.digest });
            }
            let Some(document) = read(source, &descriptor).await? else { continue };
            for child in document.children().into_iter().filter(|child| child.kind().is_document()) {
                let digest = || descriptor.digest.clone();
                tree.parents.entry(child.digest.clone()).or_insert_with(digest);
                pending.push((child.clone(), depth + 1));
            }
            tree.documents.insert(descriptor.digest, document);
        }
        if tree.documents.contains_key(&root.digest) {
            return Ok(tree);
        }
        Err(TreeError::Absent { source_name: source.name().to_owned(), digest: root.digest.clone() })
    }

    /// The document with this digest, if the source has it.
    pub(crate) fn document(&self, digest: &Digest) -> Option<&Document> {
        self.documents.get(digest)
    }

    /// The descriptors of images and attestations: the root, or the entries of all indexes, in order.
    pub(crate) fn entries(&self) -> Vec<&Descriptor> {
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

    /// Every image, whether the source has its documents or not; without attestations.
    pub(crate) fn images(&self) -> Vec<Image<'_>> {
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

    /// The image that fits `requested` best, whether the source has it or not; of several that fit equally well, the first.
    pub(crate) fn image_for(&self, requested: &Platform) -> Option<Image<'_>> {
        let images = self.images().into_iter();
        let fits = images.filter_map(|image| Some((image.platform()?.fit(requested)?, image)));
        fits.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, image)| image)
    }

    /// The root and every blob that the documents name, each once.
    pub(crate) fn blobs(&self) -> Vec<&Descriptor> {
        let named = self.documents.values().flat_map(Document::children);
        let mut seen = HashSet::new();
        std::iter::once(&self.root).chain(named).filter(|blob| seen.insert(&blob.digest)).collect()
    }

    /// The attestations of the image `entry` that the source has, each with its descriptor.
    pub(crate) fn attestations(&self, entry: &Descriptor) -> Vec<(&Descriptor, &Manifest)> {
        let about = |other: &&Descriptor| {
            other.is_attestation() && other.annotations.get(SUBJECT).is_some_and(|of| *of == entry.digest.as_str())
        };
        let entries = self.entries().into_iter().filter(about);
        entries.filter_map(|other| Some((other, self.manifest(other)?.1))).collect()
    }

    /// The manifest of an entry, if the source has it.
    pub(crate) fn manifest(&self, entry: &Descriptor) -> Option<(&Document, &Manifest)> {
        let document = self.document(&entry.digest)?;
        match &document.view {
            View::Manifest(manifest) => Some((document, manifest)),
            _ => None,
        }
    }

    /// The path from the root to a document, both included.
    pub(crate) fn way(&self, to: &Digest) -> Vec<&Document> {
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

/// A document, if the source has it.
async fn read(source: &dyn Source, descriptor: &Descriptor) -> Result<Option<Document>, TreeError> {
    let bytes = match read_document(source, descriptor).await {
        Err(SourceError::NotFound { .. }) => return Ok(None),
        bytes => bytes?,
    };
    Ok(Some(Document::parse(descriptor.clone(), bytes)?))
}

/// The annotations of an index or a manifest itself.
pub(crate) fn annotations(document: &Document) -> Result<BTreeMap<String, String>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Annotated {
        #[serde(default)]
        annotations: Option<BTreeMap<String, String>>,
    }
    let read: Annotated = serde_json::from_slice(&document.bytes)?;
    Ok(read.annotations.unwrap_or_default())
}
