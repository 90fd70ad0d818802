//! Connects to the containerd in a node.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::StatusCode;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::process::Pid;
use serde::Deserialize;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::address::ClusterTool;
use crate::docker_api::{Api, ApiError};
use crate::net::{Dial, DialError, Stream};

/// How long a connection may take to come up.
const CONNECT: Duration = Duration::from_secs(5);

/// The way to the containerd in a node. The node's process is looked up for each connection: a node that was restarted has
/// another one.
#[derive(Debug)]
pub(super) struct NodeDial {
    docker: Arc<Api>,
    tool: ClusterTool,
    cluster: String,
    node: String,
}

/// Why there is no way.
#[derive(Debug, thiserror::Error)]
enum NodeDialError {
    #[error("{0}")]
    Docker(String),
    #[error("docker has no such container any more")]
    Gone,
    #[error("that container is no node of the cluster any more")]
    Replaced,
    #[error("the node does not run (it is {0})")]
    Stopped(String),
    #[error(
        "the node's files cannot be reached from here: linkspan must be root on the machine of dockerd, and see its processes"
    )]
    Elsewhere,
    #[error("{0}")]
    Socket(#[source] io::Error),
}

impl From<ApiError> for NodeDialError {
    fn from(error: ApiError) -> Self {
        Self::Docker(error.to_string())
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: String,
    state: State,
    config: Config,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    running: bool,
    status: String,
    pid: i32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    #[serde(default)]
    labels: Option<HashMap<String, String>>,
}

impl NodeDial {
    pub(super) fn new(docker: Arc<Api>, tool: ClusterTool, cluster: &str, node: &str) -> Self {
        Self { docker, tool, cluster: cluster.to_owned(), node: node.to_owned() }
    }

    /// The node as it is now.
    async fn inspect(&self) -> Result<Inspected, NodeDialError> {
        let response = self.docker.get(&format!("/containers/{}/json", self.node)).await?;
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
        if !node.state.running || node.state.status != "running" {
            return Err(NodeDialError::Stopped(node.state.status.escape_debug().to_string()));
        }
        Ok(node)
    }

    async fn connect(&self) -> Result<UnixStream, NodeDialError> {
        let node = self.inspect().await?;
        let socket = open(&node, Path::new(self.tool.socket()))?;
        // The socket that was found, whatever its path leads to by now (unix(7) looks the path up once more).
        let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
        let connecting = timeout(CONNECT, UnixStream::connect(path)).await;
        connecting.map_err(|_| NodeDialError::Socket(io::ErrorKind::TimedOut.into()))?.map_err(NodeDialError::Socket)
    }
}

/// Opens the socket at `path` of a node. What links in the node lead to is in the node.
fn open(node: &Inspected, path: &Path) -> Result<File, NodeDialError> {
    let process = Pid::from_raw(node.state.pid).ok_or(NodeDialError::Elsewhere)?.as_raw_nonzero();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(format!("/proc/{process}/root"), flags, Mode::empty());
    let root = root.map_err(|_| NodeDialError::Elsewhere)?;
    // Read after the folder was opened: if dockerd's host numbers processes otherwise, or that one has ended meanwhile, it is the
    // folder of another process.
    let groups = std::fs::read_to_string(format!("/proc/{process}/cgroup")).map_err(|_| NodeDialError::Elsewhere)?;
    if node.id.is_empty() || !groups.contains(&node.id) {
        return Err(NodeDialError::Elsewhere);
    }
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let socket = openat2(&root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve);
    socket.map(File::from).map_err(|error| NodeDialError::Socket(error.into()))
}

#[async_trait]
impl Dial for NodeDial {
    fn name(&self) -> String {
        format!("docker-container://{}{}", self.node, self.tool.socket())
    }

    async fn dial(&self) -> Result<Box<dyn Stream>, DialError> {
        Ok(Box::new(self.connect().await?))
    }

    async fn process(&self) -> Option<Pid> {
        Pid::from_raw(self.connect().await.ok()?.peer_cred().ok()?.pid()?)
    }
}
