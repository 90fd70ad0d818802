//! Versions that are written: an export of the caching API for each.

use std::sync::atomic::Ordering;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::timeout;
use tonic::{Response, Status};

use super::RemoteCaches;
use super::messages::{absent, dropped, version};
use crate::cache_v1::proto::commit_response::Event;
use crate::cache_v1::proto::{
    AbortRequest, CommitRequest, CommitTarget, CopiedPart, GetRequest, OpenRequest, Target, TargetResult,
};
use crate::caches::{CacheError, CacheRef, Copied, CopySource};
use crate::engine::caches::CacheDocument;
use crate::engine::remote::CacheBlobs;
use crate::engine::stream::SILENCE;
use crate::engine::{EngineError, InFlight, Opened, Origin, PARALLEL};
use crate::export_v1::ApiError;
use crate::export_v1::convert::descriptor_message;
use crate::export_v1::proto::{ExportState, Reason};
use crate::image::{Descriptor, Digest};
use crate::source::{Chunks, Source};

/// The only target of an export of ours.
const TARGET: &str = "copy";
/// How our idempotency keys begin.
const KEY: &str = "linkspan-copy-";

/// The documents of a version.
type Documents = (CacheDocument, CacheDocument);

impl RemoteCaches {
    /// Stores a version. The first attempt finds the export of an earlier command for the same version that was killed or lost
    /// its daemon, and what that has sent; an export that has ended, or that somebody else writes, is left alone.
    pub(super) async fn store(
        &self,
        from: &CopySource,
        reference: &CacheRef,
        origin: &Origin,
    ) -> Result<Copied, CacheError> {
        let documents = from.documents().await?;
        let CopySource { version, .. } = from;
        let target = Target {
            id: TARGET.to_owned(),
            r#ref: reference.to_string(),
            mode: version.mode.clone(),
            copied_part: Some(CopiedPart { key: version.part.clone(), title: version.title.clone() }),
            ..Target::default()
        };
        let request = |key: &str| OpenRequest {
            targets: vec![target.clone()],
            idempotency_key: key.to_owned(),
            builder: origin.builder.clone(),
            ..OpenRequest::default()
        };
        if let Some(id) = self.open_export(request(&key(from, reference))).await? {
            let sent = self.send(&id, from, &documents).await;
            let is_shared = match &sent {
                Err(error) => self.is_shared(&id, error).await,
                Ok(_) => false,
            };
            if !is_shared {
                return self.ended(&id, sent).await;
            }
            tracing::debug!(export = id, "somebody else writes the same version");
        }
        match self.open_export(request("")).await? {
            Some(id) => {
                let sent = self.send(&id, from, &documents).await;
                self.ended(&id, sent).await
            }
            None => Err(absent("opening an export of a build cache", "its id")),
        }
    }

    /// Opens an export; `None` if that of its key has ended, or is another client's.
    async fn open_export(&self, request: OpenRequest) -> Result<Option<String>, CacheError> {
        // From now on: a call that is interrupted may have opened it.
        self.is_copying.store(true, Ordering::Relaxed);
        let call = async {
            match self.connection.caches().open(request).await {
                Err(status) if is_conflict(&status) => Ok(Response::new(None)),
                response => Ok(response?.map(Some)),
            }
        };
        let opened = self.connection.unary("opening an export of a build cache", call).await?;
        let export = opened.and_then(|opened| opened.export).filter(|export| is_under_way(export.state()));
        self.is_copying.store(export.is_some(), Ordering::Relaxed);
        Ok(export.map(|export| export.id))
    }

    /// Whether what failed is an export that another process writes, or has ended.
    async fn is_shared(&self, id: &str, error: &CacheError) -> bool {
        if matches!(error, CacheError::Engine(EngineError::Busy { .. })) {
            return true;
        }
        if is_lost(error) {
            return false;
        }
        let request = GetRequest { export_id: id.to_owned() };
        let call = async { self.connection.caches().get(request).await };
        let found = self.connection.unary("looking at an export of a build cache", call).await;
        found.is_ok_and(|found| found.export.is_some_and(|export| !is_under_way(export.state())))
    }

    /// Aborts an export that failed. One whose daemon went away is left to the next command.
    async fn ended(&self, id: &str, sent: Result<Copied, CacheError>) -> Result<Copied, CacheError> {
        if let Err(error) = &sent
            && !is_lost(error)
        {
            let request = AbortRequest { export_id: id.to_owned() };
            let call = async { self.connection.caches().abort(request).await };
            if let Err(error) = self.connection.unary("aborting an export of a build cache", call).await {
                tracing::debug!(%error, export = id, "the export stays until it expires");
            }
        }
        self.is_copying.store(false, Ordering::Relaxed);
        sent
    }

    /// Sends what the daemon lacks, and commits.
    async fn send(&self, id: &str, from: &CopySource, documents: &Documents) -> Result<Copied, CacheError> {
        let export = CacheBlobs::of_export(&self.connection, id)?;
        // Collected first: a lazy iterator held across an await defeats the compiler's check that this is `Send`.
        let (layers, in_flight) = (from.layers(), &InFlight::new());
        let writes: Vec<_> = layers.into_iter().map(|layer| write(&export, &*from.blobs, layer, in_flight)).collect();
        let sizes: Vec<u64> = stream::iter(writes).buffer_unordered(PARALLEL).try_collect().await?;
        let (config, root) = documents;
        for document in [config, root] {
            write_document(&export, document).await?;
        }
        let target = CommitTarget {
            target_id: TARGET.to_owned(),
            root: Some(descriptor_message(&root.descriptor)),
            absent_layers: sorted(from.absent.iter()),
        };
        let result = self.commit(CommitRequest { export_id: id.to_owned(), targets: vec![target] }).await?;
        if let Some(error) = result.error {
            return Err(EngineError::from(ApiError::from(error)).into());
        }
        let operation = "committing a build cache";
        Ok(Copied {
            version: version(operation, result.version)?,
            written: sizes.into_iter().fold(0, u64::saturating_add),
            replaced: result.replaced.map(|replaced| version(operation, Some(replaced))).transpose()?,
            dropped: result.dropped.into_iter().map(|it| dropped(operation, it)).collect::<Result<_, _>>()?,
        })
    }

    async fn commit(&self, request: CommitRequest) -> Result<TargetResult, CacheError> {
        let operation = "committing a build cache";
        let late = |_| self.connection.late(operation, SILENCE);
        let failed = |status: Status| self.connection.failure(operation, &status);
        let mut caches = self.connection.caches();
        let call = timeout(SILENCE, caches.commit(request)).await.map_err(late)?;
        let mut responses = call.map_err(failed)?.into_inner();
        loop {
            let message = timeout(SILENCE, responses.message()).await.map_err(late)?.map_err(failed)?;
            match message.and_then(|message| message.event) {
                Some(Event::Progress(_)) => {}
                Some(Event::Results(mut results)) if results.results.len() == 1 => {
                    return results.results.pop().ok_or_else(|| absent(operation, "the result"));
                }
                Some(Event::Results(_)) | None => return Err(absent(operation, "the result")),
            }
        }
    }
}

/// Sends a layer, unless the daemon has it. Returns how many bytes went.
async fn write(
    export: &CacheBlobs,
    source: &dyn Source,
    layer: &Descriptor,
    in_flight: &InFlight,
) -> Result<u64, CacheError> {
    let _permit = in_flight.enter(layer).await;
    let Opened::Writer(mut writer) = export.writer(layer).await? else { return Ok(0) };
    let begin = writer.offset();
    let mut chunks: Chunks =
        if begin < layer.size { source.open(layer, begin).await? } else { stream::empty().boxed() };
    while let Some(chunk) = chunks.next().await {
        writer.write(chunk?).await?;
    }
    writer.commit().await?;
    Ok(layer.size - begin.min(layer.size))
}

async fn write_document(export: &CacheBlobs, document: &CacheDocument) -> Result<(), CacheError> {
    let Opened::Writer(mut writer) = export.writer(&document.descriptor).await? else { return Ok(()) };
    let begin = usize::try_from(writer.offset()).unwrap_or(usize::MAX).min(document.bytes.len());
    writer.write(document.bytes.slice(begin..)).await?;
    Ok(writer.commit().await?)
}

/// The key by which a copy of the same version finds an export that is open: at most 128 bytes.
fn key(from: &CopySource, reference: &CacheRef) -> String {
    let CopySource { version, absent, .. } = from;
    let root = version.root.digest.as_str();
    let absent = sorted(absent.iter()).join(" ");
    let text = [reference.as_str(), &version.part, &version.title, &version.mode, root, &absent].join("\0");
    format!("{KEY}{}", Digest::sha256(text.as_bytes()).hex())
}

fn sorted<'a>(digests: impl Iterator<Item = &'a Digest>) -> Vec<String> {
    let mut texts: Vec<_> = digests.map(ToString::to_string).collect();
    texts.sort();
    texts
}

fn is_under_way(state: ExportState) -> bool {
    matches!(state, ExportState::Open | ExportState::Committing)
}

/// Whether the daemon went away.
fn is_lost(error: &CacheError) -> bool {
    matches!(error, CacheError::Engine(error) if error.is_disconnect())
}

/// Whether the key of an Open belongs to another client's export.
fn is_conflict(status: &Status) -> bool {
    ApiError::from_status(status).is_some_and(|error| error.reason == Reason::ExportConflict)
}
