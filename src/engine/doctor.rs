//! What `linkspan doctor` reports of engines: facts, without judging them.

use std::path::Path;
use std::sync::Arc;

use super::containerd::ContainerdEngine;
use super::docker::{Store, info};
use super::select::{Chosen, DEFAULT_CONTAINERD_ADDRESS, DEFAULT_NAMESPACE, Selected, Selection, choose, is_there};
use super::{EngineError, EngineKind};
use crate::docker_api::Api;

/// All that was found. Each half is `None` where it was not requested or there is no socket at its address.
#[derive(Debug)]
pub struct Findings {
    /// The engine that an export would go to, or why there is none.
    pub selected: Result<Selected, EngineError>,
    /// dockerd.
    pub docker: Option<Result<Docker, EngineError>>,
    /// The containerd that was proven to be dockerd's; with the classic store none; without a usable dockerd the one at the configured address.
    pub containerd: Option<Result<Containerd, EngineError>>,
}

/// What dockerd reports of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Docker {
    /// Its socket.
    pub address: String,
    /// Its version.
    pub version: String,
    /// Whether it uses the containerd image store.
    pub containerd_store: bool,
    /// The snapshotter, or the graph driver of the classic store.
    pub driver: String,
}

/// What containerd reports of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Containerd {
    /// Its socket.
    pub address: String,
    /// Its version.
    pub version: String,
    /// Its server UUID.
    pub uuid: String,
    /// The namespace that images would go to.
    pub namespace: String,
    /// The snapshotter that would unpack them.
    pub snapshotter: String,
    /// Whether layers can be unpacked in parallel: that snapshotter is `overlayfs` with the capability `rebase`.
    pub parallel_unpack: bool,
    /// The content sharing policy: `shared` or `isolated`; `None` if it does not say.
    pub sharing: Option<String>,
}

/// Looks at the engines of `selection`. Never fails as a whole: each part says what it met.
pub async fn examine(selection: &Selection) -> Findings {
    let (chosen, docker) = futures_util::join!(choose(selection), docker(selection));
    let containerd = match &chosen {
        Ok((Chosen::Docker(engine), _)) => Some(Ok(describe(engine.containerd()))),
        // It has no part in where the images are.
        Ok((Chosen::DockerClassic(_) | Chosen::DockerApi(_), _)) => None,
        Ok((Chosen::Containerd(engine), _)) => Some(Ok(describe(engine))),
        Ok((Chosen::Layout(_) | Chosen::Cluster(_), _)) => None,
        #[cfg(feature = "object")]
        Ok((Chosen::Object(_), _)) => None,
        Err(_) if matches!(selection.kind, Some(EngineKind::Layout | EngineKind::Object | EngineKind::Cluster)) => None,
        Err(_) => containerd(selection).await,
    };
    let selected = chosen.map(|(chosen, reason)| Selected { engine: chosen.into_engine(), reason });
    Findings { selected, docker, containerd }
}

async fn docker(selection: &Selection) -> Option<Result<Docker, EngineError>> {
    // The dockerd of a cluster's nodes is not their engine.
    let other = [EngineKind::Containerd, EngineKind::Layout, EngineKind::Object, EngineKind::Cluster];
    if selection.kind.is_some_and(|kind| other.contains(&kind)) {
        return None;
    }
    let address = selection.docker_address();
    if selection.docker_host.is_none() && !address.socket().is_some_and(is_there) {
        return None;
    }
    let api = match Api::at(&address) {
        Ok(api) => Arc::new(api),
        Err(error) => return Some(Err(error.into())),
    };
    let found = info(&api).await.map(|info| {
        let (containerd_store, driver) = match info.store() {
            Store::Containerd { snapshotter } => (true, snapshotter.to_owned()),
            Store::Classic { driver } => (false, driver.to_owned()),
        };
        Docker { address: api.address().to_owned(), version: info.server_version.clone(), containerd_store, driver }
    });
    Some(found)
}

async fn containerd(selection: &Selection) -> Option<Result<Containerd, EngineError>> {
    let socket = match &selection.containerd_address {
        Some(socket) => socket.as_path(),
        None => Some(Path::new(DEFAULT_CONTAINERD_ADDRESS)).filter(|socket| is_there(socket))?,
    };
    let namespace = selection.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
    Some(ContainerdEngine::connect(socket, namespace).await.map(|engine| describe(&engine)))
}

fn describe(engine: &ContainerdEngine) -> Containerd {
    let server = engine.server();
    Containerd {
        address: engine.client().address().to_owned(),
        version: server.version.clone(),
        uuid: server.uuid.clone(),
        namespace: engine.namespace().to_owned(),
        snapshotter: server.snapshotter.clone(),
        parallel_unpack: server.parallel_unpack,
        sharing: server.sharing.clone(),
    }
}
