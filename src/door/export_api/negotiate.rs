//! Negotiate: what must be sent, and holding what need not.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tonic::Code;

use super::scope::{Labels, Times};
use super::session::Session;
use crate::engine::EngineError;
use crate::export_v1::ApiError;
use crate::export_v1::convert::descriptor;
use crate::export_v1::limits::NEGOTIATE_DESCRIPTORS;
use crate::export_v1::proto::{self, Negotiated, Standing};
use crate::image::{Descriptor, Digest, DocumentError, Graph, GraphError, Kind, Limits};
use crate::source::{OnMissing, ReadGraphError, SourceError, read_graph};

/// How many look-ups are under way at once.
const LOOKUPS: usize = 64;

/// Answers one message.
pub(super) async fn negotiate(session: &Session, messages: &[proto::Descriptor]) -> Result<Vec<Negotiated>, ApiError> {
    let blobs = parse(messages)?;
    let unknown = |blob: &&Descriptor| session.scope().get(&blob.digest).is_none();
    let candidates: Vec<_> = present(session, blobs.iter().filter(unknown)).await?;
    hold(session, candidates).await?;
    let (mut partial, mut adoptable) = (HashMap::new(), HashSet::new());
    let absent: Vec<_> = blobs.iter().filter(unknown).collect();
    if !absent.is_empty() {
        let uploads = session.uploads()?;
        let statuses = uploads.statuses().await?;
        partial.extend(statuses.into_iter().map(|status| (status.name, status.offset)));
        let digests: Vec<_> = absent.iter().map(|blob| blob.digest.clone()).collect();
        let sizes = uploads.adoptable(&digests).await?;
        let whole = absent.into_iter().zip(sizes).filter(|(blob, size)| *size == Some(blob.size));
        adoptable.extend(whole.map(|(blob, _)| blob.digest.clone()));
    }
    let scope = session.scope();
    let answer = |blob: &Descriptor| {
        let digest = blob.digest.to_string();
        if scope.get(&blob.digest).is_some() {
            return Negotiated { digest, standing: Standing::Present.into(), ..Negotiated::default() };
        }
        let offset = partial.get(&digest).and_then(|&offset| i64::try_from(offset).ok()).unwrap_or(0);
        let (standing, offset) = match adoptable.contains(&blob.digest) {
            true => (Standing::Adoptable, 0),
            false if offset > 0 => (Standing::Partial, offset),
            false => (Standing::Missing, 0),
        };
        Negotiated { digest: digest.clone(), standing: standing.into(), offset, r#ref: digest }
    };
    Ok(blobs.iter().map(answer).collect())
}

fn parse(messages: &[proto::Descriptor]) -> Result<Vec<Descriptor>, ApiError> {
    if messages.len() > NEGOTIATE_DESCRIPTORS {
        let message = format!("{} descriptors in one message; at most {NEGOTIATE_DESCRIPTORS}", messages.len());
        return Err(ApiError::limit(Code::InvalidArgument, "negotiate_descriptors", NEGOTIATE_DESCRIPTORS, message));
    }
    let (mut blobs, mut wrong) = (Vec::with_capacity(messages.len()), Vec::new());
    for (at, message) in messages.iter().enumerate() {
        match descriptor(&format!("descriptors[{at}]"), message) {
            Ok(blob) => blobs.push(blob),
            Err(violations) => wrong.extend(violations),
        }
    }
    if wrong.is_empty() { Ok(blobs) } else { Err(ApiError::fields(wrong)) }
}

/// Those of `blobs` that the engine holds, each once. One that has another size there is as good as none: what is
/// right can be sent, and takes its place; if it is the descriptor that is wrong, Commit says so.
async fn present<'a>(
    session: &Session,
    blobs: impl Iterator<Item = &'a Descriptor>,
) -> Result<Vec<Descriptor>, ApiError> {
    let mut seen = HashSet::new();
    let lookups: Vec<_> = blobs
        .filter(|blob| seen.insert(blob.digest.clone()))
        .map(|blob| async move { Ok::<_, EngineError>((blob, session.images.size(&blob.digest).await?)) })
        .collect();
    let found: Vec<_> = stream::iter(lookups).buffered(LOOKUPS).try_collect().await?;
    for (blob, size) in &found {
        if let Some(size) = size.filter(|size| *size != blob.size) {
            let (export, digest, expected) = (&session.id, &blob.digest, blob.size);
            tracing::warn!(export, %digest, expected, size, "a blob of the engine has another size than its descriptor");
        }
    }
    Ok(found.into_iter().filter(|(blob, size)| *size == Some(blob.size)).map(|(blob, _)| blob.clone()).collect())
}

/// Holds `blobs`, and takes those into the scope that are there then. What a document names is held by it, so that the
/// number of writes does not grow with the image; the rest is held one by one. Documents that are not what their
/// digests say are left out: they are to be sent again.
async fn hold(session: &Session, mut blobs: Vec<Descriptor>) -> Result<(), ApiError> {
    let mut damaged = HashSet::new();
    let mut roots: Vec<_> = blobs.iter().filter(|blob| matches!(blob.kind(), Kind::Index | Kind::Manifest)).collect();
    // Indexes first: most manifests are then held already.
    roots.sort_by_key(|blob| blob.kind() != Kind::Index);
    for root in roots {
        if session.scope().get(&root.digest).is_none()
            && let Some(graph) = graph(session, root, &mut damaged).await
        {
            let held = session.ingest.hold(&graph).await?;
            take_in(session, held.present.into_iter().chain(held.stored))?;
        }
    }
    blobs.retain(|blob| !damaged.contains(&blob.digest));
    let left: Vec<_> = blobs.iter().filter(|blob| session.scope().get(&blob.digest).is_none()).collect();
    let wanted: Vec<_> = left.iter().copied().cloned().collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let sizes = session.uploads()?.pin_sized(&wanted).await?;
    let there = left.into_iter().zip(sizes).filter(|(blob, size)| *size == Some(blob.size));
    take_in(session, there.map(|(blob, _)| blob.clone()))
}

fn take_in(session: &Session, blobs: impl Iterator<Item = Descriptor>) -> Result<(), ApiError> {
    let mut scope = session.scope();
    for blob in blobs {
        scope.add(blob.digest, blob.size, Labels::new())?;
    }
    Ok(())
}

/// The image of `root`, if the engine holds all its documents and they are in order. One that cannot be read as what it is
/// to be is added to `damaged`.
async fn graph(session: &Session, root: &Descriptor, damaged: &mut HashSet<Digest>) -> Option<Arc<Graph>> {
    let error = match read_graph(&*session.images, root.clone(), Limits::default(), OnMissing::Stop).await {
        Ok(graph) => return Some(Arc::new(graph)),
        Err(error) => error,
    };
    // What else the engine holds may be anything; it is pinned as it is, and Commit says what is wrong with it.
    let digest = match &error {
        ReadGraphError::Source(SourceError::Read { digest, .. } | SourceError::Length { digest, .. }) => digest,
        ReadGraphError::Graph(GraphError::Document(DocumentError::DigestMismatch { expected, .. })) => expected,
        _ => return None,
    };
    tracing::warn!(export = session.id, %error, "a document of the engine is damaged");
    damaged.insert(digest.clone());
    None
}

/// Makes out what an export of an earlier process held: what its lease names, and what documents among that name. Of
/// what is no document only the beginning is read: an export may hold many thousand layers.
pub(super) async fn take_up(session: &Session) -> Result<(), EngineError> {
    let pinned: Vec<Digest> = session.uploads()?.pinned().await?;
    let looked: Vec<_> = pinned.iter().map(|digest| look(session, digest)).collect();
    let found: Vec<_> = stream::iter(looked).buffered(LOOKUPS).try_collect().await?;
    let blobs: Vec<_> = found.into_iter().flatten().collect();
    for root in blobs.iter().filter(|blob| matches!(blob.kind(), Kind::Index | Kind::Manifest)) {
        let held = match graph(session, root, &mut HashSet::new()).await {
            Some(graph) => session.ingest.hold(&graph).await?,
            // It is in the scope by itself.
            None => continue,
        };
        let mut scope = session.scope();
        for blob in held.present {
            // More than the limit was never let in.
            let _ = scope.add(blob.digest, blob.size, Labels::new());
        }
    }
    let refs = session.uploads()?.statuses().await?;
    let mut scope = session.scope();
    for status in refs {
        scope.set_times(&status.name, Times { started: status.started, updated: status.updated });
    }
    for blob in blobs {
        let _ = scope.add(blob.digest, blob.size, Labels::new());
    }
    Ok(())
}

/// What a blob of the engine is: with its media type if it is a document that names others.
async fn look(session: &Session, digest: &Digest) -> Result<Option<Descriptor>, EngineError> {
    let Some(size) = session.images.size(digest).await? else { return Ok(None) };
    let blob = Descriptor::new("", digest.clone(), size);
    if size > Limits::default().document_bytes || !begins_as_document(session, &blob).await {
        return Ok(Some(blob));
    }
    session.images.identify(digest).await
}

/// Whether the first bytes of `blob` may be those of a JSON object.
async fn begins_as_document(session: &Session, blob: &Descriptor) -> bool {
    let Ok(mut chunks) = session.images.open(blob, 0).await else { return false };
    while let Some(Ok(chunk)) = chunks.next().await {
        if let Some(first) = chunk.iter().find(|byte| !byte.is_ascii_whitespace()) {
            return *first == b'{';
        }
    }
    false
}
