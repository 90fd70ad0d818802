//! Holds: what the API calls a lease on the versions that a client reads.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use tonic::Code;

use super::errors::no_hold;
use super::lifetime::Lifetime;
use super::messages::{inline, resolved};
use super::query::QueriedPart;
use crate::cache_v1::limits::HOLDS;
use crate::cache_v1::proto::ResolveResponse;
use crate::caches::{CacheBlobs, CacheError, CacheReader, CacheRef, Caches, InlineCache};
use crate::engine::{Origin, Pin};
use crate::export::{Exports, HELD, Listed, PinnedBlobs, Progress, unique_id};
use crate::export_v1::ApiError;
use crate::export_v1::convert::timestamp;
use crate::image::{Platform, Reference};
use crate::net::Principal;

/// How the ids of holds begin.
pub(super) const PREFIX: &str = "hold-";

/// What one Resolve found.
#[derive(Debug)]
pub(super) struct Hold {
    /// The versions, as Query looks into them.
    pub(super) parts: Vec<QueriedPart>,
    /// Their blobs. The versions stay as long as this, or a Read of it.
    reader: Arc<CacheReader>,
    /// Keep the blobs, whatever other processes delete.
    _leases: Arc<PinnedBlobs>,
    lifetime: Mutex<Lifetime>,
    /// Until it ends.
    _listed: Listed,
}

impl Hold {
    /// How far it reaches.
    fn progress(&self) -> Progress {
        let (blobs, bytes) = self.reader.extent();
        Progress { state: Some(HELD), blobs, bytes, expires: Some(self.lifetime().expires) }
    }

    fn lifetime(&self) -> MutexGuard<'_, Lifetime> {
        self.lifetime.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a Resolve looks for.
#[derive(Debug)]
pub(super) struct ResolveQuery {
    pub(super) refs: Vec<CacheRef>,
    pub(super) platforms: Vec<Platform>,
    /// Only the versions with these ids, and no images; none: everything.
    pub(super) versions: HashSet<String>,
    pub(super) ttl: Option<Duration>,
    /// Who asks.
    pub(super) client: Principal,
}

/// All holds.
#[derive(Debug, Default)]
pub(super) struct Holds(Mutex<BTreeMap<String, Arc<Hold>>>);

impl Holds {
    fn holds(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Hold>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds what is requested and holds it.
    pub(super) async fn resolve(
        &self,
        caches: &Arc<Caches>,
        exports: &Arc<Exports>,
        query: &ResolveQuery,
    ) -> Result<ResolveResponse, ApiError> {
        check_count(&self.holds())?;
        let reader = CacheReader::new(caches.blobs());
        let leases = PinnedBlobs::new(exports);
        let (id, principal) = (format!("{PREFIX}{}", unique_id()), query.client.clone());
        let origin = Origin { export: id.clone(), door: "cache", builder: String::new(), principal };
        let (mut held, mut pins, mut response) = (Vec::new(), Vec::new(), ResolveResponse::default());
        let mut names = Vec::new();
        for reference in &query.refs {
            let is_meant = |id: &str| query.versions.is_empty() || query.versions.contains(id);
            let mut parts = caches.resolve_those(reference, is_meant).await?;
            // Images have names of their own: a cache comes first.
            let images = match parts.is_empty() && query.versions.is_empty() {
                true => images(caches, &leases, &origin, reference, query).await?,
                false => Vec::new(),
            };
            parts.retain(|part| part.may_be_of(&query.platforms));
            match parts.is_empty() && images.is_empty() {
                true => response.unknown_refs.push(reference.to_string()),
                false => names.push(format!("cache {reference}")),
            }
            for part in parts {
                response.parts.push(resolved(&part));
                pins.extend(part.blobs().chain([&part.listed.descriptor]).map(Pin::from));
                held.push(QueriedPart::new(&part));
                reader.add(part);
            }
            for cache in images {
                response.parts.push(inline(reference.as_str(), &cache));
                reader.add_inline(&cache);
                held.push(QueriedPart::of_image(cache));
            }
        }
        if response.parts.is_empty() {
            return Ok(response);
        }
        let listed = exports.live().add(&origin, names);
        leases.keep(origin, pins, reader.clone());
        let lifetime = Lifetime::new(query.ttl);
        response.expire_time = Some(timestamp(lifetime.expires));
        let hold = Arc::new_cyclic(|hold: &Weak<Hold>| {
            let hold = hold.clone();
            listed.ask(move || Some(hold.upgrade()?.progress()));
            Hold { parts: held, reader, _leases: leases, lifetime: Mutex::new(lifetime), _listed: listed }
        });
        let mut holds = self.holds();
        // Once more: others were resolved meanwhile.
        if let Err(error) = check_count(&holds) {
            // It takes other locks when it ends.
            drop(holds);
            drop(hold);
            return Err(error);
        }
        holds.insert(id.clone(), hold);
        response.hold_id = id;
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
        let mut lifetime = hold.lifetime();
        lifetime.renew(ttl);
        Ok(lifetime.expires)
    }

    /// Ends all of them.
    pub(super) fn clear(&self) {
        let all = std::mem::take(&mut *self.holds());
        drop(all);
    }

    /// Ends what is over.
    pub(super) fn sweep(&self, now: SystemTime) {
        let is_over = |hold: &Arc<Hold>| hold.lifetime().is_over(now);
        let over: Vec<_> = {
            let mut holds = self.holds();
            let over: Vec<_> = holds.iter().filter(|(_, hold)| is_over(hold)).map(|(id, _)| id.clone()).collect();
            over.iter().filter_map(|id| holds.remove(id)).collect()
        };
        drop(over);
    }
}

/// Refuses one hold more than there may be.
fn check_count(holds: &BTreeMap<String, Arc<Hold>>) -> Result<(), ApiError> {
    if holds.len() < HOLDS {
        return Ok(());
    }
    let message = format!("{HOLDS} holds are not released");
    let hint = "release one of them, or wait until one expires; `linkspan ps` lists them";
    Err(ApiError::limit(Code::ResourceExhausted, "holds", HOLDS, message).with_hint(Some(hint)))
}

/// The inline caches of the engine's image `reference`, pinned by one of `leases`. Those that cannot be kept are not offered.
async fn images(
    caches: &Caches,
    leases: &PinnedBlobs,
    origin: &Origin,
    reference: &CacheRef,
    query: &ResolveQuery,
) -> Result<Vec<InlineCache>, ApiError> {
    let Ok(name) = reference.as_str().parse::<Reference>() else { return Ok(Vec::new()) };
    let mut found = caches.inline(&name).await?;
    found.retain(|cache| query.platforms.is_empty() || query.platforms.contains(&cache.platform));
    if found.is_empty() {
        return Ok(found);
    }
    let pins: Vec<_> = found.iter().flat_map(InlineCache::blobs).map(Pin::from).collect();
    match leases.pin(origin, &pins).await {
        Ok(sizes) => {
            let lost = pins.iter().zip(sizes).filter(|(_, size)| size.is_none());
            let lost: HashSet<_> = lost.map(|(pin, _)| &pin.digest).collect();
            found.retain(|cache| !cache.blobs().any(|blob| lost.contains(&blob.digest)));
            Ok(found)
        }
        Err(error) => {
            tracing::warn!(%error, %name, "the inline cache of an image cannot be kept, and is not offered");
            Ok(Vec::new())
        }
    }
}

impl CacheBlobs for Hold {
    fn reader(&self) -> &Arc<CacheReader> {
        &self.reader
    }

    fn error(error: CacheError) -> ApiError {
        error.into()
    }
}
