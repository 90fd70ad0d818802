//! Versions that are read: found and held by Resolve, read by Content.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};

use super::RemoteCaches;
use super::messages::{amount, descriptor, failure, version};
use crate::cache_v1::proto::{ResolveRequest, ResolvedPart};
use crate::caches::{CacheError, CopySource, read_root};
use crate::cli::cache::access::{LeftOut, Readable};
use crate::engine::caches::CacheVersion;
use crate::engine::remote::CacheBlobs;
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
            ..ResolveRequest::default()
        };
        let call = async { self.connection.caches().resolve(request).await };
        let resolved = self.connection.unary(OPERATION, call).await?;
        let mut parts = HashMap::new();
        for part in resolved.parts {
            parts.insert(version(OPERATION, part.version.clone())?.id, part);
        }
        let hold = match resolved.hold_id.as_str() {
            "" => None,
            id => Some(Arc::new(CacheBlobs::new(&self.connection, id)?)),
        };
        self.holds.lock().unwrap_or_else(PoisonError::into_inner).extend(hold.clone());
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
