//! Connects to a service in a container by a process there that relays its standard input and output: to a builder as
//! buildx's docker-container driver does it, `docker exec buildctl dial-stdio`.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use hyper_util::rt::TokioIo;
use rustix::process::Pid;
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use super::output::{MAX_ERRORS_WAITING, Output};
use super::sniff::{self, Protocol};
use crate::docker_api::{Api, ApiError, ApiResponse};
use crate::http1::PrefixedIo;
use crate::net::{Dial, DialError, Stream};

/// The scheme of such addresses, as in buildctl's `--addr`.
const SCHEME: &str = "docker-container://";

/// The prefix of the container names of buildx's docker-container driver, and the suffix of the first node's (buildx
/// `driver/manager.go`, `BuilderName`, and `store/nodegroup.go`).
const BUILDX: (&str, &str) = ("buildx_buildkit_", "0");

/// The time limit for the first bytes of the process. runc needs a tenth of a second, on a loaded machine much more.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The most bytes of a process's output that an error quotes.
const MAX_WORDS: usize = 4 << 10;

/// A container, by its name or id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Container(String);

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.0)
    }
}

impl FromStr for Container {
    type Err = &'static str;

    /// Parses `docker-container://NAME`.
    ///
    /// # Errors
    /// The error says what was expected.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.strip_prefix(SCHEME).ok_or("expected `docker-container://NAME`")?;
        // moby `daemon/names/names.go`: `RestrictedNameChars`, which ids are made of, too.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if first && name.len() <= 255 && name.bytes().all(plain) {
            return Ok(Self(name.to_owned()));
        }
        Err("expected a container's name or id, as in `docker-container://buildx_buildkit_NAME0` (see `docker ps`)")
    }
}

impl Container {
    /// Whether `text` has this scheme.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with(SCHEME)
    }
}

/// What is run in a container, and what it leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerCommand {
    words: Vec<String>,
    /// A noun for messages.
    leads_to: &'static str,
}

impl ContainerCommand {
    /// The command of `words`, which leads to a `leads_to`.
    pub fn new(words: Vec<String>, leads_to: &'static str) -> Self {
        Self { words, leads_to }
    }

    /// Leads to the builder in its container.
    fn buildctl() -> Self {
        Self::new(["buildctl", "dial-stdio"].map(str::to_owned).into(), "builder")
    }
}

impl fmt::Display for ContainerCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words.join(" "))
    }
}

/// Why a service in a container cannot be reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContainerError {
    /// dockerd cannot be reached.
    #[error("{0}")]
    Docker(String),
    /// The container does not exist.
    #[error("docker has no container `{name}`{hint}")]
    Missing {
        /// The configured name.
        name: String,
        /// `; did you mean …?`, if there is a likely one.
        hint: String,
    },
    /// The container cannot run a process.
    #[error("container `{name}` cannot run `{command}`: {reason}")]
    Refused {
        /// The configured name.
        name: String,
        /// What it was to run.
        command: String,
        /// dockerd's message.
        reason: String,
    },
    /// The process ran, but does not speak HTTP/2.
    #[error("`{command}` in container `{name}` leads to no {service}: {words}")]
    NoService {
        /// The configured name.
        name: String,
        /// What was run.
        command: String,
        /// What it should lead to.
        service: &'static str,
        /// Its output.
        words: String,
    },
}

impl From<ApiError> for ContainerError {
    fn from(error: ApiError) -> Self {
        Self::Docker(error.to_string())
    }
}

/// Starts a process in a container for each stream. It ends with its stream.
#[derive(Debug)]
pub struct ExecDial {
    docker: Arc<Api>,
    container: Container,
    command: ContainerCommand,
}

impl ExecDial {
    /// Connects to the builder in `container` of the dockerd at `socket`.
    pub fn new(socket: &Path, container: Container) -> Self {
        Self::by(Arc::new(Api::new(socket)), container, ContainerCommand::buildctl())
    }

    /// Connects to what `command` leads to in `container` of the dockerd behind `docker`.
    pub(crate) fn by(docker: Arc<Api>, container: Container, command: ContainerCommand) -> Self {
        Self { docker, container, command }
    }

    /// Starts the process and returns its stream, once that speaks HTTP/2.
    pub(crate) async fn start(&self) -> Result<Box<dyn Stream>, ContainerError> {
        let stream = TokioIo::new(self.exec().await?);
        let (errors, mut stderr) = mpsc::channel(MAX_ERRORS_WAITING);
        let mut output = Output::new(stream, Some(errors));
        let late = |_| Err(self.no_service(&[], &format!("no HTTP/2 within {} s", TIMEOUT.as_secs())));
        match tokio::time::timeout(TIMEOUT, first_words(&mut output)).await.unwrap_or_else(late)? {
            (first, Protocol::Http2) => Ok(Box::new(PrefixedIo::new(first, output))),
            // Anything other than HTTP/2 is an error message, such as runc's that the program does not exist.
            (first, _) => {
                let mut words = first.to_vec();
                // Does not wait: if the process has ended, the rest of its output is available at once.
                while let Ok(bytes) = stderr.try_recv() {
                    words.extend_from_slice(&bytes);
                }
                Err(self.no_service(&words, "it ended without output"))
            }
        }
    }

    fn no_service(&self, words: &[u8], else_: &str) -> ContainerError {
        let words = String::from_utf8_lossy(&words[..words.len().min(MAX_WORDS)]).into_owned();
        // One line, as those of ssh.
        let words = words.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
        let words = if words.is_empty() { else_.to_owned() } else { words };
        let (name, command, service) = (self.container.0.clone(), self.command.to_string(), self.command.leads_to);
        ContainerError::NoService { name, command, service, words }
    }

    async fn exec(&self) -> Result<hyper::upgrade::Upgraded, ContainerError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Created {
            id: String,
        }
        const START: &str = r#"{"Detach":false,"Tty":false}"#;
        let name = &self.container.0;
        let create = serde_json::json!({
            "AttachStdin": true, "AttachStdout": true, "AttachStderr": true, "Cmd": self.command.words,
        });
        let (path, body) = (format!("/containers/{name}/exec"), Bytes::from(create.to_string()));
        let created = self.docker.send(&path, "application/json", body, TIMEOUT).await?;
        let id = match (created.status, serde_json::from_slice::<Created>(&created.body)) {
            (StatusCode::CREATED, Ok(Created { id })) if id.bytes().all(|byte| byte.is_ascii_hexdigit()) => id,
            (StatusCode::NOT_FOUND, _) => {
                return Err(ContainerError::Missing { name: name.clone(), hint: self.likely().await });
            }
            _ => return Err(self.refused(&created)),
        };
        let started = self.docker.upgrade(&format!("/exec/{id}/start"), "tcp", START.into()).await?;
        started.map_err(|response| self.refused(&response))
    }

    fn refused(&self, response: &ApiResponse) -> ContainerError {
        let (name, command) = (self.container.0.clone(), self.command.to_string());
        ContainerError::Refused { name, command, reason: response.message() }
    }

    /// A hint if the name is that of a buildx builder instead of its container.
    async fn likely(&self) -> String {
        let likely = format!("{}{}{}", BUILDX.0, self.container.0, BUILDX.1);
        match self.docker.get(&format!("/containers/{likely}/json")).await {
            Ok(response) if response.status == StatusCode::OK => format!("; did you mean `{SCHEME}{likely}`?"),
            _ => String::new(),
        }
    }
}

#[async_trait]
impl Dial for ExecDial {
    fn name(&self) -> String {
        self.container.to_string()
    }

    async fn dial(&self) -> Result<Box<dyn Stream>, DialError> {
        Ok(self.start().await?)
    }

    async fn process(&self) -> Option<Pid> {
        self.docker.process_of(&self.container.0).await
    }
}

/// Reads until the protocol is known. If it is not HTTP/2, reads the message to its end, or up to [`MAX_WORDS`] bytes.
async fn first_words<S: Stream>(output: &mut Output<S>) -> Result<(Bytes, Protocol), ContainerError> {
    let mut words = BytesMut::new();
    loop {
        let protocol = sniff::server(&words);
        if protocol == Protocol::Http2 || words.len() > MAX_WORDS {
            return Ok((words.freeze(), protocol));
        }
        match output.read_buf(&mut words).await {
            Ok(1..) => {}
            Ok(0) => return Ok((words.freeze(), Protocol::Other)),
            Err(error) => return Ok((error.to_string().into(), Protocol::Other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_named_as_docker_names_them() {
        for text in
            ["docker-container://buildx_buildkit_c0", "docker-container://0123456789ab", "docker-container://a.b-c"]
        {
            assert_eq!(text.parse::<Container>().unwrap().to_string(), text);
        }
        for text in
            ["docker-container://", "docker-container://a/b", "docker-container://-a", "docker-container://a?b=c"]
        {
            assert!(text.parse::<Container>().unwrap_err().contains("docker ps"), "{text}");
        }
    }
}
