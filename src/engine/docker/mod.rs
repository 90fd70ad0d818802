//! The `docker` engine: dockerd with the containerd image store.
//!
//! Blobs, labels and snapshots go straight into the containerd that dockerd uses, after that was proven
//! ([`verify_store`]); the image itself is committed by dockerd ([`load`]), so that its events, its authorization plugins
//! and its own bookkeeping all take part.

mod archive;
mod caches;
mod discover;
mod jsonstream;
mod load;
mod response;
mod tag;
mod upload;
mod verify_store;

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::try_join_all;

use self::caches::DockerCaches;
pub(crate) use self::discover::{Info, Store, info};
pub(crate) use self::jsonstream::{Line, check_loaded};
use self::load::Loads;
pub(crate) use self::load::{TRANSIENT, UNPACK_FAILED, event, is_transient, load_names, pause};
#[cfg(test)]
pub(crate) use self::response::parse as parse_line;
pub(crate) use self::response::read_lines;
pub(crate) use self::tag::{
    Tagged, again as tag_again, remove as remove_name, set as set_name, tag, take as take_name,
};
pub(crate) use self::upload::{Upload, broken};
use self::verify_store::VerifiedStore;
pub(crate) use self::verify_store::namespace;
use super::caches::CacheStore;
use super::containerd::{ContainerdBlobs, ContainerdEngine, ContainerdImages};
use super::images::{Images, Record};
use super::layer_applier::ApplierChoice;
use super::{
    Abandoned, DurableLease, Engine, EngineError, EngineKind, Identity, Lease, Lifetime, Origin, PersistentLeases,
    SharedContent, Storage, StoredBlobs,
};
use crate::docker_api::Api;
use crate::image::{Descriptor, Reference};

/// How long dockerd has for a commit of a process that was killed. It is told that its client has gone, and ends with
/// what it is at; without our lease, blobs could go of an image that it is just making.
const GRACE: Duration = Duration::from_secs(3);

/// A dockerd, and the containerd that it was verified to use.
#[derive(Debug)]
pub(crate) struct DockerEngine {
    docker: Arc<Api>,
    store: Arc<VerifiedStore>,
    containerd: ContainerdEngine,
    identity: Identity,
}

impl DockerEngine {
    /// The dockerd behind `socket`. Its containerd is looked for at `hint` first.
    pub(crate) async fn connect(
        socket: &Path,
        hint: Option<&Path>,
        namespace: Option<&str>,
    ) -> Result<Self, EngineError> {
        let docker = Arc::new(Api::new(socket));
        let info = info(&docker).await?;
        let snapshotter = info.containerd_store(&docker)?.to_owned();
        let store = VerifiedStore::find(socket, &candidates(hint, info.containerd_address())).await?;
        if let Some(expected) = namespace.filter(|expected| *expected != store.namespace()) {
            return Err(EngineError::Namespace {
                namespace: expected.to_owned(),
                reason: format!("docker at {} keeps its images in `{}`", docker.address(), store.namespace()),
            });
        }
        let server = super::containerd::discover(store.client(), store.namespace(), Some(&snapshotter)).await?;
        let identity = Identity {
            kind: EngineKind::Docker,
            version: info.server_version,
            address: docker.address().to_owned(),
            storage: Storage::Containerd {
                namespace: store.namespace().to_owned(),
                snapshotter,
                parallel_unpack: server.parallel_unpack,
            },
        };
        let containerd = ContainerdEngine::new(store.client().clone(), store.namespace(), server);
        Ok(Self { docker, store: Arc::new(store), containerd, identity })
    }

    /// Chooses who unpacks layers.
    pub(super) fn set_layer_applier(&mut self, choice: ApplierChoice) {
        self.containerd.set_layer_applier(choice);
    }

    /// The containerd that dockerd uses.
    pub(crate) fn containerd(&self) -> &ContainerdEngine {
        &self.containerd
    }
}

/// Where dockerd's containerd may be, best guess first (moby `daemon/command/daemon.go`): the configured address, where
/// dockerd reports it (27 and later), where it looks itself, where it starts its own.
fn candidates(hint: Option<&Path>, reported: Option<&Path>) -> Vec<PathBuf> {
    let usual = ["/run/containerd/containerd.sock", "/var/run/docker/containerd/containerd.sock"].map(Path::new);
    let mut found: Vec<PathBuf> = Vec::new();
    for path in hint.into_iter().chain(reported).chain(usual) {
        if !found.iter().any(|have| have == path) {
            found.push(path.to_owned());
        }
    }
    found
}

#[async_trait]
impl Engine for DockerEngine {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn sharing(&self) -> SharedContent {
        self.containerd.sharing()
    }

    async fn already_complete(&self, root: &Descriptor, names: &[Reference]) -> Result<Option<usize>, EngineError> {
        // At the same time: looking changes nothing, even in a containerd that is the wrong one by now. And what
        // is not there needs no proof.
        let (mut proof, mut look) = (pin!(self.store.check()), pin!(self.containerd.already_complete(root, names)));
        let found = tokio::select! {
            proven = &mut proof => {
                proven?;
                look.await?
            }
            found = &mut look => {
                let found = found?;
                if found.is_some() {
                    proof.await?;
                }
                found
            }
        };
        let Some(blobs) = found else { return Ok(None) };
        let tagged = try_join_all(names.iter().map(|name| tag::again(&self.docker, name))).await?;
        Ok(tagged.into_iter().all(|there| there).then_some(blobs))
    }

    async fn lease(&self, origin: &Origin, lifetime: Lifetime<'_>) -> Result<Arc<dyn Lease>, EngineError> {
        let loads = Loads::new(self.docker.clone(), self.store.clone(), lifetime);
        let lease = self.containerd.lease_for(origin, lifetime, Arc::new(loads));
        if let Lifetime::Durable { .. } = lifetime {
            // First: what a durable lease has pinned already must not be released in vain.
            self.store.check().await?;
            return Ok(Arc::new(lease.await?));
        }
        // At the same time: an empty lease does no harm in a containerd that is the wrong one by now.
        let (verified, lease) = tokio::join!(self.store.check(), lease);
        if let Err(error) = verified {
            // The error is that it is not the one, whatever becomes of the lease there.
            if let Ok(lease) = lease
                && let Err(error) = lease.release().await
            {
                tracing::warn!(%error, "an empty lease stays until it expires");
            }
            return Err(error);
        }
        Ok(Arc::new(lease?))
    }

    fn persistent_leases(&self) -> Option<&dyn PersistentLeases> {
        Some(self)
    }

    /// dockerd's images are containerd's records, under the names that dockerd gives them.
    fn images(&self) -> Result<Arc<dyn Images>, EngineError> {
        Ok(Arc::new(ContainerdImages::new(self.containerd.client().clone(), "docker's containerd")))
    }

    fn caches(&self) -> Result<Arc<dyn CacheStore>, EngineError> {
        Ok(Arc::new(DockerCaches::new(&self.containerd, self.store.clone())))
    }

    async fn load_store(&self) -> Result<Option<Arc<dyn StoredBlobs>>, EngineError> {
        let (verified, blobs) = tokio::join!(self.store.check(), ContainerdBlobs::new(&self.containerd));
        verified?;
        Ok(Some(Arc::new(blobs?) as Arc<dyn StoredBlobs>))
    }

    async fn recover(&self) -> Result<usize, EngineError> {
        let abandoned = ContainerdEngine::abandoned(&self.containerd).await?;
        let (client, count) = (self.containerd.client().clone(), abandoned.len());
        if count > 0 {
            tokio::spawn(async move {
                tokio::time::sleep(GRACE).await;
                if let Err(error) = super::containerd::release_all(&client, &abandoned).await {
                    tracing::warn!(%error, "leases of a former process stay until the next start, or until they expire");
                }
            });
        }
        Ok(count)
    }

    async fn tag(&self, root: &Descriptor, name: &Reference) -> Result<(), EngineError> {
        tag::set(&self.docker, root, name).await
    }

    async fn remove(&self, record: &Record, force: bool) -> Result<(), EngineError> {
        // dockerd compares nothing, so it is looked at right before.
        ContainerdImages::new(self.containerd.client().clone(), "docker's containerd").check(record).await?;
        tag::remove(&self.docker, record, force).await
    }
}

#[async_trait]
impl PersistentLeases for DockerEngine {
    async fn durable(&self) -> Result<Vec<DurableLease>, EngineError> {
        self.containerd.durable().await
    }

    async fn abandoned(&self) -> Result<Abandoned, EngineError> {
        Ok(Abandoned { grace: GRACE, ..PersistentLeases::abandoned(&self.containerd).await? })
    }

    async fn release_abandoned(&self, leases: &[String]) -> Result<(), EngineError> {
        self.containerd.release_abandoned(leases).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_candidate_is_tried_once_and_the_best_first() {
        let run = Path::new("/run/containerd/containerd.sock");
        let own = Path::new("/var/run/docker/containerd/containerd.sock");
        let hint = Path::new("/hint.sock");
        assert_eq!(candidates(None, None), [run, own]);
        assert_eq!(candidates(None, Some(own)), [own, run]);
        assert_eq!(candidates(Some(hint), Some(run)), [hint, run, own]);
        assert_eq!(candidates(Some(run), Some(run)), [run, own]);
    }
}
