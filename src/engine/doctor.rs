//! What `linkspan doctor` reports of engines: facts, without judging them.

use super::EngineError;
use super::select::{Selected, Selection, select};

/// All that was found. Each half is `None` where there is no socket at its address.
#[derive(Debug)]
pub struct Findings {
    /// The engine that an export would go to, or why there is none.
    pub selected: Result<Selected, EngineError>,
    /// dockerd.
    pub docker: Option<Result<Docker, EngineError>>,
    /// The containerd that was proven to be dockerd's; without a dockerd the one at the configured address.
    pub containerd: Option<Result<Containerd, EngineError>>,
}

/// What dockerd says of itself.
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

/// What containerd says of itself.
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
    /// Whether that snapshotter lets layers be unpacked in parallel (capability `rebase`).
    pub parallel_unpack: bool,
    /// The content sharing policy: `shared` or `isolated`; `None` if it does not say.
    pub sharing: Option<String>,
    /// Whether metadata survives a power failure; `false` with bolt's `no_sync`, `None` if it does not say.
    pub metadata_synced: Option<bool>,
}

/// Looks at the engines of `selection`. Never fails as a whole: each part says what it met.
pub async fn examine(selection: &Selection) -> Findings {
    Findings { selected: select(selection).await, docker: None, containerd: None }
}
