//! An exec in a container.

use serde::Deserialize;
use tokio_util::task::AbortOnDropHandle;

/// The fields that make two execs interchangeable; with the container's id they are the pool's key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Process {
    pub(super) cmd: Vec<String>,
    #[serde(default)]
    user: String,
    #[serde(default)]
    env: Option<Vec<String>>,
    #[serde(default)]
    working_dir: String,
    #[serde(default)]
    privileged: bool,
}

/// An exec that connects to a builder.
#[derive(Debug)]
pub(super) struct Exec {
    /// The container, as the client names it.
    pub(super) container: String,
    /// The container's id, unless dockerd did not return it.
    pub(super) container_id: AbortOnDropHandle<Option<String>>,
    /// The process that runs.
    pub(super) process: Process,
    /// Headers that dockerd adds to every response.
    pub(super) head: Vec<(&'static str, Vec<u8>)>,
}
