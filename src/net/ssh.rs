//! Connects to a socket of another host with the user's `ssh`, by a program there that relays its standard input and
//! output (`docker system dial-stdio`, `linkspan dial-stdio`).
//!
//! The command is that of docker/cli (`cli/connhelper`, `cli/connhelper/ssh`), so that whatever works there works here:
//! `~/.ssh/config`, agents, ProxyCommand, ControlMaster.

mod address;
mod hint;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::Pid;
use tokio::process::Command;
use tokio::sync::{AcquireError, Semaphore};
use tokio::time::timeout;

use super::command::{CommandStream, Permits};
use super::dial::{Dial, DialError};
use super::stream_failure::{CommandError, StreamFailure};
use super::upstream::Stream;
pub use address::{SshAddress, SshAddressError};

/// The most processes of ssh at the same time.
const MAX_PROCESSES: usize = 32;
/// The most of them that establish a connection at the same time. Beyond ten that have not logged in yet, an sshd refuses some
/// (sshd_config(5), `MaxStartups`, whose default is `10:30:100`), and others use it, too.
const MAX_HANDSHAKES: usize = 4;
/// Becomes ssh, and has it ignore what the keyboard's Ctrl-C sends to all processes of a terminal: this process decides when its
/// connections end, after what is under way. A session or process group of its own would do the same, and take the terminal
/// away, where ssh asks for passphrases. ssh leaves an ignored signal ignored, and so do the programs that it starts.
const START: &str = "trap '' INT; exec ssh \"$@\"";
/// What ends a connection whose network is gone, after 45 s: a response is asked for when nothing came for 15 s, two more times,
/// and ssh ends when 15 s later there is none (OpenSSH `clientloop.c`, `server_alive_check`). Without it ssh waits for as long as TCP
/// does, which for a reader is forever. These override the user's configuration, as all options of a command line do. Pings of
/// HTTP/2 are no substitute: they do nothing for HTTP/1, and a server of grpc-go, which dockerd is, closes connections with more than
/// one in five minutes.
const ALIVE: [&str; 4] = ["-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=2"];
/// A `LocalCommand` writes to the output that is the stream: scp and sftp forbid it, too (OpenSSH `scp.c`).
const NO_LOCAL: [&str; 2] = ["-o", "PermitLocalCommand=no"];
/// How long to wait for one of them to end.
const BUSY: Duration = Duration::from_secs(30);

/// Why a host cannot be reached by ssh.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SshError {
    /// The program ssh cannot be started.
    #[error("{address}: {source}")]
    Start {
        /// The address.
        address: SshAddress,
        /// The system's error.
        source: CommandError,
    },
    /// There are too many connections to it.
    #[error("{address}: {MAX_PROCESSES} connections over ssh are open, and none ended within {} s", BUSY.as_secs())]
    Busy {
        /// The address.
        address: SshAddress,
    },
}

/// The arguments of ssh that run `command` at `address`. No shell on either side interprets any part of either.
fn arguments(address: &SshAddress, command: &[&str]) -> Vec<String> {
    let mut arguments = Vec::new();
    if let Some(user) = &address.user {
        arguments.extend(["-l".to_owned(), user.clone()]);
    }
    if let Some(port) = address.port {
        arguments.extend(["-p".to_owned(), port.to_string()]);
    }
    arguments.extend(["-o", "ConnectTimeout=30"].map(str::to_owned));
    arguments.extend(ALIVE.iter().chain(&NO_LOCAL).map(|&argument| argument.to_owned()));
    arguments.extend(["-T", "--"].map(str::to_owned));
    arguments.push(address.host.clone());
    arguments.push(command.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "));
    arguments
}

/// A word of a POSIX shell.
fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/:=._-".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Runs a program on another host for each stream. The program ends with its stream.
#[derive(Debug)]
pub struct SshDial {
    address: SshAddress,
    arguments: Vec<String>,
    processes: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
}

impl SshDial {
    /// Runs `command`, whose words are quoted for the shell there, on the host of `address`.
    pub fn new(address: SshAddress, command: &[&str]) -> Self {
        let arguments = arguments(&address, command);
        let limit = |count| Arc::new(Semaphore::new(count));
        Self { address, arguments, processes: limit(MAX_PROCESSES), handshakes: limit(MAX_HANDSHAKES) }
    }

    /// The docker engine of that host, as docker's client reaches it.
    pub fn docker(address: SshAddress) -> Self {
        match address.socket().map(|socket| format!("--host=unix://{socket}")) {
            Some(host) => Self::new(address, &["docker", &host, "system", "dial-stdio"]),
            None => Self::new(address, &["docker", "system", "dial-stdio"]),
        }
    }

    /// Starts ssh. That it could not connect shows at the stream, which then fails with ssh's reason.
    ///
    /// # Errors
    /// When the program cannot be started, or there are too many connections.
    pub async fn connect(&self) -> Result<CommandStream, SshError> {
        let failed = |source| SshError::Start { address: self.address.clone(), source };
        let busy = || SshError::Busy { address: self.address.clone() };
        let permits = async {
            let open = self.processes.clone().acquire_owned().await?;
            Ok::<_, AcquireError>(Permits { open, establishing: self.handshakes.clone().acquire_owned().await? })
        };
        let permits = timeout(BUSY, permits).await.map_err(|_| busy())?.map_err(|_| busy())?;
        // The shell would say it in words of its own.
        if !is_installed() {
            let (program, ended) = ("`ssh`".to_owned(), "cannot be run: it is in no folder of PATH".to_owned());
            return Err(failed(CommandError { program, ended, words: String::new() }));
        }
        let mut command = Command::new("sh");
        command.args(["-c", START, "sh"]).args(&self.arguments);
        CommandStream::start("ssh", command, permits).map_err(failed)
    }
}

/// Whether there is a program `ssh`, where a shell looks for it.
fn is_installed() -> bool {
    let Some(path) = std::env::var_os("PATH") else { return true };
    std::env::split_paths(&path).any(|folder| folder.join("ssh").is_file())
}

#[async_trait]
impl Dial for SshDial {
    fn name(&self) -> String {
        self.address.to_string()
    }

    async fn dial(&self) -> Result<Box<dyn Stream>, DialError> {
        Ok(Box::new(self.connect().await?))
    }

    async fn dial_with_failure(&self) -> Result<(Box<dyn Stream>, StreamFailure), DialError> {
        let stream = self.connect().await?;
        let failure = stream.failure();
        Ok((Box::new(stream), failure))
    }

    async fn process(&self) -> Option<Pid> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_shell_interprets_a_part_of_an_address() {
        let arguments_of = |text: &str, command: &[&str]| arguments(&text.parse().unwrap(), command);
        assert_eq!(
            arguments_of("ssh://u@h:2222/run/$(x) 'y'", &["docker", "--host=unix:///run/$(x) 'y'", "system"]),
            [
                "-l",
                "u",
                "-p",
                "2222",
                "-o",
                "ConnectTimeout=30",
                "-o",
                "ServerAliveInterval=15",
                "-o",
                "ServerAliveCountMax=2",
                "-o",
                "PermitLocalCommand=no",
                "-T",
                "--",
                "h",
                r"docker '--host=unix:///run/$(x) '\''y'\''' system"
            ]
        );
        let arguments = arguments_of("ssh://h", &["linkspan", "dial-stdio", "/run/x.sock"]);
        assert_eq!(arguments[8..], ["-T", "--", "h", "linkspan dial-stdio /run/x.sock"]);
    }
}
