//! Why commands fail, and their exit codes.

mod hint;

use super::cache::CacheFolderError;
use super::save::SaveError;
use crate::caches::CacheError;
use crate::config::ConfigError;
use crate::daemon::{DaemonError, Signals};
use crate::engine::EngineError;
use crate::export::ExportError;
use crate::image::{Digest, ReferenceError};
use crate::net::Barrier;
use crate::source::archive::ArchiveError;
use crate::source::tree::TreeError;
use crate::source::{ChoiceError, ReadGraphError};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("logging cannot start: {0}")]
    Telemetry(#[from] tracing_subscriber::util::TryInitError),
    #[error("the asynchronous runtime cannot start: {0}")]
    Runtime(std::io::Error),
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    #[error(transparent)]
    Setup(#[from] crate::setup::SetupError),
    #[error(transparent)]
    PluginSetup(#[from] crate::setup::PluginError),
    #[error(transparent)]
    Globals(#[from] super::plugin::GlobalsError),
    #[error("the path of this program is unknown: {0}")]
    Itself(std::io::Error),
    #[error("this program cannot be started again: {0}")]
    Again(std::io::Error),
    #[error("cannot write to standard output: {0}")]
    Output(std::io::Error),
    #[error("cannot write the manual pages into {folder}: {error}")]
    Pages { folder: String, error: std::io::Error },
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Export(#[from] ExportError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Choice(#[from] ChoiceError),
    #[error(transparent)]
    Read(#[from] ReadGraphError),
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error(transparent)]
    Save(#[from] SaveError),
    #[error(transparent)]
    Registry(#[from] crate::registry::RegistryError),
    #[error(transparent)]
    Publish(#[from] crate::publish::PublishError),
    #[error(transparent)]
    Name(#[from] ReferenceError),
    #[error("there is something to mend, nobody can be asked, and nothing was changed: standard input is no terminal")]
    NobodyToAsk,
    #[error("no archive was given, and standard input is a terminal")]
    NoInput,
    #[error("cannot read standard input: {0}")]
    Input(std::io::Error),
    #[error("-t names one image, but {images} are to be loaded")]
    TagOfMany { images: usize },
    #[error("{what} has {images} images, and none was named")]
    NotNamed { what: String, images: usize, example: String },
    #[error("`{path}` is {what}, and no image's name")]
    IsFile { path: String, what: &'static str, meant: String, image: Option<String> },
    #[error("{error}")]
    NoFile { error: Box<ArchiveError>, command: String },
    #[error("the archive holds {count} images, and none was named{}", holding(names))]
    ManyInArchive { count: usize, names: Vec<String> },
    #[error("the archive has no image `{given}`{}", holding(names))]
    NotInArchive { given: String, names: Vec<String> },
    #[error("this location is no engine")]
    IntoArchive,
    #[error("{engine} has no image `{given}`")]
    NoImage { given: String, engine: String },
    /// Images of docker were not loaded into the cluster `to`; `flags` name that docker.
    #[error("{error}")]
    FromDocker { error: Box<CommandError>, names: Vec<String>, to: String, flags: String },
    #[error("one archive is loaded at a time, and several are named")]
    OneArchive { address: Option<String> },
    #[error("there is no `linkspan {0}`")]
    NotOurs(String),
    #[error("`{given}` is called {names}")]
    ManyNames { given: String, names: String },
    #[error("`{name}` was not removed: it now points to {current}")]
    Moved { name: String, current: Digest },
    #[error("`{name}` has a digest, and images are named by tags")]
    DigestAsName { name: String },
    #[error("`{given}` is no image, but a part of one (`{media_type}`)")]
    NoImageRoot { given: String, media_type: String },
    #[error("the digests of several images begin with `{given}`")]
    Ambiguous { given: String },
    #[error("`{given}`: {reason}")]
    NoDocument { given: String, reason: String },
    #[error(transparent)]
    Address(#[from] crate::engine::remote::DaemonAddressError),
    #[error("cannot relay to {address}: {source}")]
    Dial { address: String, source: std::io::Error },
    #[error(
        "cannot relay to {address}: it is on another machine; expected `unix:///path`, a path, or `tcp://` on this one"
    )]
    DialElsewhere { address: String },
    #[error(
        "--docker-host names the docker of a cluster's nodes (`--to kind://CLUSTER`), and --to is {to}; leave one out"
    )]
    DockerBeside { to: String },
    #[error("nobody listens at {address}, Linkspan's own docker door, to which {origin} leads")]
    DoorClosed { origin: String, address: String },
    #[error(transparent)]
    Elsewhere(EngineError),
    #[error("there is no layout at {path}")]
    NoLayout { path: String },
    #[error("there is no layout at {path}")]
    NoFolder { path: String },
    #[error("{archive}: the image {image} is damaged: {error}")]
    Damaged { archive: String, image: String, error: Box<EngineError> },
    #[error("{address} is Linkspan's {kind} door, and not that of the exporter API")]
    WrongDoor { address: String, kind: &'static str, export: Option<String> },
    #[error("{} listens at {address}, and not Linkspan's exporter API", program.unwrap_or("another program"))]
    NoDoor { address: String, program: Option<&'static str>, export: Option<String> },
    #[error("the server at {address} has TLS, and no authority was named for its certificate")]
    HasTls { address: String },
    #[error("no Linkspan was found here, and without root its sockets are in XDG_RUNTIME_DIR, which is not set")]
    NoDaemon,
    #[error("no permission to use {address}{barrier}")]
    Denied { address: String, barrier: Barrier },
    #[error("interrupted; {left}")]
    Interrupted { signal: &'static str, left: Leftover },
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error(transparent)]
    CacheFolder(#[from] CacheFolderError),
    #[error("cannot write the report: {0}")]
    Report(#[from] serde_json::Error),
}

/// What an interrupted command leaves behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Leftover {
    Nothing,
    /// The blobs that an export has sent.
    Kept,
    /// What dockerd had of an archive that broke off.
    Received,
    /// That, and what it was doing, which was not waited for.
    Unfinished,
    /// A lease of an export that has not ended, or of one that was complete.
    Lease {
        is_complete: bool,
    },
    /// A part of an archive on standard output.
    HalfAnArchive,
    /// What the text says.
    Some(String),
}

impl std::fmt::Display for Leftover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing was left behind",
            Self::Kept => "what was sent is kept for the next try",
            Self::Received => "docker may keep what it has received for up to a day, without a name",
            Self::Unfinished => {
                "docker was not waited for: names may have moved to complete images, or may still do so, and what it has received stays for up to a day"
            }
            Self::Lease { is_complete: false } => "what was sent stays until the next command or the lease's end",
            Self::Lease { is_complete: true } => {
                "everything was copied, and a lease of it stays until the next command or its end"
            }
            Self::HalfAnArchive => "the archive on standard output is not complete",
            Self::Some(text) => text,
        })
    }
}

impl CommandError {
    /// The exit code for this error.
    pub(super) fn code(&self) -> u8 {
        let is_wrong_value = match self {
            Self::Interrupted { signal, .. } => return Signals::code(signal),
            // A missing setting is no wrong value.
            Self::Config(ConfigError::NoBuilder { .. } | ConfigError::Context { .. })
            | Self::Daemon(DaemonError::Config(ConfigError::NoBuilder { .. } | ConfigError::Context { .. })) => false,
            Self::Config(_)
            | Self::Globals(_)
            | Self::Name(_)
            | Self::Address(_)
            | Self::Cache(CacheError::Name { .. })
            | Self::Elsewhere(_)
            | Self::DialElsewhere { .. }
            | Self::DockerBeside { .. }
            | Self::IsFile { .. }
            | Self::OneArchive { .. }
            | Self::NotOurs(_)
            | Self::IntoArchive
            | Self::NobodyToAsk
            | Self::DigestAsName { .. } => true,
            Self::Daemon(DaemonError::Config(_) | DaemonError::Engine(EngineError::Address { .. })) => true,
            Self::Engine(EngineError::Address { .. }) => true,
            Self::FromDocker { error, .. } => return error.code(),
            Self::Save(error) => matches!(error, SaveError::Mixed),
            Self::CacheFolder(error) => error.is_wrong_value(),
            _ => false,
        };
        if is_wrong_value { 2 } else { 1 }
    }
}

/// The names of an archive's images, for a message.
fn holding(names: &[String]) -> String {
    const SHOWN: usize = 20;
    let shown = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => String::new(),
        count if count > SHOWN => format!(": it has {shown} and {} more", count - SHOWN),
        _ => format!(": it has {shown}"),
    }
}
