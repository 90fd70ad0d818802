//! The settings that choose an engine, and what they are where they are not given.

use std::path::PathBuf;

use crate::docker_api::DockerAddress;
use crate::engine::EngineKind;
use crate::engine::cluster::ClusterAddress;
use crate::engine::layer_applier::ApplierChoice;
#[cfg(feature = "object")]
use crate::engine::object::{BucketAddress, ObjectVariables};

/// containerd's socket where nothing else is configured.
pub const DEFAULT_CONTAINERD_ADDRESS: &str = "/run/containerd/containerd.sock";
/// The namespace that `ctr` and `nerdctl` use where nothing else is configured.
pub const DEFAULT_NAMESPACE: &str = "default";
/// The image layout where nothing else is configured.
pub const DEFAULT_LAYOUT: &str = "/var/lib/linkspan/layout";
/// The directory of build caches where nothing else is configured, for root; other users have one below `XDG_STATE_HOME`.
pub const DEFAULT_CACHE_DIR: &str = "/var/lib/linkspan/cache";

/// The settings that choose an engine. `None` is the default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    /// The configured engine. By default Docker where there is one, with whichever store it has, and through its API alone where
    /// its containerd is out of reach; else containerd; an image layout where neither is installed.
    pub kind: Option<EngineKind>,
    /// dockerd's address, with its TLS; the usual socket if not given.
    pub docker_host: Option<DockerAddress>,
    /// containerd's socket; [`DEFAULT_CONTAINERD_ADDRESS`] if not given. With Docker it is the first place
    /// where dockerd's containerd is looked for.
    pub containerd_address: Option<PathBuf>,
    /// The namespace on plain containerd; [`DEFAULT_NAMESPACE`] if not given. With Docker it is dockerd's own, and
    /// naming another is an error; its classic store has none.
    pub namespace: Option<String>,
    /// The directory of the image layout; [`DEFAULT_LAYOUT`] if not given.
    pub layout: Option<PathBuf>,
    /// The bucket of the engine `object`, which has no default.
    #[cfg(feature = "object")]
    pub object: Option<BucketAddress>,
    /// Variables of the object store's client (`AWS_ACCESS_KEY_ID`, …), beside those of the process and before them.
    #[cfg(feature = "object")]
    pub object_variables: ObjectVariables,
    /// The cluster of the engine `cluster`, whose nodes are containers of the dockerd at `docker_host`; it has no default.
    pub cluster: Option<ClusterAddress>,
    /// The directory of build caches where docker cannot hold them, with its classic store and behind its API alone; with the latter
    /// also of blobs that exports send before their image. [`DEFAULT_CACHE_DIR`] if not given, or a directory of this user's.
    pub cache_dir: Option<PathBuf>,
    /// Who unpacks layers into containerd's snapshots.
    pub layer_applier: ApplierChoice,
}

impl Selection {
    /// The image layout at `root`.
    pub fn layout(root: impl Into<PathBuf>) -> Self {
        Self { kind: Some(EngineKind::Layout), layout: Some(root.into()), ..Self::default() }
    }

    /// Where dockerd is, on this machine or another one.
    pub fn docker_address(&self) -> DockerAddress {
        self.docker_host.clone().unwrap_or_default()
    }
}
