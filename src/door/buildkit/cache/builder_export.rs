//! The export of a cache by a builder: which of its layers are there, which are fetched from it, and which it has to send.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Mutex as AsyncMutex, OnceCell};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::activity::{Activity, Arrival};
use crate::caches::{CacheError, CacheExport, CacheRef, Caches, CurrentVersion, Part};
use crate::engine::caches::{CacheDocument, CacheVersion};
use crate::engine::ingest::{Expected, IngestWriter, OpenedIngest};
use crate::engine::{EngineError, InFlight, Origin};
use crate::export::{ExportError, Exports};
use crate::image::cache::{CACHE_CONFIG, CacheDocumentError, CacheRoot, MAX_CACHE_CONFIG};
use crate::image::{Descriptor, Digest};
use crate::progress::Events;
use crate::source::{BlobLookup, read_document};

/// Where an export goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// The caches, of which each gets a version.
    pub(super) refs: Vec<CacheRef>,
    /// The part of each.
    pub(super) part: Part,
    /// BuildKit's mode.
    pub(super) mode: &'static str,
    /// How many versions of the part stay.
    pub(super) keep: usize,
}

/// What becomes of a layer.
#[derive(Debug)]
pub(super) enum Layer {
    /// It need not be sent: the engine has it, or fetches it from the builder.
    Present,
    /// It has to be sent.
    Missing(Box<dyn IngestWriter>),
}

/// What an export has moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Moved {
    /// Layers that were in the engine.
    pub(super) present: usize,
    /// Their bytes.
    pub(super) present_bytes: u64,
    /// Layers that were sent.
    pub(super) sent: usize,
    /// Their bytes.
    pub(super) sent_bytes: u64,
}

impl Moved {
    fn add_present(&mut self, layer: &Descriptor) {
        self.present += 1;
        self.present_bytes += layer.size;
    }
}

/// One cache that was exported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Exported {
    /// The version.
    pub(super) version: CacheVersion,
    /// Whether it was there before.
    pub(super) is_unchanged: bool,
}

/// An export under way. Dropping it aborts what is not complete.
#[derive(Debug)]
pub(super) struct BuilderExport {
    caches: Arc<Caches>,
    exports: Arc<Exports>,
    builder: Arc<dyn BlobLookup>,
    target: Target,
    origin: Origin,
    events: Events,
    /// The version of the first cache that is there already: what it lists needs neither a look nor a write.
    current: OnceCell<Option<CurrentVersion>>,
    /// The new version of the first cache, which is begun with the first blob that is stored.
    pending: AsyncMutex<Option<Arc<CacheExport>>>,
    fetching: AsyncMutex<JoinSet<Result<(), CacheError>>>,
    in_flight: InFlight,
    /// Cancelled when the build ends.
    end: CancellationToken,
    writers: TaskTracker,
    state: Mutex<BuilderExportState>,
}

#[derive(Debug, Default)]
struct BuilderExportState {
    seen: HashSet<Digest>,
    moved: Moved,
    /// The last document that is no root.
    config: Option<(Digest, Bytes)>,
    exported: Vec<Exported>,
}

impl BuilderExport {
    /// Who exports.
    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Begins an export to `target` of what `builder` has.
    pub(super) fn new(
        caches: Arc<Caches>,
        exports: Arc<Exports>,
        builder: Arc<dyn BlobLookup>,
        target: Target,
        origin: Origin,
        events: Events,
    ) -> Arc<Self> {
        Arc::new(Self {
            caches,
            exports,
            builder,
            target,
            origin,
            events,
            current: OnceCell::new(),
            pending: AsyncMutex::default(),
            fetching: AsyncMutex::default(),
            in_flight: InFlight::new(),
            end: CancellationToken::new(),
            writers: TaskTracker::new(),
            state: Mutex::default(),
        })
    }

    /// Decides about a layer.
    ///
    /// # Errors
    /// When the engine or the builder cannot be queried, or the engine refuses.
    pub(super) async fn layer(self: &Arc<Self>, layer: &Descriptor) -> Result<Layer, CacheError> {
        let current = self.current().await?;
        if current.is_some_and(|current| current.layers.contains(&layer.digest)) {
            self.present(layer);
            return Ok(Layer::Present);
        }
        if self.caches.blobs().reliable(&layer.digest).await? == Some(layer.size) {
            // It is pinned when the root is stored; if it is gone by then it is fetched.
            self.present(layer);
            return Ok(Layer::Present);
        }
        if self.builder.has(layer).await? {
            self.fetch_later(layer.clone()).await;
            return Ok(Layer::Present);
        }
        let lease = self.pending().await?.lease();
        let expected = Expected { digest: Some(layer.digest.clone()), size: Some(layer.size) };
        match lease.ingests()?.open(&format!("layer-{}", layer.digest), &expected).await? {
            OpenedIngest::Present => {
                self.present(layer);
                Ok(Layer::Present)
            }
            OpenedIngest::Writer(writer) => Ok(Layer::Missing(writer)),
        }
    }

    /// A layer that was missing is stored.
    fn stored(&self, layer: &Descriptor) {
        let mut state = self.state();
        state.seen.insert(layer.digest.clone());
        state.moved.sent += 1;
        state.moved.sent_bytes += layer.size;
    }

    /// Whether a document need not be sent, because the version that is there has it. If it is the root, nothing has changed,
    /// and the export is complete.
    ///
    /// # Errors
    /// When the engine cannot be queried, or refuses.
    pub(super) async fn has_document(self: &Arc<Self>, digest: &Digest) -> Result<bool, CacheError> {
        self.fetched().await?;
        let Some(current) = self.current().await? else { return Ok(false) };
        if current.config == *digest {
            return Ok(true);
        }
        // A root that is there is stored again if a layer of it was lost meanwhile.
        if current.version.root.digest != *digest || self.state().moved.sent > 0 {
            return Ok(false);
        }
        // For the other refs there may be something to do.
        let root = current.version.root.clone();
        let bytes = read_document(&self.caches.blobs(), &root).await?;
        self.document(&root, bytes).await?;
        Ok(true)
    }

    /// Takes a document, whose digest has been verified. A root ends the export: it is complete when this returns.
    ///
    /// # Errors
    /// When a layer that was being fetched did not come, a document is not what it should be, or the engine refuses.
    pub(super) async fn document(self: &Arc<Self>, document: &Descriptor, bytes: Bytes) -> Result<(), CacheError> {
        self.fetched().await?;
        let Some(root) = CacheRoot::sniff(document, &bytes) else {
            // One config belongs to a root: what was sent before is not needed any more.
            self.state().config = Some((document.digest.clone(), bytes));
            return Ok(());
        };
        let listed = CacheRoot::parse(root.clone(), bytes.clone())?;
        let config = self.config(&listed.config).await?;
        let root = CacheDocument { descriptor: root, bytes };
        for (index, reference) in self.target.refs.iter().enumerate() {
            let exported = self.commit(index, reference, &config, &root, &listed).await?;
            self.state().exported.push(exported);
        }
        Ok(())
    }

    /// What has been exported, and what that has moved.
    pub(super) fn result(&self) -> (Vec<Exported>, Moved) {
        let state = self.state();
        (state.exported.clone(), state.moved)
    }

    /// Cancelled when nothing more is taken.
    pub(super) fn end(&self) -> &CancellationToken {
        &self.end
    }

    /// The writes of the builder that are under way.
    pub(super) fn writers(&self) -> &TaskTracker {
        &self.writers
    }

    /// Ends an export that may be incomplete: stops what is under way. Layers of it are released with its last holder.
    pub(super) async fn close(&self) {
        self.end.cancel();
        self.writers.close();
        self.writers.wait().await;
        self.fetching.lock().await.shutdown().await;
        self.pending.lock().await.take();
    }

    async fn commit(
        &self,
        index: usize,
        reference: &CacheRef,
        config: &CacheDocument,
        root: &CacheDocument,
        listed: &CacheRoot,
    ) -> Result<Exported, CacheError> {
        let current = if index == 0 { self.current().await? } else { None };
        let is_same = |current: &&CurrentVersion| current.version.root.digest == root.descriptor.digest;
        if let Some(current) = current.filter(is_same).filter(|_| self.state().moved.sent == 0) {
            self.caches.touch(&current.version).await?;
            return Ok(Exported { version: current.version.clone(), is_unchanged: true });
        }
        let pending = if index == 0 { self.pending().await? } else { self.begin(reference).await? };
        let had = pending.current().map(|version| version.id.clone());
        let committed = match pending.commit(config.clone(), root.clone(), HashSet::new()).await {
            Err(CacheError::Engine(EngineError::Missing { digests })) => {
                self.fetch_again(&pending, listed, &digests).await?;
                pending.commit(config.clone(), root.clone(), HashSet::new()).await
            }
            committed => committed,
        };
        let version = committed?;
        if index == 0 {
            self.pending.lock().await.take();
        }
        Ok(Exported { is_unchanged: had.as_ref() == Some(&version.id), version })
    }

    /// Fetches layers that the engine had when it was queried, and has lost since.
    async fn fetch_again(&self, pending: &CacheExport, listed: &CacheRoot, lost: &[Digest]) -> Result<(), CacheError> {
        for layer in listed.layers.iter().filter(|layer| lost.contains(&layer.digest)) {
            self.exports.fetch(&*pending.lease(), &*self.builder, layer, &self.events).await.map_err(fetch_error)?;
            self.stored(layer);
        }
        Ok(())
    }

    /// Fetches a layer from the builder in the background.
    async fn fetch_later(self: &Arc<Self>, layer: Descriptor) {
        if !self.state().seen.insert(layer.digest.clone()) {
            return;
        }
        let this = self.clone();
        self.fetching.lock().await.spawn(async move {
            let _permit = this.in_flight.enter(&layer).await;
            let lease = this.pending().await?.lease();
            let fetched = this.exports.fetch(&*lease, &*this.builder, &layer, &this.events).await;
            if fetched.map_err(fetch_error)? {
                this.stored(&layer);
            } else {
                this.state().moved.add_present(&layer);
            }
            Ok(())
        });
    }

    /// Waits for the layers that are fetched in the background.
    async fn fetched(&self) -> Result<(), CacheError> {
        let mut fetching = self.fetching.lock().await;
        while let Some(fetched) = fetching.join_next().await {
            fetched.unwrap_or_else(|error| Err(fetch_error(ExportError::Broken(error.to_string()))))?;
        }
        Ok(())
    }

    /// The config that a root lists: it came before the root, or it is there.
    async fn config(&self, listed: &Descriptor) -> Result<CacheDocument, CacheError> {
        let known = self.state().config.clone().filter(|(digest, _)| *digest == listed.digest);
        let bytes = match known {
            Some((_, bytes)) => bytes,
            None if listed.size > MAX_CACHE_CONFIG => {
                let reason = format!("it has {} bytes, more than {MAX_CACHE_CONFIG}", listed.size);
                return Err(CacheDocumentError::Config { digest: listed.digest.clone(), reason }.into());
            }
            None => read_document(&self.caches.blobs(), listed).await?,
        };
        let descriptor = Descriptor { media_type: CACHE_CONFIG.to_owned(), ..listed.clone() };
        Ok(CacheDocument { descriptor, bytes })
    }

    async fn current(&self) -> Result<Option<&CurrentVersion>, CacheError> {
        let find = || self.caches.current(&self.target.refs[0], &self.target.part);
        Ok(self.current.get_or_try_init(find).await?.as_ref())
    }

    async fn pending(&self) -> Result<Arc<CacheExport>, CacheError> {
        let mut pending = self.pending.lock().await;
        if let Some(pending) = &*pending {
            return Ok(pending.clone());
        }
        let begun = self.begin(&self.target.refs[0]).await?;
        *pending = Some(begun.clone());
        Ok(begun)
    }

    async fn begin(&self, reference: &CacheRef) -> Result<Arc<CacheExport>, CacheError> {
        let Target { part, mode, keep, .. } = &self.target;
        Ok(Arc::new(self.caches.begin(reference, part, mode, *keep, &self.origin).await?))
    }

    /// The engine has a layer.
    pub(super) fn present(&self, layer: &Descriptor) {
        let is_new = {
            let mut state = self.state();
            let is_new = state.seen.insert(layer.digest.clone());
            if is_new {
                state.moved.add_present(layer);
            }
            is_new
        };
        if is_new {
            self.count(Arrival::Present, layer);
        }
    }

    /// A layer that was missing has come from the builder's exporter. One that is fetched tells of itself.
    pub(super) fn written(&self, layer: &Descriptor) {
        self.stored(layer);
        self.count(Arrival::Sent, layer);
    }

    fn count(&self, how: Arrival, layer: &Descriptor) {
        self.exports.activities().emit(Activity::Blobs { door: "cache", how, blobs: 1, bytes: layer.size });
    }

    fn state(&self) -> MutexGuard<'_, BuilderExportState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fetch_error(error: ExportError) -> CacheError {
    match error {
        ExportError::Engine(error) => error.into(),
        ExportError::Source(error) => error.into(),
        other => CacheError::Fetch(other.to_string()),
    }
}
