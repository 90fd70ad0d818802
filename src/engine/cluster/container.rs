//! The container of a node, as docker has it now.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use tokio::time::timeout;

use super::address::ClusterTool;
use super::program::ProgramError;
use crate::docker_api::{Api, ApiError};

/// How long docker may take to say what became of a node that is silent.
const LOOK_UP: Duration = Duration::from_secs(10);

/// A node's container.
#[derive(Debug, Clone)]
pub(super) struct NodeContainer {
    pub(super) docker: Arc<Api>,
    pub(super) tool: ClusterTool,
    cluster: String,
    /// Another one of the same name is another node, and one that was renamed is the same.
    pub(super) id: String,
}

/// Why there is no way to a node.
#[derive(Debug, thiserror::Error)]
pub(super) enum NodeDialError {
    #[error("{0}")]
    Docker(String),
    #[error("docker has no such container any more")]
    Gone,
    #[error("that container is no node of the cluster any more")]
    Replaced,
    #[error("the node does not run (it is {0})")]
    Stopped(String),
    #[error("the node's files cannot be reached from here")]
    Elsewhere,
    #[error("{0}")]
    Socket(#[source] io::Error),
    #[error("{0}")]
    Exec(String),
    /// The program is in the node and does not run.
    #[error(
        "{0}; this linkspan does not run in the node: use one that is linked statically (target x86_64-unknown-linux-musl or the like)"
    )]
    Foreign(String),
}

impl NodeDialError {
    /// Whether a process in the node may reach what this one does not.
    pub(super) fn is_beyond(&self) -> bool {
        match self {
            Self::Elsewhere => true,
            Self::Socket(error) => error.kind() == io::ErrorKind::PermissionDenied,
            _ => false,
        }
    }
}

impl From<ProgramError> for NodeDialError {
    fn from(error: ProgramError) -> Self {
        Self::Exec(error.to_string())
    }
}

impl From<ApiError> for NodeDialError {
    fn from(error: ApiError) -> Self {
        Self::Docker(error.to_string())
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Inspected {
    pub(super) id: String,
    pub(super) state: State,
    config: Config,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct State {
    running: bool,
    status: String,
    pub(super) pid: i32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    #[serde(default)]
    labels: Option<HashMap<String, String>>,
}

impl NodeContainer {
    /// The container `id`, which is a node of `cluster`.
    pub(super) fn new(docker: Arc<Api>, tool: ClusterTool, cluster: &str, id: &str) -> Self {
        Self { docker, tool, cluster: cluster.to_owned(), id: id.to_owned() }
    }

    /// The node as it is now.
    pub(super) async fn inspect(&self) -> Result<Inspected, NodeDialError> {
        let response = self.docker.get(&format!("/containers/{}/json", self.id)).await?;
        match response.status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(NodeDialError::Gone),
            _ => return Err(NodeDialError::Docker(response.message())),
        }
        let node: Inspected =
            serde_json::from_slice(&response.body).map_err(|error| NodeDialError::Docker(error.to_string()))?;
        let labels = node.config.labels.as_ref();
        if labels.and_then(|labels| labels.get(self.tool.cluster_label())) != Some(&self.cluster) {
            return Err(NodeDialError::Replaced);
        }
        match node.state.status.as_str() {
            "removing" | "dead" => Err(NodeDialError::Gone),
            "running" if node.state.running => Ok(node),
            status => Err(NodeDialError::Stopped(status.escape_debug().to_string())),
        }
    }

    /// Why the node cannot respond; `None` if it can, or if docker does not say.
    pub(super) async fn why_silent(self) -> Option<String> {
        match timeout(LOOK_UP, self.inspect()).await {
            Ok(Err(error @ (NodeDialError::Gone | NodeDialError::Replaced | NodeDialError::Stopped(_)))) => {
                Some(error.to_string())
            }
            Ok(Ok(_)) => None,
            Ok(Err(error)) => {
                tracing::debug!(%error, id = self.id, "docker does not say what became of a node");
                None
            }
            Err(_) => None,
        }
    }
}
