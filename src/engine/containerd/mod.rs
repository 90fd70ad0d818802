//! The `containerd` engine: everything through containerd's own API, in one namespace.

mod already_complete;
mod caches;
mod client;
mod content;
mod cross_namespace;
mod discover;
mod equal_layers;
mod images;
mod ingests;
mod labels;
mod lease;
mod lease_calls;
mod leased_client;
mod names;
mod pins;
mod plan;
mod read;
mod release;
mod stored;
mod transaction;
mod unpack;
mod writer;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use tonic::Code;

pub(crate) use self::already_complete::read_if_complete;
pub(crate) use self::caches::ContainerdCaches;
use self::client::Expect as _;
pub(crate) use self::client::{Client, failure};
pub(crate) use self::discover::{Server, discover, uuid};
use self::ingests::ContainerdIngests;
pub(crate) use self::labels::{children as children_labels, missing as missing_labels};
pub(crate) use self::lease::ContainerdLease;
use self::leased_client::LeasedClient;
pub(crate) use self::names::NotRecorded;
use self::names::Records;
pub(crate) use self::read::ContainerdImages;
pub(crate) use self::release::release_all;
pub(crate) use self::stored::ContainerdBlobs;
pub(crate) use self::transaction::{Committer, ContainerdTransaction};
pub(crate) use self::unpack::Job;
#[cfg(any(test, fuzzing))]
pub(crate) use self::unpack::fuzz as layer_fuzz;
use super::caches::CacheStore;
use super::images::{Images, Record};
use super::layer_applier::ApplierChoice;
use super::{
    Abandoned, DurableLease, Engine, EngineError, EngineKind, Identity, Lease, Lifetime, Origin, PersistentLeases,
    SharedContent, Storage, StoredBlobs,
};
use crate::image::{Descriptor, Reference};

/// A containerd, in one namespace.
#[derive(Debug, Clone)]
pub(crate) struct ContainerdEngine {
    client: Client,
    namespace: String,
    identity: Identity,
    server: Server,
}

impl ContainerdEngine {
    /// The containerd behind `socket`.
    pub(crate) async fn connect(socket: &Path, namespace: &str) -> Result<Self, EngineError> {
        Self::connect_over(Client::new(socket, namespace)?, namespace).await
    }

    /// The containerd that `client`, which is of `namespace`, is connected to.
    pub(crate) async fn connect_over(client: Client, namespace: &str) -> Result<Self, EngineError> {
        let server = discover(&client, namespace, None).await?;
        Ok(Self::new(client, namespace, server))
    }

    /// A containerd that has been examined already.
    pub(crate) fn new(client: Client, namespace: &str, server: Server) -> Self {
        let identity = Identity {
            kind: EngineKind::Containerd,
            version: server.version.clone(),
            address: client.address().to_owned(),
            storage: Storage::Containerd {
                namespace: namespace.to_owned(),
                snapshotter: server.snapshotter.clone(),
                parallel_unpack: server.parallel_unpack,
            },
        };
        Self { client, namespace: namespace.to_owned(), identity, server }
    }

    /// Chooses who unpacks layers.
    pub(super) fn set_layer_applier(&mut self, choice: ApplierChoice) {
        self.server.layer_applier = choice;
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// What it reported of itself.
    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A lease under which images are committed by containerd's image service.
    pub(crate) async fn own_lease(
        &self,
        origin: &Origin,
        lifetime: Lifetime<'_>,
    ) -> Result<ContainerdLease, EngineError> {
        self.lease_for(origin, lifetime, Arc::new(Records)).await
    }

    /// A lease under which images are committed by `committer`.
    pub(crate) async fn lease_for(
        &self,
        origin: &Origin,
        lifetime: Lifetime<'_>,
        committer: Arc<dyn Committer>,
    ) -> Result<ContainerdLease, EngineError> {
        let id = lease_calls::id(&origin.export);
        let created = lease_calls::create(&self.client, &id, origin, lifetime).await;
        let is_new = match lifetime {
            Lifetime::Process => created.map(|()| true)?,
            Lifetime::Durable { record } => {
                let busy = || EngineError::Busy { what: format!("an export of the id `{}`", origin.export) };
                if created.unless(Code::AlreadyExists)?.is_some() {
                    true
                } else {
                    // Clients choose ids: a lease that is there may be another daemon's, or that of an export of another
                    // door with the same id. Neither is to be shared.
                    match lease_calls::is_resumable(&self.client, &id, record).await? {
                        Some(true) => false,
                        Some(false) => return Err(busy()),
                        None => {
                            let created = lease_calls::create(&self.client, &id, origin, lifetime).await;
                            created.unless(Code::AlreadyExists)?.ok_or_else(busy)?;
                            true
                        }
                    }
                }
            }
        };
        self.open_lease(id, is_new, committer)
    }

    /// The lease `id`, which was created just now if it `is_new`.
    fn open_lease(
        &self,
        id: String,
        is_new: bool,
        committer: Arc<dyn Committer>,
    ) -> Result<ContainerdLease, EngineError> {
        let client = self.client.leased(&id)?;
        let shared = self.server.shares().then_some(&*self.namespace);
        let ingests = ContainerdIngests::new(client.clone(), id.clone(), is_new, shared);
        let leased = LeasedClient::new(client, id, &self.server);
        Ok(ContainerdLease::new(leased, is_new, ingests, committer))
    }

    /// Whether a mark says that the lease `id` has ended.
    pub(crate) async fn has_ended(&self, id: &str) -> Result<bool, EngineError> {
        Ok(self.ended().await?.iter().any(|ended| ended == id))
    }

    /// The leases that have ended, by marks that stay until every store of several that share a lease has released it.
    pub(crate) async fn ended(&self) -> Result<Vec<String>, EngineError> {
        lease_calls::ended(&self.client).await
    }

    /// Sets such a mark.
    pub(crate) async fn mark_ended(&self, id: &str) -> Result<(), EngineError> {
        lease_calls::mark_ended(&self.client, id).await
    }

    /// Removes it.
    pub(crate) async fn unmark_ended(&self, id: &str) -> Result<(), EngineError> {
        lease_calls::unmark_ended(&self.client, id).await
    }

    /// The id of the lease of an export.
    pub(crate) fn lease_of(export: &str) -> String {
        lease_calls::id(export)
    }

    /// The leases of processes that are gone.
    pub(crate) async fn abandoned(&self) -> Result<Vec<String>, EngineError> {
        lease_calls::abandoned(&self.client).await
    }
}

#[async_trait]
impl Engine for ContainerdEngine {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn sharing(&self) -> SharedContent {
        SharedContent { containerd: Some(self.server.uuid.clone()), namespaces: self.server.shares() }
    }

    /// Whether all `names` resolve to `root`, complete and unpacked; how many blobs it has.
    async fn already_complete(&self, root: &Descriptor, names: &[Reference]) -> Result<Option<usize>, EngineError> {
        already_complete::check(&self.client, &self.server.snapshotter, root, names).await
    }

    async fn lease(&self, origin: &Origin, lifetime: Lifetime<'_>) -> Result<Arc<dyn Lease>, EngineError> {
        Ok(Arc::new(self.own_lease(origin, lifetime).await?))
    }

    fn persistent_leases(&self) -> Option<&dyn PersistentLeases> {
        Some(self)
    }

    fn images(&self) -> Result<Arc<dyn Images>, EngineError> {
        Ok(Arc::new(ContainerdImages::new(self.client.clone(), "containerd")))
    }

    fn caches(&self) -> Result<Arc<dyn CacheStore>, EngineError> {
        Ok(Arc::new(ContainerdCaches::new(self.clone(), "containerd")))
    }

    async fn recover(&self) -> Result<usize, EngineError> {
        let abandoned = ContainerdEngine::abandoned(self).await?;
        release_all(&self.client, &abandoned).await?;
        Ok(abandoned.len())
    }

    async fn tag(&self, root: &Descriptor, name: &Reference) -> Result<(), EngineError> {
        images::set(&self.client, &name.to_string(), root).await
    }

    async fn remove(&self, record: &Record, _: bool) -> Result<(), EngineError> {
        ContainerdImages::new(self.client.clone(), "containerd").remove(record).await
    }

    /// containerd loads no archives.
    async fn load_store(&self) -> Result<Option<Arc<dyn StoredBlobs>>, EngineError> {
        Ok(None)
    }
}

#[async_trait]
impl PersistentLeases for ContainerdEngine {
    async fn durable(&self) -> Result<Vec<DurableLease>, EngineError> {
        lease_calls::durables(&self.client).await
    }

    async fn abandoned(&self) -> Result<Abandoned, EngineError> {
        let (leases, kept) = lease_calls::left(&self.client).await?;
        Ok(Abandoned { leases, kept, ..Abandoned::default() })
    }

    async fn release_abandoned(&self, leases: &[String]) -> Result<(), EngineError> {
        release_all(&self.client, leases).await
    }
}
