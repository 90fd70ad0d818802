//! Why the daemon did not start, or did not shut down cleanly.

use std::io;

use super::listen::ListenError;
use crate::config::ConfigError;
use crate::engine::{EngineError, Identity};
use crate::net::{Address, ServerTlsError, SshAddress, UpstreamError};
use crate::passwords::PasswordFileError;

/// Why the daemon did not start, or did not shut down cleanly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DaemonError {
    /// The configuration is not valid for a daemon.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is no engine to export to.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A builder's TLS settings are wrong.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The listeners' TLS settings are wrong.
    #[error(transparent)]
    Tls(#[from] ServerTlsError),
    /// The password file is wrong.
    #[error(transparent)]
    Passwords(#[from] PasswordFileError),
    /// A docker door is configured, but the engine is not Docker.
    #[error(
        "there is no docker behind the docker door at {listen}: the engine is {engine}; start dockerd, or name its socket \
         with --docker-host, or leave --docker-listen out"
    )]
    NoDocker {
        /// The door.
        listen: Address,
        /// The engine.
        engine: Box<Identity>,
    },
    /// A docker door is configured, and its docker is reached over ssh.
    #[error(
        "the docker door at {listen} cannot lead to docker at {docker}: it relays to sockets and TCP, not over ssh"
    )]
    DockerOverSsh {
        /// The door.
        listen: Address,
        /// The address of docker.
        docker: String,
    },
    /// A door cannot be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The door whose address a setting names cannot be opened.
    #[error("{error}")]
    Door {
        /// The flag that names the address.
        flag: &'static str,
        /// Why.
        #[source]
        error: ListenError,
    },
    /// Signals cannot be received.
    #[error("cannot receive signals: {0}")]
    Signals(io::Error),
    /// Connections were dropped before the drain was complete.
    #[error("{connections} of the open connections did not finish {reason} and were ended")]
    Cut {
        /// How many.
        connections: usize,
        /// What ended them.
        reason: String,
    },
}

impl DaemonError {
    /// What the user can do about it, if there is a hint.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Config(error) => error.hint(),
            Self::Engine(error) => error.hint(),
            Self::Listen(error) => error.hint(None),
            Self::Door { flag, error } => error.hint(Some(flag)),
            Self::Tls(error) => error.hint(),
            Self::DockerOverSsh { docker, .. } => Some(match docker.parse::<SshAddress>() {
                Ok(host) => format!(
                    "run `linkspan serve` there, and name its door here: `docker context create far --docker \
                     host=ssh://{}/run/linkspan/docker.sock`; or leave --docker-listen out",
                    host.authority()
                ),
                Err(_) => "leave --docker-listen out".to_owned(),
            }),
            _ => None,
        }
    }
}
