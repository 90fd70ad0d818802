//! Versions that are read: found and held by Resolve, read by Content.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};

use tokio::task::JoinError;

use super::RemoteCaches;
use super::messages::{amount, descriptor, failure, version};
use crate::cache_v1::proto::{ResolveRequest, ResolveResponse, ResolvedPart};
use crate::caches::{CacheError, CopySource, read_root};
use crate::cli::cache::access::{LeftOut, Readable};
use crate::engine::EngineError;
use crate::engine::caches::CacheVersion;
use crate::engine::remote::{CacheBlobs, HOLD_TTL};
use crate::export_v1::convert::duration_message;
use crate::image::Digest;

const OPERATION: &str = "resolving a build cache";

impl RemoteCaches {
    /// Versions of one cache, held until the end of the command.
    pub(super) async fn resolve(&self, versions: Vec<CacheVersion>) -> Result<Readable, CacheError> {
        let mut readable = Readable::default();
        let Some(first) = versions.first() else { return Ok(readable) };
        let request = ResolveRequest {
            refs: vec![first.reference.clone()],
            version_ids: versions.iter().map(|version| version.id.clone()).collect(),
            ttl: Some(duration_message(HOLD_TTL)),
            ..ResolveRequest::default()
        };
        let (resolved, hold) = self.hold(request).await?;
        let mut parts = HashMap::new();
        for part in resolved.parts {
            parts.insert(version(OPERATION, part.version.clone())?.id, part);
        }
        for version in versions {
            match (&hold, parts.remove(&version.id)) {
                (Some(hold), Some(part)) => readable.sources.push(source(version, &part, hold).await?),
                _ => {
                    let error = self.why(version.clone()).await;
                    readable.left_out.push(LeftOut { version, error });
                }
            }
        }
        Ok(readable)
    }

    /// Resolves what `request` asks for, and what it holds. To its end even if the command is interrupted meanwhile, so that
    /// [`CacheAccess::finish`](super::super::CacheAccess::finish) knows what to release.
    async fn hold(&self, request: ResolveRequest) -> Result<(ResolveResponse, Option<Arc<CacheBlobs>>), CacheError> {
        let (connection, holds) = (self.connection.clone(), self.holds.clone());
        let resolving = self.resolving.spawn(async move {
            let call = async { connection.caches().resolve(request).await };
            let resolved = connection.unary(OPERATION, call).await?;
            let hold = match resolved.hold_id.as_str() {
                "" => None,
                id => Some(Arc::new(CacheBlobs::of_hold(&connection, id)?)),
            };
            holds.lock().unwrap_or_else(PoisonError::into_inner).extend(hold.clone());
            Ok((resolved, hold))
        });
        let broken =
            |error: JoinError| EngineError::Protocol { operation: OPERATION.to_owned(), reason: error.to_string() };
        resolving.await.map_err(broken)?
    }

    /// Why a version is not offered.
    async fn why(&self, version: CacheVersion) -> CacheError {
        match self.inspected(&version).await {
            Ok(found) => match found.error {
                Some(error) => failure(error.into()),
                // It was lost in between, or can be read again.
                None => CacheError::Unknown { reference: version.reference },
            },
            Err(error) => error,
        }
    }
}

async fn source(version: CacheVersion, part: &ResolvedPart, hold: &Arc<CacheBlobs>) -> Result<CopySource, CacheError> {
    let listed = read_root(&**hold, &version.root).await?;
    let absent: HashSet<Digest> = match amount(part.missing_layers) {
        0 => HashSet::new(),
        _ => {
            let offered = read_root(&**hold, &descriptor(OPERATION, part.root.as_ref())?).await?;
            let present: HashSet<_> = offered.layers.iter().map(|layer| &layer.digest).collect();
            let layers = listed.layers.iter().map(|layer| &layer.digest);
            layers.filter(|digest| !present.contains(digest)).cloned().collect()
        }
    };
    Ok(CopySource::new(version, Arc::new(listed), absent, hold.clone()))
}
