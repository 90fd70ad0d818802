//! Exports of an earlier process, found again after a restart.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::negotiate::graph;
use super::record::Record;
use super::session::Session;
use super::sessions::Sessions;
use crate::engine::{DurableLease, EngineError, Lifetime};
use crate::image::{Descriptor, Digest, Kind, Limits};

/// How many look-ups are under way at once.
const LOOKUPS: usize = 64;

impl Sessions {
    /// Restores the exports of an earlier process with the same name.
    pub(super) async fn recover(&self) -> usize {
        self.exports.recover("export", |durable| self.restore(durable)).await
    }

    /// Restores one export; `false` if it is none of this server's, or has ended.
    async fn restore(&self, DurableLease { export, record, created }: DurableLease) -> Result<bool, EngineError> {
        let engine = self.exports.engine();
        if Record::is_of_another_service(&record) {
            return Ok(false);
        }
        let Some(record) = Record::read(&record) else {
            tracing::warn!(export, "an export of another version of linkspan is left alone until it expires");
            return Ok(false);
        };
        if !record.server.is_empty() && record.server != self.name {
            tracing::debug!(export, server = record.server, "an export of another server is left alone");
            return Ok(false);
        }
        let lifetime = Lifetime::Durable { record: "" };
        let origin = Session::origin(&export, &record, &record.principal);
        let lease = self.exports.lease(&origin, lifetime).await?;
        let session = Session::new(export.clone(), record, (lease, engine.images()?), created, None);
        let session = session.counted(&self.exports);
        restore_scope(&session).await?;
        session.list(self.exports.live(), &origin);
        self.sessions().insert(export, Arc::new(session));
        Ok(true)
    }
}

/// Restores the scope of an export of an earlier process: what its lease pins, and what documents among that refer to. Of
/// what is no document only the beginning is read: an export may pin many thousand layers.
async fn restore_scope(session: &Session) -> Result<(), EngineError> {
    let pinned: Vec<Digest> = session.contents.lease.pinned().await?;
    let looked: Vec<_> = pinned.iter().map(|digest| describe(session, digest)).collect();
    let found: Vec<_> = stream::iter(looked).buffered(LOOKUPS).try_collect().await?;
    let blobs: Vec<_> = found.into_iter().flatten().collect();
    let restore = |blobs: Vec<Descriptor>| session.scope().restore(blobs.into_iter().map(|it| (it.digest, it.size)));
    let mut is_whole = true;
    for root in blobs.iter().filter(|blob| matches!(blob.kind(), Kind::Index | Kind::Manifest)) {
        // One that cannot be read is in the scope by itself.
        let Some(graph) = graph(session, root, &mut HashSet::new()).await else { continue };
        is_whole &= restore(session.contents.lease.pin_graph(&graph).await?);
    }
    session.contents.restore_times().await?;
    is_whole &= restore(blobs);
    if !is_whole {
        session.contents.warn_of_incomplete_scope();
    }
    Ok(())
}

/// What a blob of the engine is: with its media type if it is a document that names others.
async fn describe(session: &Session, digest: &Digest) -> Result<Option<Descriptor>, EngineError> {
    let Some(size) = session.contents.images.size(digest).await? else { return Ok(None) };
    let blob = Descriptor::new("", digest.clone(), size);
    if size > Limits::default().document_bytes || !begins_as_document(session, &blob).await {
        return Ok(Some(blob));
    }
    session.contents.images.identify(digest).await
}

/// Whether the first bytes of `blob` may be those of a JSON object.
async fn begins_as_document(session: &Session, blob: &Descriptor) -> bool {
    let Ok(mut chunks) = session.contents.images.open(blob, 0).await else { return false };
    while let Some(Ok(chunk)) = chunks.next().await {
        if let Some(first) = chunk.iter().find(|byte| !byte.is_ascii_whitespace()) {
            return *first == b'{';
        }
    }
    false
}
