//! Pushing manifests and indexes: stored by their digest, and with a tag made an image of the engine.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION};
use http::{Response, StatusCode};
use tokio_util::sync::CancellationToken;

use super::Door;
use super::access::Readable;
use super::blobs::digest_of;
use super::push::{Push, PushLease, Pushes, UploadBody};
use super::query;
use super::refusal::{Code, Refusal};
use super::repository::Repository;
use super::response::{CONTENT_DIGEST, empty, put};
use super::subjects::Subject;
use crate::activity::Arrival;
use crate::engine::images::Images;
use crate::engine::{EngineError, UnpackFor};
use crate::export::{ExportError, Request, Rights};
use crate::http2::Body;
use crate::image::{Algorithm, Descriptor, Digest, Document, Graph, Kind, Limits, Reference, media_type_of};
use crate::net::Principal;
use crate::progress::{Event, Events};
use crate::source::{
    BlobLookup, ChoiceError, Chunks, OnMissing, ReadGraphError, Source, SourceError, part, read_graph,
};

/// The most tags in a query.
const MAX_TAGS: usize = 46;
/// How many look-ups are under way at once.
const LOOKUPS: usize = 64;

const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const TAG: HeaderName = HeaderName::from_static("oci-tag");

/// A manifest on its way.
struct Pushed {
    document: Document,
    /// The names to set.
    names: Vec<Reference>,
    /// The tags among them that are in the query.
    tags: Vec<String>,
    subject: Subject,
}

impl Pushed {
    /// Whether an index is to come that lists it: then it is no image by itself.
    fn awaits_index(&self) -> bool {
        self.names.is_empty() && (self.subject.digest.is_none() || self.subject.is_listed)
    }
}

impl Door {
    /// The response to a PUT of a manifest.
    pub(super) async fn put_manifest(
        &self,
        pushes: &Pushes,
        (repository, reference, query): (&Repository, &str, Option<&str>),
        (headers, body): (&HeaderMap, &mut UploadBody),
        client: &Principal,
    ) -> Result<Response<Body>, Refusal> {
        let Names { digest: named, names, tags } = names(repository, reference, query)?;
        self.exports.policy(client).check(&names)?;
        let limit = usize::try_from(Limits::default().document_bytes).unwrap_or(usize::MAX);
        let bytes = body.whole(limit).await?;
        let algorithm = named.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let digest = Digest::of(algorithm, &bytes);
        if let Some(named) = named.filter(|named| *named != digest) {
            let message = format!("the content has the digest {digest}");
            return Err(Refusal::bad(Code::DigestInvalid, message).about("digest", named.as_str()));
        }
        let media_type = media_type(headers, &bytes)?;
        let descriptor = Descriptor::new(media_type, digest, bytes.len() as u64);
        let document = Document::parse(descriptor, bytes)
            .map_err(|error| Refusal::bad(Code::ManifestInvalid, error.to_string()))?;
        let subject = Subject::of(&document.bytes).map_err(|error| {
            let message = format!("`subject` is no descriptor: {error}");
            Refusal::bad(Code::ManifestInvalid, message)
        })?;
        let pushed = Pushed { document, names, tags, subject };
        let readable = self.readable(repository, client).await?;
        let push = pushes.of(repository, client).await?;
        let leased = push.leased();
        match self.store((repository, client), &push, &leased, &pushed, &readable).await {
            Err(refusal) if refusal.is_lease_lost => {
                let renewed = push.renew(&leased).await?;
                self.store((repository, client), &push, &renewed, &pushed, &readable).await?;
            }
            stored => stored?,
        }
        // It holds the push, which ends with the last of those that do.
        drop(readable);
        if !pushed.names.is_empty() {
            pushes.finish(push);
        }
        let mut response = empty(StatusCode::CREATED);
        let (headers, digest) = (response.headers_mut(), pushed.document.descriptor.digest.as_str());
        put(headers, LOCATION, &format!("/v2/{}/manifests/{digest}", repository.name));
        put(headers, CONTENT_DIGEST, digest);
        if let Some(subject) = &pushed.subject.digest {
            put(headers, SUBJECT, subject.as_str());
        }
        for tag in &pushed.tags {
            headers.extend(HeaderValue::from_str(tag).ok().map(|tag| (TAG, tag)));
        }
        Ok(response)
    }

    /// Stores a manifest under the lease of its push, and makes it an image if it gets a name.
    async fn store(
        &self,
        (repository, client): (&Repository, &Principal),
        push: &Push,
        leased: &PushLease,
        pushed: &Pushed,
        readable: &Readable,
    ) -> Result<(), Refusal> {
        let root = &pushed.document.descriptor;
        let _committing = push.committing.lock().await;
        let graph = Arc::new(self.pushed_graph(&pushed.document, readable).await?);
        self.check_shown(&graph, readable).map_err(|digests| blobs_unknown(&digests))?;
        self.check_leaves(&graph).await?;
        if pushed.awaits_index() {
            let pinned: HashSet<_> =
                leased.lease.pin_graph(&graph).await?.into_iter().map(|blob| blob.digest).collect();
            push.uploaded(&root.digest, root.size, Arrival::Sent);
            let leaves = graph.leaves().iter().filter(|leaf| leaf.kind() != Kind::ForeignLayer);
            let gone: Vec<_> = leaves.map(|leaf| leaf.digest.clone()).filter(|leaf| !pinned.contains(leaf)).collect();
            return if gone.is_empty() { Ok(()) } else { Err(blobs_unknown(&gone)) };
        }
        self.check_subjects(repository, &graph, readable, client).await?;
        let (mut names, mut kept_as) = (pushed.names.clone(), None);
        if names.is_empty() && (self.exports.has_rules() || self.exports.engine().identity().kind.is_docker()) {
            // What refers to another manifest is found by that, and has no tag. A name with its digest says in which repository it
            // is, which matters where rules part the clients; and docker would remove what has no name with `docker image prune`.
            kept_as = format!("{}@{}", push.repository, root.digest).parse::<Reference>().ok();
            names.extend(kept_as.clone());
        }
        let origin = push.origin();
        let (unpack, received) = (UnpackFor::CommitIfPossible, push.received());
        let request = Request { unpack, received, kept_as, ..Request::new(root.clone(), names, origin) };
        let (packed, cancel) = (Arc::<OnceLock<String>>::default(), CancellationToken::new());
        let first = packed.clone();
        let events = Events::new(move |event| {
            if let Event::NotUnpacked { reason } = event {
                first.get_or_init(|| reason.clone());
            }
        });
        let committed = self.exports.commit(request, graph.clone(), leased.lease.clone(), events, cancel).await;
        // It is counted as an export that failed.
        committed.map_err(|error| not_committed(error, &self.exports.policy(client)).uncounted())?;
        push.has_committed(&graph);
        if let Some(reason) = packed.get() {
            let names: Vec<_> = pushed.names.iter().map(ToString::to_string).collect();
            tracing::warn!(digest = %root.digest, ?names, reason, "an image was stored that cannot be unpacked, and so not run");
            self.packed.add(&root.digest);
        }
        Ok(())
    }

    /// The graph of a manifest: of an index with the images that are there, of which there must be one, or all of it.
    async fn pushed_graph(&self, document: &Document, readable: &Readable) -> Result<Graph, Refusal> {
        let (source, root) = (WithPushed { images: &self.images, document, readable }, &document.descriptor);
        if !readable.is_limited()
            && root.kind() == Kind::Index
            && let Some(part) = part(&source, root).await?
        {
            return Ok(part.graph);
        }
        Ok(read_graph(&source, root.clone(), Limits::default(), OnMissing::Collect).await?)
    }

    /// Refuses a graph of which the engine lacks blobs, or has others than their descriptors say.
    async fn check_leaves(&self, graph: &Graph) -> Result<(), Refusal> {
        let look =
            async |leaf: &Descriptor| Ok::<_, EngineError>((leaf.clone(), self.images.size(&leaf.digest).await?));
        let leaves = graph.leaves().iter().filter(|leaf| leaf.kind() != Kind::ForeignLayer);
        let looking: Vec<_> = leaves.map(look).collect();
        let found: Vec<_> = stream::iter(looking).buffered(LOOKUPS).try_collect().await?;
        let missing: Vec<_> =
            found.iter().filter(|(_, size)| size.is_none()).map(|(leaf, _)| leaf.digest.clone()).collect();
        if !missing.is_empty() {
            return Err(blobs_unknown(&missing));
        }
        match found.iter().find(|(leaf, size)| *size != Some(leaf.size)) {
            Some((leaf, size)) => {
                let size = size.unwrap_or_default();
                let message = format!("{} has {size} bytes, and its descriptor says {}", leaf.digest, leaf.size);
                Err(Refusal::bad(Code::ManifestInvalid, message))
            }
            None => Ok(()),
        }
    }
}

/// What a request names.
struct Names {
    /// The digest in the path.
    digest: Option<Digest>,
    /// The names to set.
    names: Vec<Reference>,
    /// The tags in the query, whose names are among these.
    tags: Vec<String>,
}

fn names(repository: &Repository, reference: &str, query: Option<&str>) -> Result<Names, Refusal> {
    let digest = if reference.contains(':') { Some(digest_of(reference)?) } else { None };
    let mut names = Vec::new();
    if digest.is_none() {
        names.push(repository.tagged(reference)?);
    }
    let mut tags = query::values(query, "tag");
    let mut seen = HashSet::new();
    tags.retain(|tag| seen.insert(tag.clone()));
    if tags.len() > MAX_TAGS {
        let message = format!("{} tags; expected {MAX_TAGS} at most", tags.len());
        return Err(Refusal::new(StatusCode::URI_TOO_LONG, Code::TagInvalid, message));
    }
    for tag in &tags {
        let name = repository.tagged(tag)?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(Names { digest, names, tags })
}

/// The media type of a manifest: what the client says, without parameters, or what the document says of itself.
fn media_type(headers: &HeaderMap, bytes: &[u8]) -> Result<String, Refusal> {
    let said = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let said = said.split(';').next().unwrap_or_default().trim();
    if matches!(Kind::of(said), Kind::Index | Kind::Manifest) {
        return Ok(said.to_owned());
    }
    let is_vague = matches!(said, "" | "application/octet-stream" | "application/json");
    let own = media_type_of(bytes).filter(|own| is_vague && matches!(Kind::of(own), Kind::Index | Kind::Manifest));
    own.ok_or_else(|| {
        let shown: String = said.chars().take(128).collect();
        let message = "this is neither a manifest nor an index of OCI or Docker (schema 2)";
        let status = if is_vague { StatusCode::BAD_REQUEST } else { StatusCode::UNSUPPORTED_MEDIA_TYPE };
        Refusal::new(status, Code::ManifestInvalid, message).about("mediaType", shown)
    })
}

/// The engine's blobs that a client may read, and the manifest that is just pushed and not stored yet. What it may not read is
/// absent: a size or a type that does not fit would say what it is.
#[derive(Debug)]
struct WithPushed<'a> {
    images: &'a Arc<dyn Images>,
    document: &'a Document,
    readable: &'a Readable,
}

#[async_trait]
impl Source for WithPushed<'_> {
    fn name(&self) -> &str {
        self.images.name()
    }

    async fn open(&self, blob: &Descriptor, offset: u64) -> Result<Chunks, SourceError> {
        if blob.digest != self.document.descriptor.digest {
            if !self.readable.has(&blob.digest) {
                return Err(SourceError::NotFound { name: self.name().to_owned(), digest: blob.digest.clone() });
            }
            return self.images.open(blob, offset).await;
        }
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.document.bytes.len());
        Ok(stream::iter([Ok(self.document.bytes.slice(start..))]).boxed())
    }
}

#[async_trait]
impl BlobLookup for WithPushed<'_> {
    async fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, SourceError> {
        if *digest == self.document.descriptor.digest {
            return Ok(Some(self.document.descriptor.size));
        }
        if !self.readable.has(digest) {
            return Ok(None);
        }
        self.images.blob_size(digest).await
    }
}

/// A manifest names blobs that the engine lacks.
fn blobs_unknown(digests: &[Digest]) -> Refusal {
    const SHOWN: usize = 100;
    let shown: Vec<_> = digests.iter().take(SHOWN).map(Digest::as_str).collect();
    let message = format!("the manifest names {} blobs that were not pushed", digests.len());
    Refusal::bad(Code::ManifestBlobUnknown, message).about("digests", shown)
}

/// A document below the manifest cannot be read.
fn unread(error: SourceError) -> Refusal {
    match error {
        SourceError::NotFound { digest, .. } => blobs_unknown(&[digest]),
        // It is there, and its descriptor has another size.
        SourceError::Length { .. } => Refusal::bad(Code::ManifestInvalid, error.to_string()),
        error => error.into(),
    }
}

impl From<ReadGraphError> for Refusal {
    fn from(error: ReadGraphError) -> Self {
        match error {
            ReadGraphError::Missing { documents, .. } => blobs_unknown(&documents),
            ReadGraphError::Graph(error) => Self::bad(Code::ManifestInvalid, error.to_string()),
            ReadGraphError::Source(error) => unread(error),
        }
    }
}

impl From<ChoiceError> for Refusal {
    fn from(error: ChoiceError) -> Self {
        match error {
            ChoiceError::Source(error) => unread(error),
            ChoiceError::Platform { .. } => {
                Self::bad(Code::ManifestBlobUnknown, "no image of the index was pushed with all its blobs")
            }
            error => Self::bad(Code::ManifestInvalid, error.to_string()),
        }
    }
}

impl From<ExportError> for Refusal {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::NameDenied { .. } | ExportError::NameTaken { .. } => {
                Self::new(StatusCode::FORBIDDEN, Code::Denied, error.to_string())
            }
            ExportError::Graph(_) | ExportError::NameDigest { .. } => {
                Self::bad(Code::ManifestInvalid, error.to_string())
            }
            ExportError::Engine(EngineError::Missing { digests } | EngineError::Vanished { digests }) => {
                blobs_unknown(&digests)
            }
            // The layers are not what engines unpack.
            ExportError::Engine(
                error @ (EngineError::Unpack { .. } | EngineError::Unsuitable { .. } | EngineError::Corrupt { .. }),
            ) => Self::bad(Code::ManifestInvalid, error.to_string()),
            ExportError::Engine(error @ EngineError::Graph(_)) => Self::bad(Code::ManifestInvalid, error.to_string()),
            ExportError::Engine(EngineError::Commit { engine: "docker", ref reason }) if !is_denial(reason) => {
                Self::bad(Code::ManifestInvalid, error.to_string())
            }
            // The engine's own word, such as that of an authorization plugin.
            ExportError::Engine(error @ (EngineError::Commit { .. } | EngineError::NameMoved { .. })) => {
                Self::new(StatusCode::FORBIDDEN, Code::Denied, error.to_string())
            }
            ExportError::Engine(error) => error.into(),
            ExportError::Source(error) => error.into(),
            ExportError::Cancelled | ExportError::NameBusy { .. } | ExportError::Broken(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, error.to_string())
            }
        }
    }
}

/// The refusal of a push. What a name points to is told only to who may pull it.
fn not_committed(error: ExportError, rights: &Rights<'_>) -> Refusal {
    match &error {
        ExportError::NameTaken { name, .. } | ExportError::Engine(EngineError::NameMoved { name, .. })
            if !rights.may_pull(name) =>
        {
            let message = format!("the name `{name}` does not point to this image, and must not move");
            Refusal::new(StatusCode::FORBIDDEN, Code::Denied, message)
        }
        _ => error.into(),
    }
}

/// Whether docker refused its client, and not the image (moby `daemon/pkg/authorization/authz.go`).
fn is_denial(reason: &str) -> bool {
    reason.contains("authorization denied by plugin")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_docker_cannot_take_is_not_forbidden() {
        let refused = |reason: &str| {
            let refusal =
                Refusal::from(ExportError::Engine(EngineError::Commit { engine: "docker", reason: reason.to_owned() }));
            (refusal.status.as_u16(), refusal.code)
        };
        assert_eq!(refused("invalid archive: no manifest found"), (400, Code::ManifestInvalid));
        assert_eq!(refused("authorization denied by plugin opa: no pushes"), (403, Code::Denied));
    }
}
