//! The `docker-api` engine: a dockerd with the containerd image store, of which only the Engine API can be reached.
//!
//! Its socket shows the content store, to be read ([`content`]): so it is known which layers dockerd lacks. An export is an OCI
//! archive for `POST /images/load` with the image's documents and these layers; containerd's importer, which reads it, looks
//! for everything else in the store (containerd `client/import.go`). The file that names the image comes last: whatever
//! ends the archive earlier leaves nothing that is visible. What dockerd had received by then stays for a day, by the lease
//! of an import that nobody ends, so that the next export finds the layers that were complete.
//!
//! dockerd lends no leases, so nothing is pinned between the look-up and the load. After the load every blob is looked up
//! once more; if one is gone, names get back what they had, and the image is sent whole. dockerd sets names before it unpacks,
//! so that whoever is killed or given up in between leaves them on an image that is not complete.
//!
//! Blobs that come before their image is known (the exporter API) wait in the *spool*, an image layout folder.

mod already_complete;
mod archive;
mod content;
mod images;
mod lease;
mod names;
mod plan;
mod transaction;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;

use self::content::Content;
use self::images::DockerApiImages;
use self::lease::DockerApiLease;
use super::caches::CacheStore;
use super::docker::{Info, Store, info, namespace, remove_name, set_name};
use super::images::{Images, Record};
use super::repository::RepositoryEngine;
use super::{
    Engine, EngineError, EngineKind, Identity, Lease, Lifetime, Origin, PersistentLeases, Storage, StoredBlobs,
};
use crate::docker_api::{Api, Grpc};
use crate::image::{Descriptor, Graph, Reference};

/// A dockerd behind its Engine API.
#[derive(Debug)]
pub(crate) struct DockerApiEngine {
    docker: Arc<DockerApi>,
    identity: Identity,
    /// Keeps what exports sent before their image was known, and the build caches.
    folder: Arc<RepositoryEngine>,
}

/// What the engine and its exports share.
#[derive(Debug)]
struct DockerApi {
    api: Arc<Api>,
    content: Content,
    snapshotter: String,
    /// What exports have sent that dockerd does not have yet.
    spool: Arc<dyn Images>,
}

impl DockerApiEngine {
    /// The dockerd behind `api`, with the spool and the build caches in `folder`.
    ///
    /// # Errors
    /// [`EngineError::ClassicStore`] if it has that; when its content store cannot be read.
    pub(crate) async fn connect(api: Arc<Api>, folder: &Path) -> Result<Self, EngineError> {
        let info = info(&api).await?;
        let snapshotter = containerd_store(&api, &info)?.to_owned();
        let grpc = Arc::new(Grpc::new(api.clone()));
        let namespace = namespace(grpc.clone()).await?;
        let identity = Identity {
            kind: EngineKind::DockerApi,
            version: info.server_version.clone(),
            address: api.address().to_owned(),
            storage: Storage::Containerd { namespace, snapshotter: snapshotter.clone(), parallel_unpack: false },
        };
        let folder = Arc::new(RepositoryEngine::at(folder));
        let docker = DockerApi { api, content: Content::new(grpc), snapshotter, spool: folder.images()? };
        Ok(Self { docker: Arc::new(docker), identity, folder })
    }
}

/// The snapshotter, unless dockerd has the classic store: there the content store is that of its builder.
fn containerd_store<'a>(api: &Api, info: &'a Info) -> Result<&'a str, EngineError> {
    match info.store() {
        Store::Containerd { snapshotter } => Ok(snapshotter),
        Store::Classic { driver } => Err(EngineError::ClassicStore {
            address: api.address().to_owned(),
            version: info.server_version.clone(),
            driver: driver.to_owned(),
        }),
    }
}

impl DockerApi {
    fn images(&self) -> DockerApiImages {
        DockerApiImages { api: self.api.clone(), content: self.content.clone(), spool: self.spool.clone() }
    }

    /// Fails if dockerd has another store by now.
    async fn check_store(&self) -> Result<(), EngineError> {
        containerd_store(&self.api, &info(&self.api).await?).map(drop)
    }
}

#[async_trait]
impl Engine for DockerApiEngine {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    async fn already_complete(&self, root: &Descriptor, names: &[Reference]) -> Result<Option<usize>, EngineError> {
        already_complete::check(&self.docker, root, names).await
    }

    async fn lease(&self, origin: &Origin, lifetime: Lifetime<'_>) -> Result<Arc<dyn Lease>, EngineError> {
        let spool = match lifetime {
            Lifetime::Process => None,
            Lifetime::Durable { .. } => Some(self.folder.lease(origin, lifetime).await?),
        };
        Ok(Arc::new(DockerApiLease::new(self.docker.clone(), spool)))
    }

    /// Of the spool: dockerd has none.
    fn persistent_leases(&self) -> Option<&dyn PersistentLeases> {
        self.folder.persistent_leases()
    }

    fn images(&self) -> Result<Arc<dyn Images>, EngineError> {
        Ok(Arc::new(self.docker.images()))
    }

    fn caches(&self) -> Result<Arc<dyn CacheStore>, EngineError> {
        self.folder.caches()
    }

    fn cache_engine(&self) -> Option<Arc<dyn Engine>> {
        Some(self.folder.clone())
    }

    /// Nothing can be pinned there: an image that is deleted while it is read cannot be read to its end.
    async fn read_lease(&self, _: &Origin, _: &Arc<Graph>) -> Result<Option<Arc<dyn Lease>>, EngineError> {
        Ok(None)
    }

    /// A blob that is omitted from an archive must be pinned until dockerd has loaded it, and none can be.
    async fn load_store(&self) -> Result<Option<Arc<dyn StoredBlobs>>, EngineError> {
        Ok(None)
    }

    /// What dockerd received of an archive goes when its own lease expires (containerd `client/lease.go`).
    async fn recover(&self) -> Result<usize, EngineError> {
        self.folder.recover().await
    }

    async fn tag(&self, root: &Descriptor, name: &Reference) -> Result<(), EngineError> {
        set_name(&self.docker.api, root, name).await
    }

    async fn remove(&self, record: &Record, force: bool) -> Result<(), EngineError> {
        // dockerd compares nothing, so it is looked at right before.
        if let Some(name) = &record.name
            && let Some(current) = names::image(&self.docker.api, name).await?
            && current.digest != record.target.digest
        {
            return Err(EngineError::NameMoved { name: name.clone(), current: Some(current.digest) });
        }
        remove_name(&self.docker.api, record, force).await
    }
}
