//! Connects to a socket of another host with the user's `ssh`, by a program there that relays its standard input and
//! output (`docker system dial-stdio`, `linkspan dial-stdio`).
//!
//! The command is that of docker/cli (`cli/connhelper`, `cli/connhelper/ssh`), so that whatever works there works here:
//! `~/.ssh/config`, agents, ProxyCommand, ControlMaster.

use std::fmt;
use std::str::FromStr;
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

/// The scheme of such addresses.
const SCHEME: &str = "ssh://";
/// The most processes of ssh at the same time.
const MAX_PROCESSES: usize = 32;
/// The most of them that establish a connection at the same time. Beyond ten that have not logged in yet, an sshd refuses some
/// (sshd_config(5), `MaxStartups`, whose default is `10:30:100`), and others use it, too.
const MAX_HANDSHAKES: usize = 4;
/// Becomes ssh, and has it ignore what the keyboard's Ctrl-C sends to all processes of a terminal: this process decides when its
/// connections end, after what is under way. A session or process group of its own would do the same, and take the terminal
/// away, where ssh asks for passphrases. ssh leaves an ignored signal ignored, and so do the programs that it starts.
const START: &str = "trap '' INT; exec ssh \"$@\"";
/// What ends a connection whose network is gone, after 45 s; without it ssh waits for as long as TCP does, which for a reader is
/// forever. These override the user's configuration, as all options of a command line do. Pings of HTTP/2 are no substitute: they
/// do nothing for HTTP/1, and a server of grpc-go, which dockerd is, closes connections with more than one in five minutes.
const ALIVE: [&str; 4] = ["-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=3"];
/// How long to wait for one of them to end.
const BUSY: Duration = Duration::from_secs(30);
/// The longest name of a user or host (RFC 1035).
const MAX_NAME: usize = 255;

/// `ssh://[user@]host[:port][/path/of/socket]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SshAddress {
    user: Option<String>,
    host: String,
    port: Option<u16>,
    socket: Option<String>,
}

/// Why a text is not an address over ssh.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid address `{text}`: {reason}")]
pub struct SshAddressError {
    /// The text as given.
    pub text: String,
    /// What is wrong with it and what was expected.
    pub reason: &'static str,
}

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

impl SshAddress {
    /// Whether `text` has this scheme.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with(SCHEME)
    }

    /// The socket on that host, an absolute path; `None` is the default of the program there.
    pub fn socket(&self) -> Option<&str> {
        self.socket.as_deref()
    }

    /// User, host and port, as they are between the scheme and the path.
    pub fn authority(&self) -> String {
        let whole = self.to_string();
        let path = self.socket.as_deref().unwrap_or_default();
        whole.trim_start_matches(SCHEME).trim_end_matches(path).to_owned()
    }

    /// The host and the user, as `ssh` takes them in messages: `ssh user@host`.
    pub fn destination(&self) -> String {
        match &self.user {
            Some(user) => format!("{user}@{}", self.host),
            None => self.host.clone(),
        }
    }

    /// What to do when ssh, or `program` there, ended with `reason`.
    pub fn hint(&self, program: &str, reason: &str) -> String {
        let to = self.destination();
        let port = self.port.map_or_else(String::new, |port| format!("-p {port} "));
        let said = |words: &[&str]| words.iter().any(|words| reason.contains(words));
        if said(&["Host key verification failed", "HOST IDENTIFICATION HAS CHANGED"]) {
            return format!(
                "the host's key is not known, or not the known one: connect once with `ssh {port}{to}`, and if the key was changed \
                 on purpose remove the old one with `ssh-keygen -R`"
            );
        }
        if said(&["text comes before the stream"]) {
            return format!(
                "`ssh {port}{to} true` must print nothing: see to it that the start-up files of the shell there (~/.bashrc, \
                 /etc/profile, ...) print only in interactive shells"
            );
        }
        // What the system says of a socket, in the words of Rust and of Go.
        if said(&["Permission denied (os error", "connect: permission denied"]) {
            let socket = self.socket().unwrap_or("its socket");
            return format!(
                "let that user use {socket} there: `ssh {port}{to} id` shows its groups, `ls -l` that of the socket"
            );
        }
        // With the methods in parentheses it is ssh's.
        if said(&["Permission denied (", "Permission denied, please try again"]) {
            return format!("see that `ssh {port}{to} true` works; without a terminal ssh cannot ask for a password");
        }
        if said(&["unrecognized subcommand", "is not a docker command"]) {
            return format!(
                "the {program} there is too old for this: `ssh {port}{to} {program} --version`; install a newer one"
            );
        }
        if said(&["command not found", "not found", "status 127"]) {
            return format!("install {program} there, so that `ssh {port}{to} {program} --version` works");
        }
        if said(&["status 255"]) {
            return format!("see that `ssh {port}{to} true` works");
        }
        let socket = self.socket().unwrap_or("its socket");
        format!("see that {program} runs on {}, and that you may use {socket} there", self.host)
    }

    /// The arguments of ssh that run `command` there. No part of the address can be an option of ssh, nor does a shell on
    /// either side interpret any.
    fn arguments(&self, command: &[&str]) -> Vec<String> {
        let mut arguments = Vec::new();
        if let Some(user) = &self.user {
            arguments.extend(["-l".to_owned(), user.clone()]);
        }
        if let Some(port) = self.port {
            arguments.extend(["-p".to_owned(), port.to_string()]);
        }
        arguments.extend(["-o", "ConnectTimeout=30"].map(str::to_owned));
        arguments.extend(ALIVE.map(str::to_owned));
        arguments.extend(["-T", "--"].map(str::to_owned));
        arguments.push(self.host.clone());
        arguments.push(command.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "));
        arguments
    }
}

/// A word of a POSIX shell.
fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/:=._-".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

impl FromStr for SshAddress {
    type Err = SshAddressError;

    fn from_str(text: &str) -> Result<Self, SshAddressError> {
        let error = |reason| SshAddressError { text: text.escape_debug().to_string(), reason };
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| error("expected `ssh://[user@]host[:port][/path]`"))?;
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        if user.is_some_and(|user| user.contains(':')) {
            return Err(error("a password in an address can be read by everybody; ssh asks for it, or use a key"));
        }
        if user.is_some_and(|user| !is_name(user, b"._-+@")) {
            return Err(error("expected a user of letters, digits and `._-+@`, which does not begin with `-`"));
        }
        let (host, port) = match host.strip_prefix('[').map(|host| host.split_once(']')) {
            Some(Some((host, ""))) if is_name(host, b"._-:%") => (host, None),
            Some(Some((host, port))) if is_name(host, b"._-:%") && port.starts_with(':') => (host, Some(&port[1..])),
            Some(_) => return Err(error("expected an IPv6 address in brackets, as in `ssh://[::1]:22`")),
            None => host.split_once(':').map_or((host, None), |(host, port)| (host, Some(port))),
        };
        // Between brackets it has been checked, with other characters.
        if !authority.contains('[') && !is_name(host, b"._-") {
            return Err(error("expected a host of letters, digits and `._-`, which does not begin with `-`"));
        }
        let port = match port.map(str::parse::<u16>) {
            None => None,
            Some(Ok(port)) if port > 0 => Some(port),
            Some(_) => return Err(error("the port must be a number from 1 to 65535")),
        };
        if path.contains(['?', '#', '%']) {
            return Err(error("expected the path of a socket behind the host, without `?`, `#` and `%`"));
        }
        if path.chars().any(char::is_control) || path.len() > 107 {
            return Err(error("a socket path has at most 107 bytes and no control characters"));
        }
        let socket = (!path.trim_matches('/').is_empty()).then(|| path.to_owned());
        Ok(Self { user: user.map(str::to_owned), host: host.to_owned(), port, socket })
    }
}

fn is_name(text: &str, others: &[u8]) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || others.contains(&byte);
    !text.is_empty() && text.len() <= MAX_NAME && !text.starts_with('-') && text.bytes().all(is_plain)
}

impl fmt::Display for SshAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SCHEME)?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(&self.host)?;
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(self.socket.as_deref().unwrap_or_default())
    }
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
        let arguments = address.arguments(command);
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

    fn arguments(text: &str, command: &[&str]) -> Vec<String> {
        text.parse::<SshAddress>().unwrap().arguments(command)
    }

    #[test]
    fn an_address_is_written_as_it_was_read() {
        for text in [
            "ssh://host",
            "ssh://user@host",
            "ssh://user@host.example:2222",
            "ssh://user@host:2222/run/linkspan/docker.sock",
            "ssh://host/run/a b.sock",
            "ssh://user@realm@host",
            "ssh://[::1]",
            "ssh://u@[fe80::1%eth0]:22/run/x",
        ] {
            assert_eq!(text.parse::<SshAddress>().unwrap().to_string(), text);
        }
        assert_eq!("ssh://host/".parse::<SshAddress>().unwrap().to_string(), "ssh://host");
    }

    #[test]
    fn nothing_in_an_address_becomes_an_option_or_a_command() {
        for text in [
            "ssh://",
            "ssh:///run/x",
            "ssh://-oProxyCommand=touch%20x",
            "ssh://-oProxyCommand=x@host",
            "ssh://user@-oProxyCommand=x",
            "ssh://-l@host",
            "ssh://$(touch x)@host",
            "ssh://user@$(touch x)",
            "ssh://`x`",
            "ssh://a b",
            "ssh://user name@host",
            "ssh://host;x",
            "ssh://host\n",
            "ssh://user:secret@host",
            "ssh://host:0",
            "ssh://host:-1",
            "ssh://host:22x",
            "ssh://host:",
            "ssh://[::1",
            "ssh://[-x]",
            "ssh://[]:22",
            "ssh://[::1]x:22",
            "ssh://host/x?y",
            "ssh://host/x#y",
            "ssh://host/x\ny",
            "tcp://host:1",
            "host",
        ] {
            text.parse::<SshAddress>().unwrap_err();
        }
        assert_eq!(
            arguments("ssh://u@h:2222/run/$(x) 'y'", &["docker", "--host=unix:///run/$(x) 'y'", "system"]),
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
                "ServerAliveCountMax=3",
                "-T",
                "--",
                "h",
                r"docker '--host=unix:///run/$(x) '\''y'\''' system"
            ]
        );
        let arguments = arguments("ssh://h", &["linkspan", "dial-stdio", "/run/x.sock"]);
        assert_eq!(arguments[6..], ["-T", "--", "h", "linkspan dial-stdio /run/x.sock"]);
    }

    #[test]
    fn a_password_is_refused_and_not_repeated_as_an_argument() {
        let error = "ssh://user:secret@host".parse::<SshAddress>().unwrap_err();
        assert!(error.reason.contains("password"), "{error}");
    }
}
