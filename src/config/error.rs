//! Errors of the configuration.

use std::io;
use std::path::PathBuf;

use super::{Origin, Setting, UsualDoors};
use crate::buildx::ContextError;

/// Why a configuration is refused. Every message names the value to change and what is expected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A value is invalid.
    #[error("{origin}: `{text}` {reason}")]
    Value {
        /// Where it was given.
        origin: Origin,
        /// The value.
        text: String,
        /// The reason and what is expected; continues the sentence.
        reason: String,
    },
    /// The docker context that is meant cannot be used.
    #[error("{origin}: {source}")]
    Context {
        /// What names it.
        origin: &'static str,
        /// What is wrong with it.
        source: ContextError,
    },
    /// Settings contradict each other.
    #[error("{0}")]
    Contradiction(String),
    /// A variable is not UTF-8.
    #[error("{name}: the value is not UTF-8")]
    Encoding {
        /// The variable.
        name: String,
    },
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file is too long.
    #[error("the configuration file {path} is longer than {limit} bytes; is it the right file?", path = path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit: u64,
    },
    /// The file is not TOML, or has keys that do not exist.
    #[error("{path}: {reason}", path = path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The parser's error, with line, column, and the known keys.
        reason: String,
    },
    /// There is no folder for the default doors.
    #[error(
        "doors that are not named are in XDG_RUNTIME_DIR without root, which is not set (and systemd has made no folder in /run/user \
         for this user); set it, or name the doors, as in --{export} unix:///path/export.sock",
        export = Setting::ExportListen.name()
    )]
    NoRuntimeFolder,
    /// No door is configured, or a buildkit door has no builder.
    #[error(
        "no builder is configured: name one with --{flag} unix:///run/buildkit/buildkitd.sock, with {variable} or \
         BUILDKIT_HOST, or in a [[builder]] table of {file}; or open the docker door with --{docker} {listen}, or that of the exporter API \
         with --{export} {export_listen}, or a registry with --{registry} tcp://127.0.0.1:5000",
        flag = Setting::Builder.name(), variable = Setting::Builder.variable(), file = super::DEFAULT_FILE,
        docker = Setting::DockerListen.name(), listen = usual.docker,
        export = Setting::ExportListen.name(), export_listen = usual.export,
        registry = Setting::RegistryListen.name()
    )]
    NoBuilder {
        /// Where doors of this user usually are.
        usual: Box<UsualDoors>,
    },
}

impl ConfigError {
    /// What to do about it, where the message does not say it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Context { .. } => Some(format!(
                "`docker context ls` lists the contexts, and `docker context use NAME` chooses one; --{} ADDR goes without",
                Setting::DockerHost.name()
            )),
            _ => None,
        }
    }
}
