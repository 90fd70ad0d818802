//! Negotiate: what must be sent, and pinning what need not.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tonic::Code;

use super::scope::{Labels, Times};
use super::session::Session;
use crate::engine::{EngineError, Pin};
use crate::export_v1::ApiError;
use crate::export_v1::convert::descriptor;
use crate::export_v1::limits::NEGOTIATE_DESCRIPTORS;
use crate::export_v1::proto::{self, Negotiated, Standing};
use crate::image::{Descriptor, Digest, DocumentError, Graph, GraphError, Kind, Limits};
use crate::source::{OnMissing, ReadGraphError, SourceError, read_graph};

/// How many look-ups are under way at once.
const LOOKUPS: usize = 64;

/// The response to one message.
pub(super) async fn negotiate(session: &Session, messages: &[proto::Descriptor]) -> Result<Vec<Negotiated>, ApiError> {
    let blobs = parse(messages)?;
    let unknown = |blob: &&Descriptor| session.scope().get(&blob.digest).is_none();
    pin(session, blobs.iter().filter(unknown).cloned().collect()).await?;
    let (mut partial, mut mountable) = (HashMap::new(), HashSet::new());
    let absent: Vec<_> = blobs.iter().filter(unknown).collect();
    if !absent.is_empty() {
        let ingests = session.ingests()?;
        let statuses = ingests.statuses().await?;
        partial.extend(statuses.into_iter().map(|status| (status.reference, status.offset)));
        let digests: Vec<_> = absent.iter().map(|blob| blob.digest.clone()).collect();
        let sizes = ingests.mountable(&digests).await?;
        let whole = absent.into_iter().zip(sizes).filter(|(blob, size)| *size == Some(blob.size));
        mountable.extend(whole.map(|(blob, _)| blob.digest.clone()));
    }
    let scope = session.scope();
    let negotiated = |blob: &Descriptor| {
        let digest = blob.digest.to_string();
        if scope.get(&blob.digest).is_some() {
            return Negotiated { digest, standing: Standing::Present.into(), ..Negotiated::default() };
        }
        let offset = partial.get(&digest).and_then(|&offset| i64::try_from(offset).ok()).unwrap_or(0);
        let (standing, offset) = match mountable.contains(&blob.digest) {
            true => (Standing::Adoptable, 0),
            false if offset > 0 => (Standing::Partial, offset),
            false => (Standing::Missing, 0),
        };
        Negotiated { digest: digest.clone(), standing: standing.into(), offset, r#ref: digest }
    };
    Ok(blobs.iter().map(negotiated).collect())
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

/// Pins those of `blobs` that the engine holds, and adds them to the scope. The blobs that a document refers to are pinned
/// by that document, so that the number of writes does not grow with the image, and looked up once; the others are pinned
/// one by one. A blob that is damaged, or has another size than its descriptor says, is as good as none: the right one can
/// be sent, and takes its place; if the descriptor is wrong, Commit says so.
async fn pin(session: &Session, mut blobs: Vec<Descriptor>) -> Result<(), ApiError> {
    let mut damaged = HashSet::new();
    let mut roots: Vec<_> = blobs.iter().filter(|blob| matches!(blob.kind(), Kind::Index | Kind::Manifest)).collect();
    // Indexes first: most manifests are pinned then.
    roots.sort_by_key(|blob| blob.kind() != Kind::Index);
    let (mut known, mut absent) = (HashSet::new(), HashSet::new());
    for root in roots {
        if session.scope().get(&root.digest).is_none()
            && let Some(graph) = graph(session, root, &mut damaged).await
        {
            let pinned = session.lease.pin_graph(&graph).await?;
            known.extend(pinned.iter().map(|blob| blob.digest.clone()));
            absent.extend(graph.leaves().iter().map(|leaf| leaf.digest.clone()).filter(|leaf| !known.contains(leaf)));
            add_to_scope(session, pinned)?;
        }
    }
    let mut seen = HashSet::new();
    blobs.retain(|Descriptor { digest, .. }| {
        let is_settled = damaged.contains(digest) || absent.contains(digest) || session.scope().get(digest).is_some();
        !is_settled && seen.insert(digest.clone())
    });
    if blobs.is_empty() {
        return Ok(());
    }
    let pins: Vec<_> = blobs.iter().map(Pin::from).collect();
    let sizes = session.lease.pin(&pins).await?;
    for (blob, size) in blobs.iter().zip(&sizes) {
        if let Some(size) = size.filter(|size| *size != blob.size) {
            let (export, digest, expected) = (&session.id, &blob.digest, blob.size);
            tracing::warn!(export, %digest, expected, size, "a blob of the engine has another size than its descriptor");
        }
    }
    let there = blobs.into_iter().zip(sizes).filter(|(blob, size)| *size == Some(blob.size));
    add_to_scope(session, there.map(|(blob, _)| blob))
}

fn add_to_scope(session: &Session, blobs: impl IntoIterator<Item = Descriptor>) -> Result<(), ApiError> {
    let mut scope = session.scope();
    for blob in blobs {
        scope.add(blob.digest, blob.size, Labels::new())?;
    }
    Ok(())
}

/// The image of `root`, if the engine holds all its documents and they are intact. A document that is damaged is added to
/// `damaged`.
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

/// Restores the scope of an export of an earlier process: what its lease pins, and what documents among that refer to. Of
/// what is no document only the beginning is read: an export may pin many thousand layers.
pub(super) async fn restore_scope(session: &Session) -> Result<(), EngineError> {
    let pinned: Vec<Digest> = session.lease.pinned().await?;
    let looked: Vec<_> = pinned.iter().map(|digest| look(session, digest)).collect();
    let found: Vec<_> = stream::iter(looked).buffered(LOOKUPS).try_collect().await?;
    let blobs: Vec<_> = found.into_iter().flatten().collect();
    for root in blobs.iter().filter(|blob| matches!(blob.kind(), Kind::Index | Kind::Manifest)) {
        // One that cannot be read is in the scope by itself.
        let Some(graph) = graph(session, root, &mut HashSet::new()).await else { continue };
        let pinned = session.lease.pin_graph(&graph).await?;
        let mut scope = session.scope();
        for blob in pinned {
            // More than the limit was never let in.
            let _ = scope.add(blob.digest, blob.size, Labels::new());
        }
    }
    let ingests = session.ingests()?.statuses().await?;
    let mut scope = session.scope();
    for status in ingests {
        scope.set_times(&status.reference, Times { started: status.started, updated: status.updated });
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
