//! Connects to the containerd in a node.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::process::Pid;
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::container::{Inspected, NodeContainer, NodeDialError};
use super::program::OwnProgram;
use crate::engine::EngineError;
use crate::net::{Attended, Dial, DialError, Stream, connect_unix};
use crate::tunnel::{Container, ContainerCommand, ContainerError, ExecDial};

/// How long a connection may take to come up.
const CONNECT: Duration = Duration::from_secs(5);

/// The way to the containerd in a node. The node's process is looked up for each connection: a node that was restarted has
/// another one.
#[derive(Debug)]
pub(super) struct NodeDial {
    container: NodeContainer,
    /// Its name, for messages.
    node: String,
    /// Taken while the program is copied into the node: connections are made several at a time.
    copying: Arc<Mutex<()>>,
}

impl NodeDial {
    pub(super) fn new(container: NodeContainer, node: &str) -> Self {
        Self { container, node: node.to_owned(), copying: Arc::default() }
    }

    /// Sees to it that calls find a way, however long the copy of the program takes, which has a limit of its own: a call has less
    /// time. What else is wrong the first call says.
    pub(super) async fn prepare(&self) -> Result<(), EngineError> {
        match self.connect().await {
            Err(error) if error.is_beyond() => {}
            _ => return Ok(()),
        }
        let (engine, address) = ("containerd", self.name());
        self.exec().await.map(drop).map_err(|error| EngineError::Unreachable {
            engine,
            address,
            reason: error.to_string(),
        })
    }

    /// By the node's files, as root on the machine of dockerd.
    async fn connect(&self) -> Result<(Inspected, UnixStream), NodeDialError> {
        let node = self.container.inspect().await?;
        let socket = open(&node, Path::new(self.container.tool.socket()))?;
        // The socket that was found, whatever its path leads to by now (unix(7) looks the path up once more).
        let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
        let connecting = timeout(CONNECT, connect_unix(path)).await;
        let stream = connecting.map_err(|_| NodeDialError::Socket(io::ErrorKind::TimedOut.into()))?;
        Ok((node, stream.map_err(NodeDialError::Socket)?))
    }

    /// By a process in the node: this program, which is copied there first.
    async fn exec(&self) -> Result<Box<dyn Stream>, NodeDialError> {
        let socket = self.container.tool.socket();
        match self.relay()?.start().await {
            Err(error) if is_absent(&error) => self.copy().await?,
            outcome => return outcome.map_err(|error| told(error, socket)),
        }
        self.relay()?.start().await.map_err(|error| match is_absent(&error) {
            // The program is there: its loader is not.
            true => NodeDialError::Foreign(error.to_string()),
            false => told(error, socket),
        })
    }

    fn relay(&self) -> Result<ExecDial, NodeDialError> {
        let container = format!("docker-container://{}", self.container.id).parse::<Container>();
        let container = container.map_err(|error| NodeDialError::Exec(error.to_owned()))?;
        let socket = self.container.tool.socket().to_owned();
        let command = vec![OwnProgram::this()?.path(), "dial-stdio".to_owned(), socket];
        let command = ContainerCommand::new(command, "containerd");
        Ok(ExecDial::by(self.container.docker.clone(), container, command))
    }

    /// Copies the program, in a task of its own: a call that needs it may have less time, and the next one finds it.
    async fn copy(&self) -> Result<(), NodeDialError> {
        let (relay, program, copying) = (self.relay()?, OwnProgram::this()?, self.copying.clone());
        let NodeContainer { docker, id, .. } = self.container.clone();
        let copying = tokio::spawn(async move {
            let _copying = copying.lock().await;
            // Whoever waited finds what another one has copied.
            match relay.start().await {
                Err(error) if is_absent(&error) => program.copy(&docker, &id).await.map_err(NodeDialError::from),
                _ => Ok(()),
            }
        });
        copying.await.unwrap_or_else(|error| Err(NodeDialError::Exec(error.to_string())))
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
        format!("docker-container://{}{}", self.node, self.container.tool.socket())
    }

    async fn dial(&self) -> Result<Box<dyn Stream>, DialError> {
        let stream: Box<dyn Stream> = match self.connect().await {
            Err(error) if error.is_beyond() => {
                tracing::debug!(node = self.node, %error, "the node's containerd is reached by a process in the node");
                self.exec().await?
            }
            outcome => Box::new(outcome?.1),
        };
        let container = self.container.clone();
        let look_up = move || -> BoxFuture<'static, Option<String>> { Box::pin(container.clone().why_silent()) };
        Ok(Box::new(Attended::new(stream, Box::new(look_up))))
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
    use super::super::address::ClusterTool;
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
