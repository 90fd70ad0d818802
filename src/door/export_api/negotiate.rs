//! Negotiate: what must be sent, and pinning what need not.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tonic::Code;

use super::session::Session;
use crate::content_server::Labels;
use crate::engine::Pin;
use crate::export_v1::ApiError;
use crate::export_v1::convert::descriptor;
use crate::export_v1::limits::NEGOTIATE_DESCRIPTORS;
use crate::export_v1::proto::{self, Negotiated, Standing};
use crate::image::{Descriptor, Digest, DocumentError, Graph, GraphError, Kind, Limits};
use crate::source::{OnMissing, ReadGraphError, SourceError, read_graph};

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
            // The API calls a blob adoptable that an engine can mount from another namespace.
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
            let pinned = session.contents.lease.pin_graph(&graph).await?;
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
    let sizes = session.contents.lease.pin(&pins).await?;
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

/// The image of `root`, if the engine holds all its documents and they are intact. A document that is damaged, or cannot be
/// read, is added to `damaged`.
pub(super) async fn graph(session: &Session, root: &Descriptor, damaged: &mut HashSet<Digest>) -> Option<Arc<Graph>> {
    let error = match read_graph(&*session.contents.images, root.clone(), Limits::default(), OnMissing::Stop).await {
        Ok(graph) => return Some(Arc::new(graph)),
        Err(error) => error,
    };
    // What else the engine holds may be anything; it is pinned as it is, and Commit says what is wrong with it.
    let digest = match &error {
        ReadGraphError::Source(SourceError::Read { digest, .. } | SourceError::Length { digest, .. }) => digest,
        ReadGraphError::Graph(GraphError::Document(DocumentError::DigestMismatch { expected, .. })) => expected,
        _ => return None,
    };
    match &error {
        // The engine may be away, or its file: that a document is damaged is not known.
        ReadGraphError::Source(SourceError::Read { .. }) => {
            tracing::warn!(export = session.id, %error, "a document of the engine cannot be read");
        }
        _ => tracing::warn!(export = session.id, %error, "a document of the engine is damaged"),
    }
    damaged.insert(digest.clone());
    None
}
