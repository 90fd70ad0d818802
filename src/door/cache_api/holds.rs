//! What clients read: versions that stay until their hold ends.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tonic::Code;

use super::errors::no_hold;
use super::lifetime::Lifetime;
use super::messages::resolved;
use super::query::HeldPart;
use crate::cache_v1::limits::HOLDS;
use crate::cache_v1::proto::ResolveResponse;
use crate::caches::{CacheReader, CacheRef, Caches};
use crate::content_server::Blobs;
use crate::export::unique_id;
use crate::export_v1::ApiError;
use crate::export_v1::convert::timestamp;
use crate::image::Digest;

/// How the ids of holds begin.
pub(super) const PREFIX: &str = "hold-";

/// What one Resolve found.
#[derive(Debug)]
pub(super) struct Hold {
    /// The versions, as Query looks into them.
    pub(super) parts: Vec<HeldPart>,
    /// Their blobs. The versions stay as long as this, or a Read of it.
    reader: Arc<CacheReader>,
    lifetime: Mutex<Lifetime>,
}

/// All holds.
#[derive(Debug, Default)]
pub(super) struct Holds(Mutex<BTreeMap<String, Arc<Hold>>>);

impl Holds {
    fn holds(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Hold>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds what `refs` have and holds it.
    pub(super) async fn resolve(
        &self,
        caches: &Arc<Caches>,
        refs: &[CacheRef],
        ttl: Option<Duration>,
    ) -> Result<ResolveResponse, ApiError> {
        if self.holds().len() >= HOLDS {
            let message = format!("{HOLDS} holds are not released; release one of them, or wait until one expires");
            return Err(ApiError::limit(Code::ResourceExhausted, "holds", HOLDS, message));
        }
        let (mut versions, mut response) = (Vec::new(), ResolveResponse::default());
        for reference in refs {
            let parts = caches.resolve(reference).await?;
            if parts.is_empty() {
                response.unknown_refs.push(reference.to_string());
            }
            versions.extend(parts);
        }
        response.parts = versions.iter().map(resolved).collect();
        if response.parts.is_empty() {
            return Ok(response);
        }
        let lifetime = Lifetime::new(ttl);
        response.hold_id = format!("{PREFIX}{}", unique_id());
        response.expire_time = Some(timestamp(lifetime.expires));
        let (parts, reader) = (versions.iter().map(HeldPart::new).collect(), CacheReader::new(caches.blobs()));
        versions.into_iter().for_each(|part| reader.add(part));
        let hold = Hold { parts, reader, lifetime: Mutex::new(lifetime) };
        self.holds().insert(response.hold_id.clone(), Arc::new(hold));
        Ok(response)
    }

    pub(super) fn find(&self, id: &str) -> Result<Arc<Hold>, ApiError> {
        self.holds().get(id).cloned().ok_or_else(|| no_hold(id))
    }

    pub(super) fn release(&self, id: &str) {
        let released = self.holds().remove(id);
        drop(released);
    }

    /// When the hold ends now.
    pub(super) fn renew(&self, id: &str, ttl: Option<Duration>) -> Result<SystemTime, ApiError> {
        let hold = self.find(id)?;
        let mut lifetime = hold.lifetime.lock().unwrap_or_else(PoisonError::into_inner);
        lifetime.renew(ttl);
        Ok(lifetime.expires)
    }

    /// Ends what is over.
    pub(super) fn sweep(&self, now: SystemTime) {
        let is_over = |hold: &Arc<Hold>| hold.lifetime.lock().unwrap_or_else(PoisonError::into_inner).is_over(now);
        let over: Vec<_> = {
            let mut holds = self.holds();
            let over: Vec<_> = holds.iter().filter(|(_, hold)| is_over(hold)).map(|(id, _)| id.clone()).collect();
            over.iter().filter_map(|id| holds.remove(id)).collect()
        };
        drop(over);
    }
}

#[async_trait::async_trait]
impl Blobs for Hold {
    fn size(&self, digest: &Digest) -> Option<u64> {
        self.reader.size(digest)
    }

    async fn read(
        &self,
        digest: &Digest,
        offset: u64,
        size: u64,
    ) -> Result<BoxStream<'static, Result<Bytes, ApiError>>, ApiError> {
        let chunks = self.reader.read(digest, offset, size).await?;
        Ok(chunks.map(|chunk| chunk.map_err(ApiError::from)).boxed())
    }
}
