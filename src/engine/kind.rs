//! The kinds of engines.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The kind of an engine, written as `--engine` and the status document have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineKind {
    /// Docker with the containerd image store.
    Docker,
    /// Docker with the classic store.
    DockerClassic,
    /// Docker with the containerd image store, of which only the Engine API is used.
    DockerApi,
    /// Plain containerd.
    Containerd,
    /// An OCI image layout directory.
    Layout,
    /// A bucket of an object store.
    Object,
    /// The containerd of every node of a cluster whose nodes are containers.
    Cluster,
    /// An engine that only a later version knows.
    #[default]
    #[serde(rename = "engine", other)]
    Other,
}

impl EngineKind {
    /// The kinds that can be configured.
    pub const ALL: [Self; 7] = [
        Self::Docker,
        Self::DockerClassic,
        Self::DockerApi,
        Self::Containerd,
        Self::Layout,
        Self::Object,
        Self::Cluster,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::DockerClassic => "docker-classic",
            Self::DockerApi => "docker-api",
            Self::Containerd => "containerd",
            Self::Layout => "layout",
            Self::Object => "object",
            Self::Cluster => "cluster",
            Self::Other => "engine",
        }
    }

    /// Whether it is a dockerd with the containerd image store, however it is reached: buildx marks its loads.
    pub const fn has_containerd_store(self) -> bool {
        matches!(self, Self::Docker | Self::DockerApi)
    }

    /// Whether dockerd is the engine, with whichever store, and however it is reached.
    pub const fn is_docker(self) -> bool {
        matches!(self, Self::Docker | Self::DockerClassic | Self::DockerApi)
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The text names no kind of [`EngineKind::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no kind of engine")]
pub struct UnknownKind;

impl FromStr for EngineKind {
    type Err = UnknownKind;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or(UnknownKind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_written_everywhere_alike() {
        for kind in EngineKind::ALL {
            let json = format!("\"{kind}\"");
            assert_eq!((kind.name().parse(), serde_json::to_string(&kind).unwrap()), (Ok(kind), json.clone()));
            assert_eq!(serde_json::from_str::<EngineKind>(&json).unwrap(), kind);
        }
        assert_eq!(serde_json::from_str::<EngineKind>("\"podman\"").unwrap(), EngineKind::Other);
        assert_eq!("engine".parse::<EngineKind>(), Err(UnknownKind));
    }
}
