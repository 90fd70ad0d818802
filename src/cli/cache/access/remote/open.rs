//! Versions that are read: found and held by Resolve, read by Content.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};

use super::RemoteCaches;
use super::messages::{amount, descriptor, failure, version};
use crate::cache_v1::proto::{ResolveRequest, ResolvedPart};
use crate::caches::{CacheError, CopySource};
use crate::cli::cache::access::readable;
use crate::engine::caches::CacheVersion;
use crate::engine::remote::CacheBlobs;
use crate::image::cache::CacheRoot;
use crate::image::{Descriptor, Digest, DocumentError, Limits};
use crate::source::read_document;

const OPERATION: &str = "resolving a build cache";

impl RemoteCaches {
    /// Versions of one cache, held until the end of the command.
    pub(super) async fn resolve(&self, versions: Vec<CacheVersion>) -> Result<Vec<CopySource>, CacheError> {
        let Some(first) = versions.first() else { return Ok(Vec::new()) };
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
        let (mut sources, mut unusable) = (Vec::new(), Vec::new());
        for version in versions {
            match (&hold, parts.remove(&version.id)) {
                (Some(hold), Some(part)) => sources.push(source(version, &part, hold).await?),
                _ => unusable.push(self.why(version).await),
            }
        }
        readable(sources, unusable)
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
    let listed = root(version.root.clone(), hold).await?;
    let absent: HashSet<Digest> = match amount(part.missing_layers) {
        0 => HashSet::new(),
        _ => {
            let offered = root(descriptor(OPERATION, part.root.as_ref())?, hold).await?;
            let present: HashSet<_> = offered.layers.iter().map(|layer| &layer.digest).collect();
            let layers = listed.layers.iter().map(|layer| &layer.digest);
            layers.filter(|digest| !present.contains(digest)).cloned().collect()
        }
    };
    Ok(CopySource::new(version, Arc::new(listed), absent, hold.clone()))
}

/// A root in a hold.
async fn root(descriptor: Descriptor, hold: &Arc<CacheBlobs>) -> Result<CacheRoot, CacheError> {
    let (size, limit) = (descriptor.size, Limits::default().document_bytes);
    if size > limit {
        let (digest, media_type) = (descriptor.digest, descriptor.media_type);
        return Err(CacheError::Document(DocumentError::TooLarge { digest, media_type, size, limit }.into()));
    }
    let bytes = read_document(&**hold, &descriptor).await?;
    Ok(CacheRoot::parse(descriptor, bytes)?)
}
