//! The command line: parse, run, exit code.
//!
//! Exit codes: 0 for success; 1 for a failure; 2 for a wrong command line (as clap does) or a wrong value of a flag, a variable
//! or the configuration file; 130 and 143 when SIGINT or SIGTERM ended it (as shells report).

mod abandoned;
mod about;
mod cache;
mod client_tls;
mod copy;
mod daemon;
mod doctor;
mod engine;
mod extent;
mod help;
mod images;
mod inspect;
mod interrupt;
mod load;
mod output;
mod progress;
mod ps;
mod read;
mod read_leases;
mod remove;
mod repeat;
mod report;
mod save;
mod serve;
mod settings;
mod setup;
mod show;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use self::interrupt::{exporting, interruptible};
use crate::caches::CacheError;
use crate::config::{ConfigError, DEFAULT_EXPORT_LISTEN};
use crate::daemon::{DaemonError, Signals};
use crate::engine::EngineError;
use crate::export::ExportError;
use crate::image::{Digest, ReferenceError};
use crate::source::archive::ArchiveError;
use crate::source::tree::TreeError;
use crate::source::{ChoiceError, ReadGraphError, SourceError};

/// Puts builds and archives into this host's container engine, sending only the blobs that it lacks.
#[derive(Debug, Parser)]
#[command(name = "linkspan", version, max_term_width = 100, after_long_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Doctor(doctor::Doctor),
    Setup(setup::Setup),
    Load(load::Load),
    Save(save::Save),
    #[command(visible_alias = "ls")]
    Images(images::List),
    Inspect(inspect::Inspect),
    #[command(name = "rm", visible_alias = "rmi")]
    Remove(remove::Remove),
    Tag(remove::Tag),
    Copy(copy::Copy),
    Cache(cache::Cache),
    Ps(ps::Ps),
    /// Prints the root of an image, or its manifest for a platform, byte for byte
    Manifest(read::DocumentOfImage),
    /// Prints the config of an image, byte for byte: of this machine's platform, unless another is named
    Config(read::DocumentOfImage),
    /// Prints the digest of an image, or of its manifest for a platform
    Digest(read::DocumentOfImage),
    Version(about::Version),
    Completion(about::Completion),
    Man(about::Man),
}

const EXAMPLES: &str = "\
Examples:
  What is there, and whether it will work:
    linkspan doctor
  A docker-container builder goes through Linkspan:
    linkspan serve --docker-listen unix:///run/linkspan/docker.sock
    linkspan setup buildx mybuilder
  A builder on a socket:
    linkspan serve --builder unix:///run/buildkit/buildkitd.sock
    docker buildx create --name direct --driver remote \\
      unix:///run/linkspan/buildkit.sock
    docker buildx build --builder direct --load -t demo .";

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CommandError {
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
    Save(#[from] save::SaveError),
    #[error(transparent)]
    Registry(#[from] crate::registry::RegistryError),
    #[error(transparent)]
    Name(#[from] ReferenceError),
    #[error("no archive was given, and standard input is a terminal")]
    NoInput,
    #[error("cannot read standard input: {0}")]
    Input(std::io::Error),
    #[error("-t names one image, but the archive holds {images}")]
    TagOfMany { images: usize },
    #[error("{what} has {images} images, and none was named")]
    NotNamed { what: String, images: usize },
    #[error("the archive holds {images} images, and none was named")]
    ManyInArchive { images: usize },
    #[error("this location is no engine")]
    IntoArchive,
    #[error("{engine} has no image `{given}`")]
    NoImage { given: String, engine: String },
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
    Address(#[from] crate::net::AddressError),
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
    #[error("no permission to use {address}, which is of the group {group}")]
    Denied { address: String, group: String },
    #[error("interrupted; {left}")]
    Interrupted { signal: &'static str, left: Leftover },
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error(transparent)]
    CacheFolder(#[from] cache::CacheFolderError),
    #[error("cannot write the report: {0}")]
    Report(#[from] serde_json::Error),
}

/// What an interrupted command leaves behind.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Leftover {
    Nothing,
    /// The blobs that an export has sent.
    Kept,
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
    fn code(&self) -> u8 {
        let is_wrong_value = match self {
            Self::Interrupted { signal, .. } => return Signals::code(signal),
            // A missing setting is no wrong value.
            Self::Config(ConfigError::NoBuilder) | Self::Daemon(DaemonError::Config(ConfigError::NoBuilder)) => false,
            Self::Config(_)
            | Self::Name(_)
            | Self::Address(_)
            | Self::Cache(CacheError::Name { .. })
            | Self::Elsewhere(_)
            | Self::IntoArchive
            | Self::DigestAsName { .. } => true,
            Self::Daemon(DaemonError::Config(_) | DaemonError::Engine(EngineError::Address { .. })) => true,
            Self::Engine(EngineError::Address { .. }) => true,
            Self::Save(error) => matches!(error, save::SaveError::Mixed),
            Self::CacheFolder(error) => error.is_wrong_value(),
            _ => false,
        };
        if is_wrong_value { 2 } else { 1 }
    }

    /// What a user can do about it. Commands in it get `flags`, so that they use the same engine.
    fn hint(&self, flags: &str) -> Option<String> {
        match self {
            Self::Daemon(error) => error.hint(),
            Self::Setup(error) => error.hint(),
            Self::Engine(error @ EngineError::Permission { .. }) => error.hint().map(|hint| {
                format!("{hint}; or go through a daemon that runs as root: `--to {DEFAULT_EXPORT_LISTEN}`")
            }),
            Self::Engine(error) => error.hint(),
            Self::NoFolder { .. } => Some("name the folder of a layout: `oci:DIR[:NAME]`".to_owned()),
            Self::Damaged { .. } => Some("save the image again, or copy it from elsewhere".to_owned()),
            Self::WrongDoor { export: Some(address), .. } | Self::NoDoor { export: Some(address), .. } => {
                Some(format!("the export door is {address}"))
            }
            Self::NoDoor { export: None, .. } => {
                Some("start `linkspan serve --export-listen ADDR`, and name its address".to_owned())
            }
            Self::WrongDoor { export: None, .. } => {
                Some("start `linkspan serve` with --export-listen and another address".to_owned())
            }
            Self::Denied { .. } => Some(
                "run this as root or as a member of that group; `linkspan serve --group NAME` chooses another"
                    .to_owned(),
            ),
            Self::Export(ExportError::Engine(EngineError::Corrupt { .. })) => {
                Some("the source is damaged: save the image again, or copy it from elsewhere".to_owned())
            }
            Self::Export(error) => error.hint(),
            Self::Archive(error) => error.hint(),
            Self::Choice(error) => error.hint(),
            Self::Save(save::SaveError::Terminal) => {
                Some(format!("name a file with -o, or pipe it on: `linkspan save{flags} demo | docker load`"))
            }
            Self::Save(error) => error.hint(),
            Self::Registry(error) => error.hint(),
            Self::Elsewhere(error) => error.hint(),
            Self::NoLayout { .. } => {
                Some(format!("name one with --layout, or make one: `linkspan load{flags} -i image.tar`"))
            }
            Self::Cache(CacheError::Unknown { .. }) => {
                Some(format!("`linkspan cache ls{flags}` lists the caches and their ids"))
            }
            Self::Cache(CacheError::Source(SourceError::Read { .. })) => {
                Some("see that it can be read, and run the command again".to_owned())
            }
            Self::Cache(error) => error.hint(),
            Self::CacheFolder(error) => error.hint(),
            Self::NoInput => Some(format!("name it with -i, or pipe it in: `docker save demo | linkspan load{flags}`")),
            Self::TagOfMany { .. } => Some("leave -t out: the images then keep their names in the archive".to_owned()),
            Self::NotNamed { .. } => {
                Some(format!("name one, as in `oci:DIR:NAME`; `linkspan images{flags}` lists them"))
            }
            Self::ManyInArchive { .. } => Some(format!("`linkspan load{flags} -i FILE` loads all of them")),
            Self::IntoArchive => Some("copy into a layout folder, `oci:DIR:NAME`".to_owned()),
            Self::NoImage { .. } | Self::NoImageRoot { .. } => {
                Some(format!("`linkspan images{flags}` lists the images"))
            }
            Self::ManyNames { .. } => Some("name one of these, or remove all of them with --force".to_owned()),
            Self::DigestAsName { .. } => Some("name it by a tag".to_owned()),
            Self::Ambiguous { .. } => Some("give more of the digest".to_owned()),
            _ => None,
        }
    }
}

/// Runs the program with the command line `arguments`, the program's name first.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed = program().try_get_matches_from(arguments).and_then(|matches| Cli::from_arg_matches(&matches));
    let command = match parsed {
        Ok(Cli { command }) => command,
        Err(error) => {
            // To clap, help and version are errors with code 0. A closed pipe is no failure.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let flags = command.repeated();
    command.run().unwrap_or_else(|error| {
        output::complain(&error, error.hint(&flags));
        ExitCode::from(error.code())
    })
}

/// The clap command.
fn program() -> clap::Command {
    help::shortened(Cli::command())
}

impl Command {
    /// The flags that choose the engine.
    fn repeated(&self) -> String {
        match self {
            Self::Load(command) => command.target.repeated(),
            Self::Save(command) => command.target.repeated(),
            Self::Images(command) => command.target.repeated(),
            Self::Inspect(command) => command.target.repeated(),
            Self::Copy(command) => command.repeated(),
            Self::Cache(command) => command.repeated(),
            Self::Manifest(which) | Self::Config(which) | Self::Digest(which) => which.target.repeated(),
            Self::Remove(command) => command.target.repeated(),
            Self::Tag(command) => command.target.repeated(),
            Self::Serve(_) | Self::Doctor(_) | Self::Setup(_) | Self::Ps(_) => String::new(),
            Self::Version(_) | Self::Completion(_) | Self::Man(_) => String::new(),
        }
    }

    fn run(self) -> Result<ExitCode, CommandError> {
        match self {
            Self::Serve(command) => command.run(),
            Self::Doctor(command) => command.run(),
            Self::Setup(command) => command.run(),
            Self::Load(command) => command.run(),
            Self::Save(command) => command.run(),
            Self::Images(command) => command.run(),
            Self::Inspect(command) => command.run(),
            Self::Copy(command) => command.run(),
            Self::Cache(command) => command.run(),
            Self::Ps(command) => command.run(),
            Self::Manifest(which) => which.manifest(),
            Self::Config(which) => which.config(),
            Self::Digest(which) => which.digest(),
            Self::Remove(command) => command.run(),
            Self::Tag(command) => command.run(),
            Self::Version(command) => command.run(),
            Self::Completion(command) => command.run(program()),
            Self::Man(command) => command.run(program()),
        }
    }
}

/// Runs `future` on a multi-threaded runtime.
fn block_on<F: Future>(future: F) -> Result<F::Output, CommandError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(CommandError::Runtime)?;
    let output = runtime.block_on(future);
    // A thread that blocks on a pipe must not delay the exit.
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Setting;

    #[test]
    fn the_tree_is_sound() {
        program().debug_assert();
    }

    #[test]
    fn every_setting_is_a_flag_whose_help_names_its_variable() {
        for command in ["serve", "doctor"] {
            let tree = Cli::command();
            let command = tree.find_subcommand(command).unwrap();
            for setting in Setting::ALL {
                let flag = command.get_arguments().find(|flag| flag.get_long() == Some(setting.name()));
                let help = flag.and_then(|flag| flag.get_help()).unwrap_or_else(|| panic!("--{}", setting.name()));
                let help = help.to_string();
                assert!(help.contains(&format!("[env: {}", setting.variable())), "--{}: {help}", setting.name());
                if let Some(foreign) = setting.foreign_variable() {
                    assert!(help.contains(foreign), "--{}: {help}", setting.name());
                }
            }
        }
    }
}
