//! The `docker-api` engine: a dockerd with the containerd image store, of which only the Engine API can be reached.
//!
//! Its socket shows the content store, to be read ([`content`]): so it is known which layers dockerd lacks. An export is an OCI
//! archive for `POST /images/load` with the image's documents and these layers; containerd's importer, which reads it, looks
//! for everything else in the store (containerd `client/import.go`). The file that makes an image of it comes last: whatever
//! ends the archive earlier leaves nothing that is visible. What dockerd had received by then stays for a day, by the lease
//! of an import that nobody ends, so that the next export finds the layers that were complete.
//!
//! dockerd sets the names in an archive before it unpacks the image (moby `daemon/containerd/image_exporter.go`), so the archive
//! has none ([`load`]): dockerd loads and unpacks an image without a name ([`unnamed`]), every blob is looked up once more, and only
//! then the names are compared with their preconditions and set ([`commit`]), by `POST /images/ID/tag`. Whoever is killed
//! leaves each name as it was, or on an image that is complete.
//!
//! dockerd lends no leases, so nothing is pinned between the look-up and the load, nor an image without a name from
//! `docker image prune`. If something is gone after the load, or after the names were set, the names get back what they had,
//! and the image is sent whole.
//!
//! Blobs that come before their image is known (the exporter API) wait in the *spool*, an image layout folder.

mod already_complete;
mod archive;
mod commit;
mod content;
mod images;
mod lease;
mod load;
mod names;
mod names_before;
mod plan;
mod transaction;
mod unnamed;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;

use self::content::Content;
use self::images::DockerApiImages;
use self::lease::DockerApiLease;
use super::caches::CacheStore;
use super::docker::{info, namespace, remove_name, set_name};
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
    /// Whether the record of an image without a name can be removed beside its names: before 25 dockerd takes one for the other
    /// (moby `daemon/containerd/image_delete.go`).
    knows_unnamed_records: bool,
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
        let snapshotter = info.containerd_store(&api)?.to_owned();
        let grpc = Arc::new(Grpc::new(api.clone()));
        let namespace = namespace(grpc.clone()).await?;
        let identity = Identity {
            kind: EngineKind::DockerApi,
            version: info.server_version.clone(),
            address: api.address().to_owned(),
            storage: Storage::Containerd { namespace, snapshotter: snapshotter.clone(), parallel_unpack: false },
        };
        let folder = Arc::new(RepositoryEngine::private(folder)?);
        let docker = DockerApi {
            api,
            content: Content::new(grpc),
            snapshotter,
            knows_unnamed_records: info.major().is_none_or(|major| major >= 25),
            spool: folder.images()?,
        };
        Ok(Self { docker: Arc::new(docker), identity, folder })
    }
}

impl DockerApi {
    fn images(&self) -> DockerApiImages {
        DockerApiImages { api: self.api.clone(), content: self.content.clone(), spool: self.spool.clone() }
    }

    /// Fails if dockerd has another store by now.
    async fn check_store(&self) -> Result<(), EngineError> {
        info(&self.api).await?.containerd_store(&self.api).map(drop)
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
