//! Which engine to export to, and why.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Engine, EngineError};

/// dockerd's socket where nothing else is configured.
pub const DEFAULT_DOCKER_HOST: &str = "unix:///var/run/docker.sock";
/// containerd's socket where nothing else is configured.
pub const DEFAULT_CONTAINERD_ADDRESS: &str = "/run/containerd/containerd.sock";
/// The namespace that `ctr` and `nerdctl` use where nothing else is configured.
pub const DEFAULT_NAMESPACE: &str = "default";

/// The engine that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Kind {
    /// Docker where there is one, else containerd.
    #[default]
    Auto,
    /// Docker with the containerd image store.
    Docker,
    /// Plain containerd.
    Containerd,
}

/// What is configured about the engine. `None` stands for the default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    /// The engine that was asked for.
    pub kind: Kind,
    /// dockerd's address as in `DOCKER_HOST`; [`DEFAULT_DOCKER_HOST`] if not given.
    pub docker_host: Option<String>,
    /// containerd's socket; [`DEFAULT_CONTAINERD_ADDRESS`] if not given. With Docker it is the first place
    /// where dockerd's containerd is looked for.
    pub containerd_address: Option<PathBuf>,
    /// The namespace on plain containerd; [`DEFAULT_NAMESPACE`] if not given. With Docker it is dockerd's own, and
    /// naming another is an error.
    pub namespace: Option<String>,
}

/// The engine that was chosen.
#[derive(Debug, Clone)]
pub struct Selected {
    /// The engine, ready for use.
    pub engine: Arc<dyn Engine>,
    /// Why it was chosen, in one line.
    pub reason: String,
}

/// Finds the engine that `selection` asks for.
///
/// [`Kind::Auto`] takes Docker when something is there at its socket; a Docker that cannot be exported to is an error
/// rather than a reason to write into a containerd that nobody looks at. containerd is chosen only when no Docker
/// socket exists.
///
/// # Errors
/// When the engine is not there, is not usable, or (Docker) does not prove to be the one behind the containerd socket.
pub async fn select(selection: &Selection) -> Result<Selected, EngineError> {
    Err(EngineError::Unreachable {
        engine: "containerd",
        address: format!("{:?}", selection.containerd_address),
        reason: "no engine is built in yet".to_owned(),
    })
}
