//! Why commands fail, their exit codes, and what users can do about it.

use super::cache::CacheFolderError;
use super::save::SaveError;
use crate::caches::CacheError;
use crate::config::{ConfigError, DEFAULT_EXPORT_LISTEN};
use crate::daemon::{DaemonError, Signals};
use crate::engine::select::DEFAULT_DOCKER_HOST;
use crate::engine::{BY_DOCKER, EngineError, EngineKind};
use crate::export::ExportError;
use crate::image::{Digest, ReferenceError};
use crate::net::Barrier;
use crate::source::archive::ArchiveError;
use crate::source::tree::TreeError;
use crate::source::{ChoiceError, ReadGraphError, SourceError};

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

    /// What a user can do about it. Commands in it get `flags`, so that they use the same engine.
    pub(super) fn hint(&self, flags: &str) -> Option<String> {
        match self {
            Self::OneArchive { address: Some(address) } => Some(format!("did you mean `--to {address}`?")),
            Self::NotOurs(_) => Some(
                "`linkspan copy NAME docker://HOST/NAME` sends an image to a registry, and `linkspan copy docker://HOST/NAME \
                 docker-daemon:` gets one"
                    .to_owned(),
            ),
            Self::OneArchive { address: None } => Some(
                "load one after the other; several names are taken of images of docker, with `--to kind://CLUSTER`"
                    .to_owned(),
            ),
            Self::FromDocker { error, names, to, flags } => match &**error {
                Self::NoImage { given, .. } => Some(format!(
                    "`linkspan images{flags}` lists the images of docker; an archive is named by its path, and none is called `{given}`"
                )),
                Self::Engine(EngineError::NotOffered { engine, .. }) if *engine == EngineKind::DockerClassic.name() => {
                    Some(format!(
                        "docker's classic store can only be read by docker: `docker save {} | linkspan load --to {to}`",
                        names.join(" ")
                    ))
                }
                Self::Engine(error @ EngineError::Permission { .. }) => error.hint(),
                error => error.hint(flags),
            },
            Self::Config(error) => error.hint(),
            Self::Daemon(error) => error.hint(),
            Self::Setup(error) => error.hint(),
            Self::PluginSetup(error) => error.hint(),
            Self::Globals(error) => error.hint(),
            // A daemon that finds its engine by itself has docker or containerd, and neither a cluster nor what else flags name.
            Self::Engine(error @ EngineError::Permission { .. })
                if is_of_docker(flags) =>
            {
                error.hint().map(|hint| {
                    format!("{hint}; or go through a daemon that runs as root: `--to {DEFAULT_EXPORT_LISTEN}`")
                })
            }
            Self::Engine(error) if flags.contains(" --engine containerd") => {
                error.hint().map(|hint| hint.trim_end_matches(BY_DOCKER).to_owned())
            }
            Self::Engine(error) => error.hint(),
            Self::DoorClosed { .. } => Some(format!(
                "start `linkspan serve`, or name the docker that is meant: `--docker-host {DEFAULT_DOCKER_HOST}`"
            )),
            Self::NoFolder { .. } => Some("name the folder of a layout: `oci:DIR[:NAME]`".to_owned()),
            Self::Damaged { .. } => Some("save the image again, or copy it from elsewhere".to_owned()),
            Self::WrongDoor { export: Some(address), .. } | Self::NoDoor { export: Some(address), .. } => {
                Some(format!("the export door is {address}"))
            }
            Self::NoDoor { export: None, .. } => {
                Some("start `linkspan serve --export-listen ADDR`, and name its address".to_owned())
            }
            Self::HasTls { .. } => Some(
                "if it is Linkspan's, name the authority with --tls-ca (LINKSPAN_TO_TLS_CA), such as the `ca.crt` of its \
                 --listen-tls-dir; and a certificate with --tls-cert and --tls-key, if it wants one"
                    .to_owned(),
            ),
            Self::WrongDoor { export: None, .. } => {
                Some("start `linkspan serve` with --export-listen and another address".to_owned())
            }
            Self::Dial { address, .. } => Some(format!(
                "see that `linkspan serve --export-listen {address}` runs, and that you may use its socket"
            )),
            Self::NoDaemon => Some(
                "set that variable, or start `linkspan serve --export-listen unix:///path/export.sock`, and name that address"
                    .to_owned(),
            ),
            Self::Denied { barrier: barrier @ Barrier::Folder(_), .. } => Some(barrier.remedy()),
            Self::Denied { barrier, .. } => {
                Some(format!("{}; `linkspan serve --group NAME` chooses whose group may use it", barrier.remedy()))
            }
            Self::Export(ExportError::Engine(EngineError::Corrupt { .. })) => {
                Some("the source is damaged: save the image again, or copy it from elsewhere".to_owned())
            }
            Self::Export(error) => error.hint(),
            Self::Archive(error) => error.hint(),
            Self::Choice(error) => error.hint(),
            Self::Save(SaveError::Terminal) => {
                Some(format!("name a file with -o, or pipe it on: `linkspan save{flags} demo | docker load`"))
            }
            Self::Save(error) => error.hint(),
            Self::Registry(error) => error.hint(),
            Self::Publish(error) => error.hint(),
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
            Self::TagOfMany { .. } => Some("leave -t out: the images then keep their names".to_owned()),
            Self::NotNamed { example, .. } => {
                Some(format!("name one, as in `{example}`; `linkspan images{flags}` lists them"))
            }
            Self::IsFile { meant, image, .. } => {
                let image = image.as_ref().map_or_else(String::new, |image| format!("; an image of that name is `{image}`"));
                Some(format!("say `{meant}`{image}"))
            }
            Self::NoFile { command, .. } => Some(format!("name an archive that exists; an image of docker is sent by `{command}`")),
            Self::ManyInArchive { names, .. } => {
                let named = match names.first() {
                    Some(name) => format!("name one behind the file, as in `docker-archive:FILE:{name}`; "),
                    None => String::new(),
                };
                Some(format!("{named}`linkspan load{flags} -i FILE` loads all of them"))
            }
            Self::NobodyToAsk => Some("--yes mends all of it, and --dry-run shows it".to_owned()),
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

/// Whether the engine of a command with these flags is the docker of this machine, which is also that of a daemon that finds its
/// engine by itself.
fn is_of_docker(flags: &str) -> bool {
    let has_other = |flag: &str| {
        let value = flags.split_once(flag).map(|(_, rest)| rest);
        value.is_some_and(|value| !value.starts_with("docker") && !value.starts_with("auto"))
    };
    let names_other = [" --to ", " --namespace ", " --docker-host "].iter().any(|flag| flags.contains(flag));
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !names_other && !has_other(" --engine ") && !["LINKSPAN_TO", "LINKSPAN_ENGINE"].into_iter().any(is_set)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_is_named_where_it_leads_to_the_same_images() {
        for (flags, is_named) in [
            ("", true),
            (" --engine docker", true),
            (" --config x.toml --engine docker-api", true),
            (" --to kind://dev", false),
            (" --engine kind://dev", false),
            (" --engine containerd --namespace k8s.io", false),
            (" --docker-host ssh://far", false),
        ] {
            let (engine, address) = ("containerd", "unix:///run/containerd/containerd.sock".to_owned());
            let error = CommandError::Engine(EngineError::Permission { engine, address });
            let hint = error.hint(flags).unwrap();
            assert_eq!(hint.contains("--to unix:///run/linkspan/export.sock"), is_named, "{flags}: {hint}");
            assert_eq!(hint.contains("docker-api"), !flags.contains("--engine containerd"), "{flags}: {hint}");
        }
        // Images of docker that are to go into a cluster come from docker alone.
        let address = "unix:///no/docker.sock".to_owned();
        let error = CommandError::Engine(EngineError::Permission { engine: "docker", address });
        let (names, to) = (vec!["a:1".to_owned()], "kind://dev".to_owned());
        let error = CommandError::FromDocker { error: Box::new(error), names, to, flags: String::new() };
        assert!(!error.hint(" --to kind://dev").unwrap().contains("--to"));
    }

    #[test]
    fn what_docker_lacks_is_looked_for_in_docker_and_not_in_the_cluster() {
        let of = |error: CommandError| CommandError::FromDocker {
            error: Box::new(error),
            names: vec!["a:1".to_owned(), "b:1".to_owned()],
            to: "kind://dev".to_owned(),
            flags: " --engine docker".to_owned(),
        };
        let absent = of(CommandError::NoImage { given: "b:1".to_owned(), engine: "docker at x".to_owned() });
        let hint = absent.hint(" --to kind://dev").unwrap();
        assert!(hint.starts_with("`linkspan images --engine docker` lists") && hint.ends_with("`b:1`"), "{hint}");
        assert_eq!((absent.to_string().as_str(), absent.code()), ("docker at x has no image `b:1`", 1));
        let engine = EngineKind::DockerClassic.name();
        let classic = of(CommandError::Engine(EngineError::NotOffered { engine, what: "reading its images" }));
        let hint = classic.hint("").unwrap();
        assert!(hint.contains("`docker save a:1 b:1 | linkspan load --to kind://dev`"), "{hint}");
        assert_eq!(of(CommandError::TagOfMany { images: 2 }).code(), CommandError::TagOfMany { images: 2 }.code());
    }
}
