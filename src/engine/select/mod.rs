//! Which engine to export to, and why.

mod selection;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cluster::ClusterEngine;
use super::containerd::ContainerdEngine;
use super::docker::DockerEngine;
use super::docker_api::DockerApiEngine;
use super::docker_classic::ClassicEngine;
use super::installed::{self, DOCKER};
pub use super::layer_applier::ApplierChoice;
use super::local;
#[cfg(feature = "object")]
use super::object::ObjectEngine;
use super::repository::RepositoryEngine;
use super::{Engine, EngineError, EngineKind, Storage};
use crate::docker_api::Api;
pub use crate::docker_api::{DEFAULT_DOCKER_HOST, DockerAddress, DockerAddressError};
pub use selection::{DEFAULT_CACHE_DIR, DEFAULT_CONTAINERD_ADDRESS, DEFAULT_LAYOUT, DEFAULT_NAMESPACE, Selection};

/// Why it was chosen although none was configured.
const FOUND: &str = "found by itself";

/// The engine that was chosen.
#[derive(Debug, Clone)]
pub struct Selected {
    /// The engine, ready for use.
    pub engine: Arc<dyn Engine>,
    /// Why it was chosen, in one line.
    pub reason: String,
}

/// Finds the engine that `selection` names.
///
/// A selection without a kind takes Docker when something is there at its socket; a Docker that cannot be exported to is an error
/// rather than a reason to write into a containerd whose images docker does not show. containerd is chosen when it is named, or when it
/// is there and nothing says that Docker was ever installed (no socket, no program, no unit of systemd); the layout only
/// where nothing says so of either. An engine that is merely stopped is an error.
///
/// # Errors
/// When the engine is not there, is not usable, or (Docker) does not prove to be the one behind the containerd socket.
pub async fn select(selection: &Selection) -> Result<Selected, EngineError> {
    let (chosen, reason) = choose(selection).await?;
    Ok(Selected { engine: chosen.into_engine(), reason })
}

/// The same without the way through docker's API alone where that was not configured, for a daemon that may have been started
/// before containerd.
pub(crate) async fn select_with_containerd(selection: &Selection) -> Result<Selected, EngineError> {
    let (chosen, reason) = choose_directly(selection).await?;
    Ok(Selected { engine: chosen.into_engine(), reason })
}

impl Selected {
    /// Fails if the engine is a layout that this process may not write.
    ///
    /// # Errors
    /// [`EngineError::Layout`] with the system's reason.
    pub fn check_writable(&self) -> Result<(), EngineError> {
        let identity = self.engine.identity();
        if identity.kind == EngineKind::Layout { local::check_writable(Path::new(&identity.address)) } else { Ok(()) }
    }
}

/// An engine that was chosen, before it is hidden behind the trait.
#[derive(Debug)]
pub(super) enum Chosen {
    Docker(Box<DockerEngine>),
    DockerClassic(Box<ClassicEngine>),
    DockerApi(Box<DockerApiEngine>),
    Containerd(Box<ContainerdEngine>),
    Layout(Box<RepositoryEngine>),
    #[cfg(feature = "object")]
    Object(Box<ObjectEngine>),
    Cluster(Box<ClusterEngine>),
}

impl Chosen {
    pub(super) fn into_engine(self) -> Arc<dyn Engine> {
        match self {
            Self::Docker(engine) => Arc::from(engine as Box<dyn Engine>),
            Self::DockerClassic(engine) => Arc::from(engine as Box<dyn Engine>),
            Self::DockerApi(engine) => Arc::from(engine as Box<dyn Engine>),
            Self::Containerd(engine) => Arc::from(engine as Box<dyn Engine>),
            Self::Layout(engine) => Arc::from(engine as Box<dyn Engine>),
            #[cfg(feature = "object")]
            Self::Object(engine) => Arc::from(engine as Box<dyn Engine>),
            Self::Cluster(engine) => Arc::from(engine as Box<dyn Engine>),
        }
    }
}

/// The engine and the reason.
pub(super) async fn choose(selection: &Selection) -> Result<(Chosen, String), EngineError> {
    match choose_directly(selection).await {
        Err(error) if selection.kind.is_none() && error.is_containerd_out_of_reach() => {
            docker_api(selection, &selection.docker_address(), &format!("{FOUND}; {error}")).await
        }
        outcome => outcome,
    }
}

async fn choose_directly(selection: &Selection) -> Result<(Chosen, String), EngineError> {
    match selection.kind {
        Some(EngineKind::Containerd) => containerd(selection, "as configured").await,
        Some(EngineKind::Layout) => layout(selection, "as configured").await,
        Some(EngineKind::Object) => object(selection).await,
        Some(EngineKind::Cluster) => cluster(selection).await,
        Some(EngineKind::Docker) => docker(selection, &docker_socket(selection)?, "as configured").await,
        Some(EngineKind::DockerClassic) => {
            docker_classic(selection, &selection.docker_address(), "as configured").await
        }
        Some(EngineKind::DockerApi) => docker_api(selection, &selection.docker_address(), "as configured").await,
        Some(EngineKind::Other) | None => {
            let address = selection.docker_address();
            if address.socket().is_none() {
                let why = format!("{FOUND}; docker is not on this machine, and neither is its containerd");
                return docker_api(selection, &address, &why).await;
            }
            let socket = docker_socket(selection)?;
            if selection.docker_host.is_some() || is_there(&socket) {
                match docker(selection, &socket, FOUND).await {
                    Err(EngineError::ClassicStore { .. }) => docker_classic(selection, &address, FOUND).await,
                    outcome => outcome,
                }
            } else {
                let places = installed::Places::of_this_machine();
                containerd_or_layout(selection, &socket, Path::new(DEFAULT_CONTAINERD_ADDRESS), &places).await
            }
        }
    }
}

/// Whether there is something at `socket`, be it dead.
pub(super) fn is_there(socket: &Path) -> bool {
    socket.symlink_metadata().is_ok()
}

async fn docker(selection: &Selection, socket: &Path, why: &str) -> Result<(Chosen, String), EngineError> {
    let (hint, namespace) = (selection.containerd_address.as_deref(), selection.namespace.as_deref());
    let mut engine = DockerEngine::connect(socket, hint, namespace).await?;
    engine.set_layer_applier(selection.layer_applier);
    let used = engine.containerd().client().address();
    let not_named = hint
        .filter(|named| !is_socket(named, used))
        .map_or_else(String::new, |named| format!(", not the {} that was named", named.display()));
    let reason = format!("{why}, proven to use the containerd at {used}{not_named}");
    Ok((Chosen::Docker(Box::new(engine)), reason))
}

/// Whether `socket` is, or leads to, the socket of `address`, which is a URL or a path.
fn is_socket(socket: &Path, address: &str) -> bool {
    let other = Path::new(address.strip_prefix("unix://").unwrap_or(address));
    let is_same_file = || matches!((socket.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other);
    socket == other || is_same_file()
}

async fn docker_classic(
    selection: &Selection,
    address: &DockerAddress,
    why: &str,
) -> Result<(Chosen, String), EngineError> {
    if let Some(namespace) = &selection.namespace {
        return Err(EngineError::Namespace {
            namespace: namespace.clone(),
            reason: "docker's classic store has no namespaces; leave the setting out".to_owned(),
        });
    }
    let engine = ClassicEngine::connect(Arc::new(Api::at(address)?), &cache_dir(selection)).await?;
    let reason = format!("{why}; layers that it lacks are sent to it in an archive");
    Ok((Chosen::DockerClassic(Box::new(engine)), reason))
}

/// docker through its API alone, with whichever store it has.
async fn docker_api(
    selection: &Selection,
    address: &DockerAddress,
    why: &str,
) -> Result<(Chosen, String), EngineError> {
    let folder = cache_dir(selection);
    let engine = match DockerApiEngine::connect(Arc::new(Api::at(address)?), &folder).await {
        Err(EngineError::ClassicStore { .. }) => return docker_classic(selection, address, why).await,
        engine => engine?,
    };
    if let (Some(named), Storage::Containerd { namespace, .. }) = (&selection.namespace, &engine.identity().storage)
        && named != namespace
    {
        let reason = format!("docker at {} keeps its images in `{namespace}`", engine.identity().address);
        return Err(EngineError::Namespace { namespace: named.clone(), reason });
    }
    let reason = format!(
        "{why}; images go through docker's API alone: layers that it lacks one after the other, what was interrupted again from \
         its start, and nothing is pinned before it is loaded; build caches are in {}",
        folder.display()
    );
    Ok((Chosen::DockerApi(Box::new(engine)), reason))
}

/// The directory of build caches where docker cannot hold them.
fn cache_dir(selection: &Selection) -> PathBuf {
    let usual = || {
        let state = || {
            let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
            set("XDG_STATE_HOME")
                .or_else(|| Some(set("HOME")?.join(".local/state")))
                .filter(|state| state.is_absolute())
        };
        let own = if rustix::process::geteuid().is_root() { None } else { state() };
        own.map_or_else(|| PathBuf::from(DEFAULT_CACHE_DIR), |state| state.join("linkspan/cache"))
    };
    selection.cache_dir.clone().unwrap_or_else(usual)
}

async fn containerd(selection: &Selection, why: &str) -> Result<(Chosen, String), EngineError> {
    let socket = selection.containerd_address.as_deref().unwrap_or(Path::new(DEFAULT_CONTAINERD_ADDRESS));
    let namespace = selection.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
    let mut engine = ContainerdEngine::connect(socket, namespace).await?;
    engine.set_layer_applier(selection.layer_applier);
    Ok((Chosen::Containerd(Box::new(engine)), why.to_owned()))
}

/// What is taken where there is no Docker.
async fn containerd_or_layout(
    selection: &Selection,
    docker: &Path,
    usual: &Path,
    places: &installed::Places,
) -> Result<(Chosen, String), EngineError> {
    let is_named = selection.containerd_address.is_some() || selection.namespace.is_some();
    // A containerd that runs may be that of the Docker that does not: nobody would look for images in it.
    let stopped = installed::trace(places).filter(|trace| trace.engine == DOCKER || !is_there(usual));
    match stopped {
        Some(trace) if !is_named => Err(EngineError::Stopped {
            engine: trace.engine,
            trace: trace.path.display().to_string(),
            docker: docker.display().to_string(),
            containerd: usual.display().to_string(),
        }),
        None if !is_named && !is_there(usual) => {
            layout(selection, "no engine is installed here, so images go to a directory").await
        }
        _ => containerd(selection, &format!("no docker at {}", docker.display())).await,
    }
}

async fn layout(selection: &Selection, why: &str) -> Result<(Chosen, String), EngineError> {
    let engine = RepositoryEngine::connect(selection.layout.as_deref().unwrap_or(Path::new(DEFAULT_LAYOUT))).await?;
    Ok((Chosen::Layout(Box::new(engine)), why.to_owned()))
}

/// Without the feature `object`.
#[cfg(not(feature = "object"))]
async fn object(_: &Selection) -> Result<(Chosen, String), EngineError> {
    Err(EngineError::Object {
        operation: "opening",
        object: "a bucket".to_owned(),
        reason: "this program was built without the engine `object`".to_owned(),
        hint: Some("build it with the feature `object` of the crate linkspan"),
    })
}

#[cfg(feature = "object")]
async fn object(selection: &Selection) -> Result<(Chosen, String), EngineError> {
    let Some(address) = &selection.object else {
        return Err(EngineError::Object {
            operation: "opening",
            object: "the bucket".to_owned(),
            reason: "none is named".to_owned(),
            hint: Some("name one with --object s3://BUCKET/PREFIX"),
        });
    };
    Ok((
        Chosen::Object(Box::new(ObjectEngine::connect(address, &selection.object_variables).await?)),
        "as configured".to_owned(),
    ))
}

async fn cluster(selection: &Selection) -> Result<(Chosen, String), EngineError> {
    let Some(address) = &selection.cluster else {
        return Err(EngineError::Cluster {
            cluster: EngineKind::Cluster.name().to_owned(),
            reason: "none is named".to_owned(),
            hint: Some("name one with --engine kind://CLUSTER".to_owned()),
            is_passing: false,
        });
    };
    let docker = Api::at(&selection.docker_address())?;
    let engine = ClusterEngine::connect(Arc::new(docker), address, selection.layer_applier).await?;
    Ok((Chosen::Cluster(Box::new(engine)), "as configured".to_owned()))
}

/// dockerd's socket. Blobs go to the containerd beside dockerd, so it must be one of this machine.
pub(super) fn docker_socket(selection: &Selection) -> Result<PathBuf, EngineError> {
    let address = selection.docker_address();
    match address.socket() {
        Some(path) => Ok(path.to_owned()),
        None => Err(EngineError::Address {
            engine: "docker",
            address: address.to_string(),
            reason: "the engine `docker` needs dockerd's own socket on this machine, `unix:///path`; `--engine docker-api` does not",
        }),
    }
}
