//! The `docker-classic` engine: dockerd with the classic store, behind a graph driver.
//!
//! Nothing can be put into that store but by dockerd itself, so an export is an archive for `POST /images/load`. It
//! lists every layer and holds only those that dockerd lacks: dockerd looks for a layer's chain before it opens the
//! layer's file (moby `daemon/internal/image/tarexport/load.go`, since 2015). The archive is made while it is sent,
//! and what makes an image of its files comes last: whatever ends it earlier leaves nothing.

mod chains;
mod lease;
mod load;
mod response;
mod selected;
mod transaction;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::future::try_join_all;
use http::StatusCode;
use serde::Deserialize;

use self::chains::Chains;
use self::lease::ClassicLease;
use super::caches::CacheStore;
use super::docker::{info, tag_again};
use super::repository::RepositoryEngine;
use super::{
    Engine, EngineError, EngineKind, Identity, Lease, Lifetime, Origin, PersistentLeases, Storage, StoredBlobs,
};
use crate::docker_api::Api;
use crate::image::{Descriptor, Digest, Reference};

/// How many roots are remembered with the images that they point to here.
const REMEMBERED: usize = 1024;

/// A dockerd with the classic store.
#[derive(Debug)]
pub(crate) struct ClassicEngine {
    docker: Arc<Classic>,
    identity: Identity,
    /// Keeps the build caches, for which dockerd's classic store has no place.
    caches: Arc<RepositoryEngine>,
}

/// What the engine and its exports share.
#[derive(Debug)]
struct Classic {
    api: Arc<Api>,
    chains: Chains,
    images: Mutex<HashMap<Digest, KnownImage>>,
}

/// The image that a root points to on this machine. dockerd does not keep manifests, so only we can know; and it is
/// always the same one, as all of it follows from the root's bytes.
#[derive(Debug, Clone)]
struct KnownImage {
    /// The config's digest, which is the image's id.
    id: Digest,
    blobs: usize,
}

impl ClassicEngine {
    /// The dockerd behind `api`, whose build caches are in the folder `caches`.
    pub(crate) async fn connect(api: Arc<Api>, caches: &Path) -> Result<Self, EngineError> {
        let info = info(&api).await?;
        let driver = info.classic_store(&api)?.to_owned();
        let identity = Identity {
            kind: EngineKind::DockerClassic,
            version: info.server_version.clone(),
            address: api.address().to_owned(),
            storage: Storage::Classic { storage_driver: driver },
        };
        let docker = Classic { api, chains: Chains::default(), images: Mutex::default() };
        Ok(Self { docker: Arc::new(docker), identity, caches: Arc::new(RepositoryEngine::private(caches)?) })
    }
}

impl Classic {
    fn remember(&self, root: &Digest, known: KnownImage) {
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        if images.len() >= REMEMBERED {
            images.clear();
        }
        images.insert(root.clone(), known);
    }

    /// The id of the image that dockerd finds under `name`: a reference, or an image's id.
    async fn image(&self, name: &str) -> Result<Option<Digest>, EngineError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Image {
            id: Digest,
        }
        let path = format!("/images/{name}/json");
        let response = self.api.get(&path).await?;
        let broken = |reason| EngineError::Protocol { operation: format!("asking docker for {path}"), reason };
        match response.status {
            StatusCode::OK => {
                let image: Image = serde_json::from_slice(&response.body).map_err(|error| broken(error.to_string()))?;
                Ok(Some(image.id))
            }
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(broken(response.message())),
        }
    }

    /// Whether all of `names`, of which there must be one at least, point to the image `id`; and if so, has dockerd
    /// tag them as what they are.
    async fn resolves_to(&self, id: &Digest, names: &[Reference]) -> Result<bool, EngineError> {
        if names.is_empty() {
            return Ok(false);
        }
        let full: Vec<_> = names.iter().map(ToString::to_string).collect();
        let found = try_join_all(full.iter().map(|name| self.image(name))).await?;
        if !found.iter().all(|found| found.as_ref() == Some(id)) {
            return Ok(false);
        }
        let tagged = try_join_all(names.iter().map(|name| tag_again(&self.api, name))).await?;
        Ok(tagged.into_iter().all(|there| there))
    }
}

#[async_trait]
impl Engine for ClassicEngine {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    async fn already_complete(&self, root: &Descriptor, names: &[Reference]) -> Result<Option<usize>, EngineError> {
        let known = self.docker.images.lock().unwrap_or_else(PoisonError::into_inner).get(&root.digest).cloned();
        let Some(known) = known else { return Ok(None) };
        Ok(self.docker.resolves_to(&known.id, names).await?.then_some(known.blobs))
    }

    /// The image's id.
    async fn resolve(&self, name: &Reference) -> Result<Option<Digest>, EngineError> {
        self.docker.image(&name.to_string()).await
    }

    fn knows_as(&self, root: &Digest) -> Option<Digest> {
        let images = self.docker.images.lock().unwrap_or_else(PoisonError::into_inner);
        images.get(root).map(|known| known.id.clone())
    }

    fn caches(&self) -> Result<Arc<dyn CacheStore>, EngineError> {
        self.caches.caches()
    }

    fn cache_engine(&self) -> Option<Arc<dyn Engine>> {
        Some(self.caches.clone())
    }

    /// Nothing is created: there are no leases here. It may be another dockerd by now, or one with another store.
    async fn lease(&self, _: &Origin, lifetime: Lifetime<'_>) -> Result<Arc<dyn Lease>, EngineError> {
        if let Lifetime::Durable { .. } = lifetime {
            let what = "an export that outlives a restart";
            return Err(EngineError::NotOffered { engine: self.identity.kind.name(), what });
        }
        let info = info(&self.docker.api).await?;
        info.classic_store(&self.docker.api)?;
        Ok(Arc::new(ClassicLease::new(self.docker.clone(), info)))
    }

    /// There is never anything: what dockerd had received of an archive it deletes when the connection breaks, or when
    /// it starts again (moby `daemon/daemon.go`, `prepareTempDir`).
    async fn recover(&self) -> Result<usize, EngineError> {
        Ok(0)
    }

    /// What dockerd received of an archive goes with its connection.
    fn persistent_leases(&self) -> Option<&dyn PersistentLeases> {
        None
    }

    /// Only dockerd reads its layers.
    async fn load_store(&self) -> Result<Option<Arc<dyn StoredBlobs>>, EngineError> {
        Ok(None)
    }
}
