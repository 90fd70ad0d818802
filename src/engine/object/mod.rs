//! The engine over a bucket of an object store, with the keys of the distribution registry: whatever registry has that bucket
//! as its storage serves the images, and what it was pushed is read here ([`keys`]).
//!
//! * Nothing is visible before an image is complete: blobs, then documents, then the links of its repositories, then the link of
//!   its tag. A blob itself is visible when its digest was compared ([`upload`]).
//! * Any number of processes may write to a bucket at once. A tag is compared and set where somebody cares what it was; else the
//!   last writer wins, as in registries.
//! * Nothing is unpacked. What an interrupted export left is removed by the next start: uploads that were under way; its blobs
//!   are of use to the next export.
//! * What nothing refers to any more is deleted when somebody asks for it, while others write ([`collector`]).

mod address;
mod blob_store;
mod bucket;
mod caches;
mod collector;
mod condemned;
mod connect;
mod failure;
mod host;
mod images;
mod ingest_writer;
mod ingests;
mod kept;
mod keys;
mod lease;
mod lease_store;
mod lease_trait;
mod links;
#[cfg(test)]
mod model;
mod name_index;
mod name_list;
mod open_leases;
mod pins;
mod probe;
mod set_names;
mod stored_lease;
mod stores;
mod survey;
#[cfg(test)]
mod tests;
mod transaction;
mod upload;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;

use self::bucket::Bucket;
use self::caches::ObjectCaches;
use self::host::unique;
use self::images::ObjectImages;
use self::lease::ObjectLease;
use self::open_leases::OpenLeases;
use self::stores::Stores;
use super::caches::CacheStore;
use super::collect::{Collected, Collection};
use super::images::{Images, Record};
use super::{
    Abandoned, DurableLease, Engine, EngineError, EngineKind, Identity, Lease, Lifetime, MAX_RECORD, Origin,
    PersistentLeases, Pin, Storage, StoredBlobs,
};
use crate::image::{Descriptor, Digest, Graph, GraphError, Kind, Limits, Reference};
use crate::source::{OnMissing, ReadGraphError, read_graph};

pub use address::{BucketAddress, BucketAddressError};
pub use connect::ObjectVariables;
pub(crate) use connect::open_store;
pub(crate) use failure::failure;

/// The version of the registry's storage that the keys are of.
const VERSION: &str = "v2";

/// How long the first request may take, repetitions included: whoever starts with a store that is not up tries again.
const CHECK: Duration = Duration::from_secs(20);

/// An engine that keeps images in a bucket.
#[derive(Debug)]
pub(crate) struct ObjectEngine {
    stores: Arc<Stores>,
    leases: OpenLeases,
    identity: Identity,
}

impl ObjectEngine {
    /// Connects to the bucket at `address`, which must exist.
    pub(crate) async fn connect(address: &BucketAddress, variables: &ObjectVariables) -> Result<Self, EngineError> {
        let bucket = connect::open(address, variables)?;
        // Whether it is there, and can be read.
        let operation = format!("listing {}", bucket.address());
        let looked = timeout(CHECK, bucket.check(keys::LEASES)).await;
        looked.unwrap_or(Err(EngineError::Timeout { operation, after: CHECK }))?;
        Ok(Self::new(&bucket))
    }

    fn new(bucket: &Bucket) -> Self {
        let identity = Identity {
            kind: EngineKind::Object,
            version: VERSION.to_owned(),
            address: bucket.address().to_owned(),
            storage: Storage::Bucket {},
        };
        Self { stores: Stores::new(bucket), leases: OpenLeases::default(), identity }
    }

    fn object_images(&self) -> ObjectImages {
        ObjectImages::new(self.stores.clone())
    }

    /// The image `root` as it is in the bucket; `None` if documents are missing, or it is none.
    async fn graph(&self, root: &Descriptor) -> Result<Option<Graph>, EngineError> {
        match read_graph(&self.object_images(), root.clone(), Limits::default(), OnMissing::Stop).await {
            Ok(graph) => Ok(Some(graph)),
            Err(ReadGraphError::Missing { .. } | ReadGraphError::Source(_)) => Ok(None),
            Err(ReadGraphError::Graph(GraphError::Document(_) | GraphError::Root { .. })) => Ok(None),
            Err(ReadGraphError::Graph(error)) => Err(error.into()),
        }
    }
}

#[async_trait]
impl Engine for ObjectEngine {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The number of blobs of `root`, if `names` resolve to it, and all its blobs and its links are there: a registry over the
    /// bucket serves no blob without its link.
    async fn already_complete(&self, root: &Descriptor, names: &[Reference]) -> Result<Option<usize>, EngineError> {
        if names.is_empty() || !self.stores.names.resolves_to(&root.digest, names).await? {
            return Ok(None);
        }
        if !self.stores.names.keeps(names, &root.digest).await? {
            return Ok(None);
        }
        let Some(graph) = self.graph(root).await? else { return Ok(None) };
        // The documents were just read.
        let sizes = self.stores.blobs.sizes(&graph.leaves().iter().map(Pin::from).collect::<Vec<_>>()).await?;
        let is_there = sizes.iter().all(Option::is_some) && self.stores.names.has_links(&graph, names).await?;
        Ok(is_there.then(|| graph.blobs()))
    }

    async fn lease(&self, origin: &Origin, lifetime: Lifetime<'_>) -> Result<Arc<dyn Lease>, EngineError> {
        origin.check_id()?;
        let record = match lifetime {
            Lifetime::Process => None,
            Lifetime::Durable { record } if record.len() > MAX_RECORD => {
                let (operation, reason) = ("opening an export".to_owned(), "its record is too long".to_owned());
                return Err(EngineError::Protocol { operation, reason });
            }
            Lifetime::Durable { record } => Some(record.to_owned()),
        };
        Ok(self.leases.open(&self.stores, &origin.export, record).await?)
    }

    fn persistent_leases(&self) -> Option<&dyn PersistentLeases> {
        Some(self)
    }

    fn images(&self) -> Result<Arc<dyn Images>, EngineError> {
        Ok(Arc::new(self.object_images()))
    }

    fn caches(&self) -> Result<Arc<dyn CacheStore>, EngineError> {
        Ok(Arc::new(ObjectCaches::new(self.stores.clone())))
    }

    /// A reader has no pins, and needs no right to write: what loses its name stays for the grace of the collector.
    async fn read_lease(&self, _: &Origin, _: &Arc<Graph>) -> Result<Option<Arc<dyn Lease>>, EngineError> {
        Ok(None)
    }

    /// Says in the log what this store cannot do.
    async fn recover(&self) -> Result<usize, EngineError> {
        match self.stores.names.is_conditional().await {
            Ok(true) => {}
            Ok(false) => tracing::warn!(
                "this store has no conditional writes: of two writers of a tag the last one wins, and whoever requires what a \
                 tag was, or denies that it moves, is refused"
            ),
            Err(error) => tracing::warn!(%error, "this bucket cannot be written; its images can be read"),
        }
        self.stores.leases.recover().await
    }

    async fn tag(&self, root: &Descriptor, name: &Reference) -> Result<(), EngineError> {
        let lease = ObjectLease::open(&self.stores, &unique("tag"), None).await?;
        let tagged = self.tag_under(&lease, root, name).await;
        lease.release().await?;
        tagged
    }

    async fn remove(&self, record: &Record, _: bool) -> Result<(), EngineError> {
        let name = record.name.as_ref().and_then(|name| name.parse::<Reference>().ok());
        self.stores.names.remove(name.as_ref(), &record.target.digest).await
    }

    async fn collect(&self, wanted: &Collection<'_>) -> Result<Collected, EngineError> {
        collector::collect(&self.stores, wanted).await
    }

    async fn broken_name(&self, name: &Reference) -> Result<Option<EngineError>, EngineError> {
        let is_there = async |root: &Digest| Ok(self.stores.blobs.size(root).await?.is_some());
        self.stores.names.broken_tag(name, is_there).await
    }

    async fn remove_broken(&self, name: &Reference) -> Result<(), EngineError> {
        match self.broken_name(name).await? {
            Some(_) => self.stores.names.remove_tag(name).await,
            // Another writer has set or removed it meanwhile.
            None => {
                Err(EngineError::NameMoved { name: name.to_string(), current: self.stores.names.resolve(name).await? })
            }
        }
    }

    /// Only Linkspan itself loads archives into a bucket.
    async fn load_store(&self) -> Result<Option<Arc<dyn StoredBlobs>>, EngineError> {
        Ok(None)
    }
}

impl ObjectEngine {
    /// Sets `name` to the image `root`, which is pinned before it is looked up.
    async fn tag_under(&self, lease: &ObjectLease, root: &Descriptor, name: &Reference) -> Result<(), EngineError> {
        lease.pins.add([&root.digest]).await?;
        let Some(graph) = self.graph(root).await? else {
            return Err(EngineError::Missing { digests: vec![root.digest.clone()] });
        };
        lease.pins.add(graph.descriptors().map(|blob| &blob.digest)).await?;
        for document in graph.documents() {
            if self.stores.blobs.size(&document.descriptor.digest).await?.is_none() {
                return Err(EngineError::Missing { digests: vec![document.descriptor.digest.clone()] });
            }
        }
        let sizes = self.stores.blobs.sizes(&graph.leaves().iter().map(Pin::from).collect::<Vec<_>>()).await?;
        let absent = graph.leaves().iter().zip(sizes).filter(|(_, size)| size.is_none()).map(|(leaf, _)| leaf);
        let (foreign, gone): (Vec<_>, Vec<_>) = absent.partition(|leaf| leaf.kind() == Kind::ForeignLayer);
        if !gone.is_empty() {
            // A collection may have been interrupted between its layers and its manifest.
            return Err(EngineError::Missing { digests: gone.into_iter().map(|leaf| leaf.digest.clone()).collect() });
        }
        let absent = foreign.into_iter().map(|leaf| leaf.digest.clone()).collect();
        lease.pins.check_held().await?;
        self.stores.names.publish(&graph, &absent, std::slice::from_ref(name), &[]).await?;
        // It has a name now.
        self.stores.names.remove(None, &root.digest).await
    }
}

#[async_trait]
impl PersistentLeases for ObjectEngine {
    async fn durable(&self) -> Result<Vec<DurableLease>, EngineError> {
        self.stores.leases.durable().await
    }

    async fn abandoned(&self) -> Result<Abandoned, EngineError> {
        Ok(Abandoned { leases: self.stores.leases.abandoned().await?, ..Abandoned::default() })
    }

    /// Releases all leases that are abandoned by then.
    async fn release_abandoned(&self, _: &[String]) -> Result<(), EngineError> {
        self.stores.leases.recover().await.map(|_| ())
    }
}
