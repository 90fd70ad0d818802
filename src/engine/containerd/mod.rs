//! The `containerd` engine: everything through containerd's own API, in one namespace.

mod client;
mod confirm;
mod content;
mod current;
mod discover;
mod hold;
mod images;
mod ingest;
mod labels;
mod lease;
mod neighbours;
mod pins;
mod read;
mod same;
mod unpack;
mod uploads;
mod writer;

use std::path::Path;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tonic::Code;

use self::client::Expect as _;
pub(crate) use self::client::{Client, dial, failure, is_full};
pub(crate) use self::discover::{Server, discover, uuid};
pub(crate) use self::hold::ContainerdHold;
pub(crate) use self::ingest::ContainerdIngest;
use self::lease::Owner;
pub(crate) use self::read::ContainerdImages;
use self::uploads::ContainerdUploads;
use super::images::{Images, Record};
use super::{Abandoned, Durable, Engine, EngineError, EngineKind, Identity, Ingest, Origin, Sharing, Storage};
use crate::image::{Descriptor, Reference};
use crate::progress::Events;

/// A containerd, in one namespace.
#[derive(Debug)]
pub(crate) struct ContainerdEngine {
    client: Client,
    namespace: String,
    identity: Identity,
    server: Server,
}

impl ContainerdEngine {
    /// The containerd behind `socket`.
    pub(crate) async fn connect(socket: &Path, namespace: &str) -> Result<Self, EngineError> {
        let client = Client::new(socket, namespace)?;
        let server = discover(&client, namespace, None).await?;
        Ok(Self::new(client, namespace, server))
    }

    /// A containerd that has been asked already.
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

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// What it said of itself.
    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Opens an export. The result is not yet hidden behind the trait, for engines that build on this one.
    pub(crate) async fn ingest(&self, origin: &Origin, events: Events) -> Result<ContainerdIngest, EngineError> {
        let id = lease::id(origin);
        let client = self.client.leased(&id)?;
        lease::create(&self.client, &id, origin, Owner::Process, "").await?;
        Ok(self.leased(client, id, true, events))
    }

    /// Opens an export that outlives this process, or takes it up again.
    pub(crate) async fn durable(
        &self,
        origin: &Origin,
        record: &str,
        events: Events,
    ) -> Result<ContainerdIngest, EngineError> {
        let id = lease::id(origin);
        let client = self.client.leased(&id)?;
        let created = lease::create(&self.client, &id, origin, Owner::Nobody, record).await;
        let is_new = created.unless(Code::AlreadyExists)?.is_some();
        // Clients choose ids: what is there may be another daemon's, or an export of another door that happens to be
        // called so. None of them is to be joined.
        if !is_new && !lease::is_resumable(&self.client, &id, record).await? {
            return Err(EngineError::Busy { what: format!("an export of the id `{}`", origin.export) });
        }
        Ok(self.leased(client, id, is_new, events))
    }

    fn leased(&self, client: Client, id: String, is_new: bool, events: Events) -> ContainerdIngest {
        let (snapshotter, parallel) = (&self.server.snapshotter, self.server.parallel_unpack);
        let shared = self.server.shares().then_some(&*self.namespace);
        let uploads = ContainerdUploads::new(client.clone(), id.clone(), is_new, shared);
        ContainerdIngest::new(client, id, uploads, snapshotter, parallel, events)
    }

    /// Whether all `names` stand for `root`, complete and unpacked; how many blobs it has.
    pub(crate) async fn check(&self, root: &Descriptor, names: &[Reference]) -> Result<Option<usize>, EngineError> {
        current::check(&self.client, &self.server.snapshotter, root, names).await
    }

    /// The leases of processes that are gone.
    pub(crate) async fn abandoned(&self) -> Result<Vec<String>, EngineError> {
        lease::abandoned(&self.client).await
    }
}

/// Releases leases of processes that are gone: all that can be. The error is the first one's that cannot.
pub(crate) async fn release(client: &Client, abandoned: &[String]) -> Result<(), EngineError> {
    let mut outcome = Ok(());
    for id in abandoned {
        tracing::info!(lease = id, "releasing the lease of an export that a former process left behind");
        let released = ingest::release(client, id, lease::Collect::Later).await;
        if let Err(error) = &released {
            tracing::debug!(lease = id, %error, "it stays until the next start, or until it expires");
        }
        outcome = outcome.and(released);
    }
    outcome
}

impl Engine for ContainerdEngine {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn sharing(&self) -> Sharing {
        Sharing { containerd: Some(self.server.uuid.clone()), namespaces: self.server.shares() }
    }

    fn current<'a>(
        &'a self,
        root: &'a Descriptor,
        names: &'a [Reference],
    ) -> BoxFuture<'a, Result<Option<usize>, EngineError>> {
        Box::pin(self.check(root, names))
    }

    fn open<'a>(&'a self, origin: &'a Origin, events: Events) -> BoxFuture<'a, Result<Arc<dyn Ingest>, EngineError>> {
        Box::pin(async move { Ok(Arc::new(self.ingest(origin, events).await?) as Arc<dyn Ingest>) })
    }

    fn open_durable<'a>(
        &'a self,
        origin: &'a Origin,
        record: &'a str,
        events: Events,
    ) -> BoxFuture<'a, Result<Arc<dyn Ingest>, EngineError>> {
        Box::pin(async move { Ok(Arc::new(self.durable(origin, record, events).await?) as Arc<dyn Ingest>) })
    }

    fn durables(&self) -> BoxFuture<'_, Result<Vec<Durable>, EngineError>> {
        Box::pin(lease::durables(&self.client))
    }

    fn images(&self) -> Result<Arc<dyn Images>, EngineError> {
        Ok(Arc::new(ContainerdImages::new(self.client.clone(), "containerd")))
    }

    fn recover(&self) -> BoxFuture<'_, Result<usize, EngineError>> {
        Box::pin(async move {
            let abandoned = ContainerdEngine::abandoned(self).await?;
            release(&self.client, &abandoned).await?;
            Ok(abandoned.len())
        })
    }

    fn tag<'a>(&'a self, root: &'a Descriptor, name: &'a Reference) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(async move { images::set(&self.client, &name.to_string(), root).await })
    }

    fn remove<'a>(&'a self, record: &'a Record, _: bool) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(async move { ContainerdImages::new(self.client.clone(), "containerd").remove(record).await })
    }

    fn abandoned(&self) -> BoxFuture<'_, Result<Abandoned, EngineError>> {
        Box::pin(async move {
            let (leases, kept) = lease::left(&self.client).await?;
            Ok(Abandoned { leases, kept, ..Abandoned::default() })
        })
    }

    fn release_abandoned<'a>(&'a self, leases: &'a [String]) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(release(&self.client, leases))
    }
}
