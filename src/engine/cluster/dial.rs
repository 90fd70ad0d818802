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
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::address::ClusterTool;
use super::program::{OwnProgram, ProgramError};
use crate::docker_api::{Api, ApiError};
use crate::net::{Dial, DialError, Stream};
use crate::tunnel::{Container, ContainerCommand, ContainerError, ExecDial};

/// How long a connection may take to come up.
const CONNECT: Duration = Duration::from_secs(5);

/// The way to the containerd in a node. The node's process is looked up for each connection: a node that was restarted has
/// another one.
#[derive(Debug)]
pub(super) struct NodeDial {
    docker: Arc<Api>,
    tool: ClusterTool,
    cluster: String,
    /// Its name, for messages.
    node: String,
    /// The id of its container: another one of the same name is another node, and one that was renamed is the same.
    id: String,
    /// Taken while the program is copied into the node: connections are made several at a time.
    copying: Mutex<()>,
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
    fn is_beyond(&self) -> bool {
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
    pub(super) fn new(docker: Arc<Api>, tool: ClusterTool, cluster: &str, (node, id): (&str, &str)) -> Self {
        let (cluster, node, id) = (cluster.to_owned(), node.to_owned(), id.to_owned());
        Self { docker, tool, cluster, node, id, copying: Mutex::default() }
    }

    /// The node as it is now.
    async fn inspect(&self) -> Result<Inspected, NodeDialError> {
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
        if !node.state.running || node.state.status != "running" {
            return Err(NodeDialError::Stopped(node.state.status.escape_debug().to_string()));
        }
        Ok(node)
    }

    /// By the node's files, as root on the machine of dockerd.
    async fn connect(&self) -> Result<(Inspected, UnixStream), NodeDialError> {
        let node = self.inspect().await?;
        let socket = open(&node, Path::new(self.tool.socket()))?;
        // The socket that was found, whatever its path leads to by now (unix(7) looks the path up once more).
        let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
        let connecting = timeout(CONNECT, UnixStream::connect(path)).await;
        let stream = connecting.map_err(|_| NodeDialError::Socket(io::ErrorKind::TimedOut.into()))?;
        Ok((node, stream.map_err(NodeDialError::Socket)?))
    }
}

impl NodeDial {
    /// By a process in the node: this program, which is copied there first.
    async fn exec(&self) -> Result<Box<dyn Stream>, NodeDialError> {
        let program = OwnProgram::this()?;
        let container = format!("docker-container://{}", self.id).parse::<Container>();
        let container = container.map_err(|error| NodeDialError::Exec(error.to_owned()))?;
        let command = vec![program.path(), "dial-stdio".to_owned(), self.tool.socket().to_owned()];
        let command = ContainerCommand::new(command, "containerd");
        let exec = ExecDial::by(self.docker.clone(), container, command);
        let _copying = match exec.start().await {
            Err(error) if is_absent(&error) => self.copying.lock().await,
            outcome => return outcome.map_err(|error| told(error, self.tool.socket())),
        };
        // Whoever waited finds what another one has copied.
        if let Err(error) = exec.start().await {
            if !is_absent(&error) {
                return Err(told(error, self.tool.socket()));
            }
            program.copy(&self.docker, &self.id).await?;
        }
        exec.start().await.map_err(|error| match is_absent(&error) {
            // The program is there: its loader is not.
            true => NodeDialError::Foreign(error.to_string()),
            false => told(error, self.tool.socket()),
        })
    }
}

/// How this program's words begin, and where its advice does.
const ERROR: &str = "linkspan: error: ";
const HINT: &str = "; linkspan: hint: ";

/// How its error begins if it does not reach `socket`.
fn relaying(socket: &str) -> String {
    format!("cannot relay to unix://{socket}: ")
}

/// Whether the process did not start, because a file is not there: the program, or the loader that it names.
fn is_absent(error: &ContainerError) -> bool {
    let words = match error {
        ContainerError::Refused { reason, .. } => reason,
        ContainerError::NoService { words, .. } => words,
        _ => return false,
    };
    // runc has the words of Go, crun those of the C library.
    let words = words.to_lowercase();
    words.contains("exec failed") && words.contains("no such file or directory")
}

/// What an exec that leads nowhere to `socket` says.
fn told(error: ContainerError, socket: &str) -> NodeDialError {
    if let ContainerError::NoService { words, .. } = &error
        && let Some(said) = words.strip_prefix(ERROR)
    {
        // This program's own error: what it advises is for a daemon of its own, and the socket is that of the error around it.
        let said = said.split(HINT).next().unwrap_or_default();
        return NodeDialError::Exec(said.strip_prefix(&relaying(socket)).unwrap_or(said).to_owned());
    }
    let text = error.to_string();
    // The C library of the node is an older one, there is none, its loader is not there (which is the same error as if the program
    // were not), or the node has another processor (ld.so(8), execve(2)).
    let signs = ["GLIBC_", "error while loading shared libraries", "exec format error", "no such file or directory"];
    let is_foreign = signs.iter().any(|it| text.contains(it));
    if is_foreign { NodeDialError::Foreign(text) } else { NodeDialError::Exec(text) }
}

/// Opens the socket at `path` of a node. What links in the node lead to is in the node.
fn open(node: &Inspected, path: &Path) -> Result<File, NodeDialError> {
    let process = Pid::from_raw(node.state.pid).ok_or(NodeDialError::Elsewhere)?.as_raw_nonzero();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(format!("/proc/{process}/root"), flags, Mode::empty());
    let root = root.map_err(|_| NodeDialError::Elsewhere)?;
    // Read after the folder was opened: if dockerd's host numbers processes otherwise, or that one has ended meanwhile, it is the
    // folder of another process.
    if !is_of(node, process.get()) {
        return Err(NodeDialError::Elsewhere);
    }
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let socket = openat2(&root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve);
    socket.map(File::from).map_err(|error| NodeDialError::Socket(error.into()))
}

/// Whether a process of this machine is one of the node's, by its control group.
fn is_of(node: &Inspected, process: i32) -> bool {
    let groups = std::fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
    !node.id.is_empty() && groups.contains(&node.id)
}

#[async_trait]
impl Dial for NodeDial {
    fn name(&self) -> String {
        format!("docker-container://{}{}", self.node, self.tool.socket())
    }

    async fn dial(&self) -> Result<Box<dyn Stream>, DialError> {
        match self.connect().await {
            Err(error) if error.is_beyond() => {
                tracing::debug!(node = self.node, %error, "the node's containerd is reached by a process in the node");
                Ok(self.exec().await?)
            }
            outcome => Ok(Box::new(outcome?.1)),
        }
    }

    async fn process(&self) -> Option<Pid> {
        let (node, stream) = self.connect().await.ok()?;
        // The folder of its socket may be shared with other containers, or with the host.
        let process = stream.peer_cred().ok()?.pid()?;
        Pid::from_raw(process).filter(|_| is_of(&node, process))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOCKET: &str = ClusterTool::Kind.socket();

    fn ended(words: &str) -> ContainerError {
        let (name, command) = ("node".to_owned(), "/usr/local/bin/linkspan dial-stdio".to_owned());
        ContainerError::NoService { name, command, service: "containerd", words: words.to_owned() }
    }

    #[test]
    fn a_program_that_is_not_there_is_told_from_one_that_does_not_run() {
        // runc's words.
        let absent = "OCI runtime exec failed: exec failed: unable to start container process: exec: \
                      \"/usr/local/bin/linkspan\": stat /usr/local/bin/linkspan: no such file or directory: unknown";
        assert!(is_absent(&ended(absent)));
        // crun's.
        let absent = "OCI runtime exec failed: exec failed: crun: executable file `/usr/local/bin/linkspan` not found: \
                      No such file or directory: unknown";
        assert!(is_absent(&ended(absent)));
        for words in [
            "exec /usr/local/bin/linkspan: no such file or directory",
            "linkspan: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by linkspan)",
            "exec /usr/local/bin/linkspan: exec format error",
        ] {
            assert!(!is_absent(&ended(words)), "{words}");
            assert!(matches!(told(ended(words), SOCKET), NodeDialError::Foreign(_)), "{words}");
        }
        let refused = "linkspan: error: cannot relay to unix:///run/containerd/containerd.sock: No such file or directory (os \
                       error 2); linkspan: hint: see that `linkspan serve --export-listen unix:///run/containerd/containerd.sock` \
                       runs, and that you may use its socket";
        let NodeDialError::Exec(said) = told(ended(refused), SOCKET) else { panic!("{refused}") };
        assert_eq!(said, "No such file or directory (os error 2)");
    }
}
