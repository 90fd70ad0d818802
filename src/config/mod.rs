//! What a process is told: defaults, a file, the environment and flags, checked before anything is opened.
//!
//! Each source yields a [`Layer`] of texts that remember where they came from, so that a refusal can name the flag, the
//! variable or the key to change. From weakest to strongest:
//!
//! 1. built-in defaults;
//! 2. variables of neighbouring programs: `DOCKER_HOST`, `CONTAINERD_ADDRESS`, `CONTAINERD_NAMESPACE`, `BUILDKIT_HOST`.
//!    They were not set with Linkspan in mind, so anything that was wins over them;
//! 3. the TOML file;
//! 4. `LINKSPAN_*` variables, one for each flag;
//! 5. flags.
//!
//! A stronger source replaces a setting as a whole: one `--builder` flag replaces every builder of the file.

mod builder;
mod check;
mod defaults;
mod docker;
mod endpoint;
mod environment;
mod error;
mod file;
mod group;
mod layer;
mod parse;
mod setting;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::engine::select::Selection;
use crate::net::Address;

pub use builder::Builder;
pub use check::{Log, LogFormat, Names};
pub use docker::DockerDoor;
pub use endpoint::{BuilderEndpoint, KEEP_EXEC};
pub use environment::{Environment, ProcessEnvironment};
pub use error::ConfigError;
pub use layer::{Given, Layer, Origin};
pub use setting::Setting;

/// Where the file is looked for when none is named.
pub const DEFAULT_FILE: &str = "/etc/linkspan/config.toml";
/// Where a single builder's door listens when nothing else is said.
pub const DEFAULT_LISTEN: &str = "unix:///run/linkspan/buildkit.sock";
/// Where the docker door is expected where nothing else is said; it is opened only when it is asked for.
pub const DEFAULT_DOCKER_LISTEN: &str = "unix:///run/linkspan/docker.sock";
/// Where the door of the exporter API is expected where nothing else is said; it is opened only when it is asked for.
pub const DEFAULT_EXPORT_LISTEN: &str = "unix:///run/linkspan/export.sock";
/// How long an engine that is not up yet is waited for, where nothing else is said.
pub const DEFAULT_ENGINE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long connections may take to finish after a signal, where nothing else is said.
pub const DEFAULT_DRAIN: Duration = Duration::from_secs(30);

/// A checked configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The engine to export to.
    pub engine: Selection,
    /// The builders to open doors for; may be empty.
    pub builders: Vec<Builder>,
    /// Where the door of the standard exporter API listens; `None` if it is not to be opened.
    pub export_listen: Option<Address>,
    /// Which names may be set.
    pub names: Names,
    /// The folders below which clients of the export door may have outputs left; absolute paths.
    pub output_dirs: Vec<PathBuf>,
    /// The docker door, if it is asked for.
    pub docker_door: Option<DockerDoor>,
    /// The group that our unix sockets belong to.
    pub gid: u32,
    /// How long an engine that is not up yet is waited for.
    pub engine_timeout: Duration,
    /// How long connections may take to finish after a signal.
    pub drain_timeout: Duration,
    /// What is logged, and how.
    pub log: Log,
}

impl Config {
    /// Reads all sources and checks them. `flags` is what the command line gave.
    ///
    /// Nothing but the configuration file and the machine's list of groups is read; TLS files are read by
    /// [`crate::net::Upstream::new`].
    ///
    /// # Errors
    /// Names the first setting that is wrong, where it was set, and what was expected.
    pub fn load(flags: Layer, environment: &dyn Environment) -> Result<Self, ConfigError> {
        Self::resolve(flags, environment, &SystemFiles::default(), None)
    }

    /// The same for a daemon: `handed` is what the sockets that it was given say, and where nothing asks for a door, the
    /// default ones are opened.
    ///
    /// # Errors
    /// As [`Config::load`], and when there is no folder for the default doors.
    pub fn load_serving(flags: Layer, environment: &dyn Environment, handed: Layer) -> Result<Self, ConfigError> {
        Self::resolve(flags, environment, &SystemFiles::default(), Some(handed))
    }

    /// Whether log lines are to be JSON, as far as flags and variables say, when it cannot be asked of a checked
    /// configuration.
    pub fn asks_for_json(flags: &Layer, environment: &dyn Environment) -> bool {
        let said = flags.one(Setting::LogFormat).map(|given| given.text.clone());
        let variable = || environment.get(&Setting::LogFormat.variable())?.into_string().ok();
        said.or_else(variable).as_deref() == Some("json")
    }

    /// Where the docker door of this user's own daemon listens where nothing else is said, if there is one; else that of
    /// the machine's.
    pub fn default_docker_listen(environment: &dyn Environment) -> String {
        let own = defaults::docker_listen(SystemFiles::default().is_root, |name| environment.get(name));
        let is_there = own.strip_prefix("unix://").is_some_and(|path| Path::new(path).symlink_metadata().is_ok());
        if is_there { own } else { DEFAULT_DOCKER_LISTEN.to_owned() }
    }

    fn resolve(
        flags: Layer,
        environment: &dyn Environment,
        files: &SystemFiles,
        serving: Option<Layer>,
    ) -> Result<Self, ConfigError> {
        let explicit = flags.over(environment::own(environment)?);
        let file = match explicit.one(Setting::Config) {
            Some(given) => file::read(Path::new(&given.text))?,
            None => file::read_if_there(&files.file)?,
        };
        let mut ambient = environment::neighbours(environment)?;
        let mut said = explicit.over(file.layer);
        if let Some(mut handed) = serving.clone() {
            if file.builders.iter().any(|builder| builder.listen.is_some()) {
                handed.remove(Setting::BuildkitListen);
            }
            said = said.over(handed);
        }
        // Who asks for another door and for nothing of a builder's has not asked for a builder's door.
        let is_said = |setting| said.one(setting).is_some();
        let other_door =
            (is_said(Setting::DockerListen) || is_said(Setting::ExportListen)) && !is_said(Setting::BuildkitListen);
        // Where it names one of our doors, it is what users of that have in their shells, and says nothing of a builder.
        let listens = said.all(Setting::BuildkitListen);
        let is_ours = |builder: &Given| match listens {
            [] => builder.text == DEFAULT_LISTEN,
            listens => listens.iter().any(|listen| listen.text == builder.text),
        };
        let is_ours = ambient.one(Setting::Builder).is_some_and(is_ours);
        if !file.builders.is_empty() || other_door || is_ours {
            ambient.remove(Setting::Builder);
        }
        let mut settings = said.over(ambient);
        if serving.is_some() && file.builders.is_empty() {
            defaults::add(&mut settings, files.is_root, |name| environment.get(name))?;
        }
        let usual = defaults::docker_listen(files.is_root, |name| environment.get(name));
        check::check(&settings, file.builders, &files.groups, &usual)
    }
}

/// Files that are read without being named; tests bring their own.
struct SystemFiles {
    file: PathBuf,
    groups: PathBuf,
    is_root: bool,
}

impl Default for SystemFiles {
    fn default() -> Self {
        Self { file: DEFAULT_FILE.into(), groups: "/etc/group".into(), is_root: rustix::process::geteuid().is_root() }
    }
}

#[cfg(test)]
mod tests;
