//! Which documents of the engine refer to a subject.
//!
//! Neither containerd nor a layout has a list of them: the roots of all records and the entries of their indexes are read.
//! What a document says never changes, so that each is read once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;

use super::parts::Parts;
use crate::engine::EngineError;
use crate::engine::images::{Images, Query};
use crate::image::{Descriptor, Digest, Document, Kind, Limits};
use crate::source::read_document;

/// How many documents are remembered.
const MAX_KNOWN: usize = 20_000;
/// How large the annotations of a remembered document are together; of others they are read again.
const MAX_ANNOTATIONS: usize = 16 << 10;
/// How many documents are looked into for one request.
const MAX_READ: usize = 100_000;
/// How many are read at once.
const PARALLEL: usize = 16;

/// What documents say of others.
#[derive(Debug)]
pub(super) struct Subjects {
    images: Arc<dyn Images>,
    known: Mutex<HashMap<Digest, Arc<Facts>>>,
    /// Which documents that refer to others have a blob.
    parts: Mutex<Parts>,
}

/// A repository, to whose images a search is limited.
#[derive(Clone, Copy)]
pub(super) struct Within<'a> {
    /// Its full name.
    pub(super) repository: &'a str,
    /// Whether an image of that full name is one that counts.
    pub(super) shows: &'a (dyn Fn(&str) -> bool + Sync),
}

/// The part of a document that matters here.
#[derive(Debug, Default)]
struct Facts {
    /// The document's descriptor as a referrer, with the subject.
    referrer: Option<(Digest, Descriptor)>,
    /// The manifests in an index.
    children: Vec<Descriptor>,
}

/// Manifests and indexes, as far as the specification of referrers reads them.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    #[serde(default)]
    subject: Option<SubjectDescriptor>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    config: Option<Typed>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
}

#[derive(Debug, Deserialize)]
struct SubjectDescriptor {
    digest: Digest,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Typed {
    #[serde(default)]
    media_type: Option<String>,
}

impl Subjects {
    pub(super) fn new(images: Arc<dyn Images>) -> Self {
        Self { images, known: Mutex::default(), parts: Mutex::default() }
    }

    /// The descriptors of the documents whose subject is `digest`, ordered by their digests, in the images of one repository or of
    /// all.
    pub(super) async fn referrers(
        &self,
        digest: &Digest,
        within: Option<Within<'_>>,
    ) -> Result<Vec<Descriptor>, EngineError> {
        let (mut found, mut seen) = (Vec::new(), HashSet::new());
        let mut next = self.roots(within).await?;
        // An index in an index is looked into, and so on: each document once.
        while !next.is_empty() && seen.len() < MAX_READ {
            next.retain(|blob| is_manifest(blob) && seen.insert(blob.digest.clone()));
            let reading: Vec<_> = next.iter().map(|blob| self.facts(blob)).collect();
            let facts: Vec<_> = stream::iter(reading).buffered(PARALLEL).collect().await;
            next = Vec::new();
            for facts in facts.into_iter().flatten() {
                let is_of_it = |(subject, _): &&(Digest, Descriptor)| subject == digest;
                found.extend(facts.referrer.as_ref().filter(is_of_it).map(|(_, referrer)| referrer.clone()));
                next.extend(facts.children.iter().cloned());
            }
        }
        found.sort_by(|one, other| one.digest.cmp(&other.digest));
        Ok(found)
    }

    /// The subjects and the digests of the documents that are `digest`, or have it as a blob as far as they were read before.
    pub(super) async fn referrers_with(&self, digest: &Digest) -> Result<Vec<(Digest, Digest)>, EngineError> {
        let documents = self.parts.lock().unwrap_or_else(PoisonError::into_inner).documents_with(digest).cloned();
        let mut found = Vec::new();
        for document in documents.into_iter().flatten().chain([digest.clone()]) {
            let Some(document) = self.images.identify(&document).await?.filter(is_manifest) else { continue };
            let facts = self.facts(&document).await;
            let subject = facts.and_then(|facts| facts.referrer.as_ref().map(|(subject, _)| subject.clone()));
            found.extend(subject.map(|subject| (subject, document.digest)));
        }
        Ok(found)
    }

    /// The roots of all records, unnamed ones included, or of those of a repository.
    async fn roots(&self, within: Option<Within<'_>>) -> Result<Vec<Descriptor>, EngineError> {
        let prefixes = match &within {
            None => vec![String::new()],
            Some(within) => [':', '@'].map(|end| format!("{}{end}", within.repository)).to_vec(),
        };
        let shows = |name: Option<&str>| within.is_none_or(|within| name.is_some_and(within.shows));
        let (mut roots, mut seen) = (Vec::new(), 0);
        for prefix in prefixes {
            let mut query = Query { prefix, ..Query::default() };
            loop {
                let page = self.images.list(&query).await?;
                seen += page.records.len();
                let shown = page.records.into_iter().filter(|record| shows(record.name.as_deref()));
                roots.extend(shown.map(|record| record.target));
                match page.next {
                    Some(next) if seen < MAX_READ => query.after = Some(next),
                    _ => break,
                }
            }
        }
        Ok(roots)
    }

    /// Notes which blobs a document has that refers to another one.
    fn note_parts(&self, document: &Descriptor, bytes: Bytes) {
        let Ok(parsed) = Document::parse(document.clone(), bytes) else { return };
        let own = parsed.children().into_iter().filter(|child| child.kind() != Kind::ForeignLayer);
        let own = own.map(|child| child.digest.clone());
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).note(&document.digest, own);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Facts>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `document` says; `None` if the engine lacks it, or it is none.
    async fn facts(&self, document: &Descriptor) -> Option<Arc<Facts>> {
        let known = self.known().get(&document.digest).cloned();
        if let Some(facts) = known {
            // What it says is known, but not whether it is still there.
            let is_referrer = facts.referrer.is_some();
            let is_there = !is_referrer || matches!(self.images.size(&document.digest).await, Ok(Some(_)));
            return is_there.then_some(facts);
        }
        let bytes = read_document(&self.images, document).await.ok()?;
        if !document.digest.verify(&bytes) {
            return None;
        }
        let facts = Arc::new(Facts::of(document, &bytes).unwrap_or_default());
        if facts.referrer.is_some() {
            self.note_parts(document, bytes);
        }
        if facts.annotation_bytes() <= MAX_ANNOTATIONS {
            let mut known = self.known();
            if known.len() >= MAX_KNOWN {
                known.clear();
            }
            known.insert(document.digest.clone(), facts.clone());
        }
        Some(facts)
    }
}

/// What BuildKit's attestations of an image say that they are (BuildKit `exporter/containerimage/writer.go`).
const ATTESTATION: &str = "application/vnd.docker.attestation.manifest.v1+json";

/// What a pushed document says of another one.
#[derive(Debug, Default)]
pub(super) struct Subject {
    /// The subject, if it names one.
    pub(super) digest: Option<Digest>,
    /// Whether an index is to come that lists it.
    pub(super) is_listed: bool,
}

impl Subject {
    /// # Errors
    /// When the subject is no descriptor.
    pub(super) fn of(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Document {
            #[serde(default)]
            subject: Option<SubjectDescriptor>,
            #[serde(default)]
            artifact_type: Option<serde_json::Value>,
        }
        let Document { subject, artifact_type } = serde_json::from_slice(bytes)?;
        let is_listed = artifact_type.is_some_and(|kind| kind == ATTESTATION);
        Ok(Self { digest: subject.map(|subject| subject.digest), is_listed })
    }
}

impl Facts {
    fn of(document: &Descriptor, bytes: &[u8]) -> Option<Self> {
        let fields: Fields = serde_json::from_slice(bytes).ok()?;
        let children = fields.manifests.unwrap_or_default();
        let bare = |child: Descriptor| Descriptor::new(child.media_type, child.digest, child.size);
        let children = children.into_iter().filter(is_manifest).map(bare).collect();
        let artifact_type = fields.artifact_type.filter(|kind| !kind.is_empty());
        // A manifest without a type has its config's (distribution specification, "Listing Referrers").
        let artifact_type = artifact_type.or_else(|| fields.config?.media_type);
        let referrer = Descriptor {
            artifact_type,
            annotations: fields.annotations.unwrap_or_default(),
            ..Descriptor::new(document.media_type.clone(), document.digest.clone(), document.size)
        };
        Some(Self { referrer: fields.subject.map(|subject| (subject.digest, referrer)), children })
    }

    fn annotation_bytes(&self) -> usize {
        let annotations = self.referrer.iter().flat_map(|(_, referrer)| &referrer.annotations);
        annotations.map(|(key, value)| key.len() + value.len()).sum()
    }
}

fn is_manifest(blob: &Descriptor) -> bool {
    matches!(blob.kind(), Kind::Index | Kind::Manifest) && blob.size <= Limits::default().document_bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_of_an_artifact_is_its_own_or_its_configs() {
        let manifest = "application/vnd.oci.image.manifest.v1+json";
        let subject = Digest::sha256(b"subject");
        let of = |rest: &str| {
            let text = format!(r#"{{"subject":{{"digest":"{subject}","size":1}}{rest}}}"#);
            let document = Descriptor::new(manifest, Digest::sha256(text.as_bytes()), text.len() as u64);
            let (found, referrer) = Facts::of(&document, text.as_bytes()).unwrap().referrer.unwrap();
            assert_eq!((found, referrer.digest), (subject.clone(), document.digest));
            (referrer.artifact_type, referrer.annotations)
        };
        let config = r#","config":{"mediaType":"a/config"}"#;
        assert_eq!(of(config).0.as_deref(), Some("a/config"));
        assert_eq!(of(&format!(r#","artifactType":"a/b"{config}"#)).0.as_deref(), Some("a/b"));
        assert_eq!(of(&format!(r#","artifactType":""{config}"#)).0.as_deref(), Some("a/config"));
        assert_eq!(of(r#","annotations":{"k":"v"}"#), (None, BTreeMap::from([("k".to_owned(), "v".to_owned())])));
    }

    #[test]
    fn a_document_without_a_subject_refers_to_nothing() {
        let child = Descriptor::new("application/vnd.oci.image.manifest.v1+json", Digest::sha256(b"x"), 7);
        let text =
            serde_json::json!({ "manifests": [child, { "mediaType": "a/b", "digest": child.digest, "size": 1 }] });
        let facts = Facts::of(&child, text.to_string().as_bytes()).unwrap();
        assert!(facts.referrer.is_none());
        assert_eq!(facts.children.as_slice(), std::slice::from_ref(&child));
        assert!(Facts::of(&child, b"{").is_none() && Facts::of(&child, br#"{"subject":{"digest":"x"}}"#).is_none());
    }
}
