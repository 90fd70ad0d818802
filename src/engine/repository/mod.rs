//! The engine over a repository's stores: a [`BlobStore`], a [`NameIndex`] and a [`LeaseStore`]. This module does not
//! depend on where these keep their content; [`super::local`] keeps it in an OCI image layout directory, which needs
//! neither root nor a daemon, and which any tool that knows layouts can read.
//!
//! * Any number of tasks and processes may use a repository at once. The name index is changed under a lock, and blobs
//!   that a lease pins are not collected.
//! * An interrupted transfer of a large blob is resumed by the next export of the same blob, of any process, until the
//!   machine restarts. An export that outlives its process also finds its complete blobs again, however small, although
//!   they were not synced when the process was killed.

mod caches;
mod images;
mod ingest_writer;
mod ingests;
mod lease;
mod lease_trait;
mod pins;
mod stores;
#[cfg(test)]
mod tests;
mod transaction;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;

use self::caches::RepositoryCaches;
use self::images::RepositoryImages;
use self::lease::RepositoryLease;
use self::stores::Stores;
use super::caches::CacheStore;
use super::images::{Images, Record};
use super::local::{self, BlobStore, Collected, LayoutIndex, LeaseStore, NameIndex};
use super::{
    Abandoned, DurableLease, Engine, EngineError, EngineKind, Identity, Lease, Lifetime, MAX_RECORD, Origin,
    PersistentLeases, Storage, StoredBlobs,
};
use crate::image::{Descriptor, Graph, GraphError, Limits, Reference};
use crate::source::{OnMissing, ReadGraphError, read_graph};

/// An engine that keeps images in a repository.
#[derive(Debug)]
pub(crate) struct RepositoryEngine {
    stores: Arc<Stores>,
    identity: Identity,
}

impl RepositoryEngine {
    /// Connects to the layout at `root`, a folder that may be empty or missing: the first export makes it a layout.
    pub(crate) async fn connect(root: &Path) -> Result<Self, EngineError> {
        let this = Self::at(root);
        this.check().await?;
        Ok(this)
    }

    /// The same, which is not looked at before it is used.
    fn at(root: &Path) -> Self {
        let absolute = std::path::absolute(root);
        let root = absolute.as_deref().unwrap_or(root);
        Self::new(root, local::open(root))
    }

    /// One that is for this user alone.
    ///
    /// # Errors
    /// When the folder belongs to another user, and more than that one may change it.
    pub(crate) fn private(root: &Path) -> Result<Self, EngineError> {
        let absolute = std::path::absolute(root);
        let root = absolute.as_deref().unwrap_or(root);
        Ok(Self::new(root, local::open_private(root)?))
    }

    /// Makes an engine over the stores at `root`.
    fn new(root: &Path, stores: (Arc<BlobStore>, NameIndex, LeaseStore)) -> Self {
        let identity = Identity {
            kind: EngineKind::Layout,
            version: crate::image::layout::VERSION.to_owned(),
            address: root.display().to_string(),
            storage: Storage::Directory {},
        };
        Self { stores: Stores::new(stores), identity }
    }

    /// Fails if what is there is no layout.
    async fn check(&self) -> Result<(), EngineError> {
        self.work(|stores| stores.names.exists().and_then(|_| stores.names.read())).await.map(drop)
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Stores>) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        self.stores.run(work).await
    }

    fn repository_images(&self) -> RepositoryImages {
        RepositoryImages::new(self.stores.clone(), &self.identity.address)
    }

    /// Changes the index by `change`, which returns the roots that lose a name, and runs the collector if there are
    /// any.
    async fn change(
        &self,
        change: impl FnOnce(&mut LayoutIndex) -> Result<Vec<Descriptor>, serde_json::Error> + Send + 'static,
    ) -> Result<(), EngineError> {
        self.work(move |stores| {
            // The names are changed, even if the collector fails.
            if stores.names.change(change)?
                && let Err(error) = stores.collect()
            {
                tracing::warn!(%error, "nothing was collected");
            }
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl Engine for RepositoryEngine {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The number of blobs of `root`, if `names` resolve to it and all its blobs are present.
    async fn already_complete(&self, root: &Descriptor, names: &[Reference]) -> Result<Option<usize>, EngineError> {
        if names.is_empty() {
            return Ok(None);
        }
        let (named, names) = (root.clone(), names.to_vec());
        let resolves = self.work(move |stores| stores.names.resolves_to(&named, &names));
        if !resolves.await? {
            return Ok(None);
        }
        let images = self.repository_images();
        let graph = match read_graph(&images, root.clone(), Limits::default(), OnMissing::Stop).await {
            Ok(graph) => graph,
            // A transaction restores missing or damaged documents, and handles a root that is no image.
            Err(ReadGraphError::Missing { .. } | ReadGraphError::Source(_)) => return Ok(None),
            Err(ReadGraphError::Graph(GraphError::Document(_) | GraphError::Root { .. })) => return Ok(None),
            Err(ReadGraphError::Graph(error)) => return Err(error.into()),
        };
        self.work(move |stores| {
            // A pending blob has no name yet, so the export must publish it.
            let is_there = |blob: &Descriptor| stores.blobs.named(&blob.digest, blob.size);
            Ok(graph.descriptors().all(is_there).then(|| graph.blobs()))
        })
        .await
    }

    async fn lease(&self, origin: &Origin, lifetime: Lifetime<'_>) -> Result<Arc<dyn Lease>, EngineError> {
        let record = match lifetime {
            Lifetime::Process => None,
            Lifetime::Durable { record } => Some(record.to_owned()),
        };
        origin.check_id()?;
        let export = origin.export.clone();
        self.work(move |stores| {
            stores.names.create()?;
            if record.as_ref().is_some_and(|record| record.len() > MAX_RECORD) {
                let (operation, reason) = ("opening an export".to_owned(), "its record is too long".to_owned());
                return Err(EngineError::Protocol { operation, reason });
            }
            Ok(Arc::new(RepositoryLease::open(stores, &export, record)?) as Arc<dyn Lease>)
        })
        .await
    }

    fn persistent_leases(&self) -> Option<&dyn PersistentLeases> {
        Some(self)
    }

    fn images(&self) -> Result<Arc<dyn Images>, EngineError> {
        Ok(Arc::new(self.repository_images()))
    }

    fn caches(&self) -> Result<Arc<dyn CacheStore>, EngineError> {
        Ok(Arc::new(RepositoryCaches::new(self.stores.clone(), &self.identity.address)))
    }

    /// `None` for a layout in which we never wrote: a read never writes to it, and its first collection keeps garbage
    /// for an hour.
    async fn read_lease(&self, origin: &Origin, graph: &Arc<Graph>) -> Result<Option<Arc<dyn Lease>>, EngineError> {
        origin.check_id()?;
        let (export, graph) = (origin.export.clone(), graph.clone());
        let lease = self.work(move |stores| {
            if !stores.leases.is_ready() {
                return Ok(None);
            }
            let lease = RepositoryLease::open(stores, &export, None)?;
            lease.pins.add(graph.descriptors().map(|blob| &blob.digest))?;
            Ok(Some(Arc::new(lease) as Arc<dyn Lease>))
        });
        lease.await
    }

    async fn recover(&self) -> Result<usize, EngineError> {
        // We never wrote here, so there is nothing to recover.
        let collect =
            |stores: &Arc<Stores>| if stores.names.is_ours() { stores.collect() } else { Ok(Collected::default()) };
        let collected = self.work(collect);
        let Collected { blobs, bytes, exports, is_more } = collected.await?;
        if blobs > 0 {
            tracing::info!(blobs, bytes, "collected blobs that no image needs");
        }
        if is_more {
            self.stores.collect_later();
        }
        Ok(exports)
    }

    async fn tag(&self, root: &Descriptor, name: &Reference) -> Result<(), EngineError> {
        let (root, names) = (root.clone(), vec![name.clone()]);
        self.change(move |index| index.insert(&root, &names)).await
    }

    async fn remove(&self, record: &Record, _: bool) -> Result<(), EngineError> {
        let record = record.clone();
        self.change(move |index| Ok(index.remove(record.name.as_deref(), &record.target.digest))).await
    }

    /// Only Linkspan itself loads archives into a layout.
    async fn load_store(&self) -> Result<Option<Arc<dyn StoredBlobs>>, EngineError> {
        Ok(None)
    }
}

#[async_trait]
impl PersistentLeases for RepositoryEngine {
    async fn durable(&self) -> Result<Vec<DurableLease>, EngineError> {
        self.work(|stores| stores.leases.durable()).await
    }

    async fn abandoned(&self) -> Result<Abandoned, EngineError> {
        self.work(|stores| Ok(Abandoned { leases: stores.leases.abandoned()?, ..Abandoned::default() })).await
    }

    /// The collector releases all leases that are abandoned by then.
    async fn release_abandoned(&self, _: &[String]) -> Result<(), EngineError> {
        self.recover().await.map(|_| ())
    }
}
