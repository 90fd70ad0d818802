//! Configuration: defaults, a file, the environment and flags, checked before anything is opened.
//!
//! Each source gives a [`Layer`] of texts with their origins, so that an error can name the flag, the variable or the
//! key to change. From weakest to strongest:
//!
//! 1. built-in defaults;
//! 2. variables of other programs: `DOCKER_HOST`, `CONTAINERD_ADDRESS`, `CONTAINERD_NAMESPACE`, `BUILDKIT_HOST`; and where no
//!    source names dockerd's address, the docker context in `DOCKER_CONTEXT` or in docker's configuration file;
//! 3. the TOML file;
//! 4. `LINKSPAN_*` variables, one for each flag;
//! 5. flags.
//!
//! A stronger source replaces a setting as a whole: one `--builder` flag replaces every builder of the file.

mod builder;
mod check;
mod defaults;
mod docker;
mod docker_host;
mod endpoint;
mod environment;
mod error;
mod file;
mod group;
mod layer;
mod listen;
mod parse;
mod registry;
mod rules;
mod setting;
mod usual_doors;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::caches::CacheSettings;
use crate::engine::select::Selection;
use crate::net::Address;

pub use builder::Builder;
pub use check::{Log, LogFormat, Names};
pub(crate) use defaults::runtime_folder;
pub use docker::DockerDoor;
pub use endpoint::BuilderEndpoint;
pub use environment::{Environment, ProcessEnvironment};
pub use error::ConfigError;
pub use layer::{Given, Layer, Origin};
pub use listen::ListenerSecurity;
pub(crate) use parse::{bytes_of, duration_of};
pub use registry::RegistryDoor;
pub use rules::{Action, Rule};
pub use setting::Setting;
pub use usual_doors::UsualDoors;

/// The default configuration file.
pub const DEFAULT_FILE: &str = "/etc/linkspan/config.toml";
/// The default address of a single builder's door, for root; other users have theirs below `XDG_RUNTIME_DIR` ([`UsualDoors`]).
pub const DEFAULT_LISTEN: &str = "unix:///run/linkspan/buildkit.sock";
/// The default address of the docker door, for root.
pub const DEFAULT_DOCKER_LISTEN: &str = "unix:///run/linkspan/docker.sock";
/// The default address of the exporter API's door, for root.
pub const DEFAULT_EXPORT_LISTEN: &str = "unix:///run/linkspan/export.sock";
/// Where a registry door is looked for that no setting names: registries are usually served there.
pub const USUAL_REGISTRY_LISTEN: &str = "tcp://127.0.0.1:5000";
/// The default of [`Config::engine_timeout`].
pub const DEFAULT_ENGINE_TIMEOUT: Duration = Duration::from_secs(60);
/// The default of [`Config::drain_timeout`].
pub const DEFAULT_DRAIN: Duration = Duration::from_secs(30);

/// A checked configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The engine to export to.
    pub engine: Selection,
    /// The builders to open doors for; may be empty.
    pub builders: Vec<Builder>,
    /// Where the door of the standard exporter API listens; `None` if there is no such door.
    pub export_listen: Option<Address>,
    /// The registry door, if there is one.
    pub registry_door: Option<RegistryDoor>,
    /// Where metrics are served, if they are.
    pub metrics_listen: Option<Address>,
    /// TLS and authentication of the TCP listeners.
    pub security: ListenerSecurity,
    /// What clients may do; without any rule, all that the name policy allows.
    pub rules: Vec<Rule>,
    /// The name policy.
    pub names: Names,
    /// Limits and policy of build caches.
    pub caches: CacheSettings,
    /// Patterns of the images that builds take from the engine.
    pub from_engine: Vec<String>,
    /// The folders below which clients of the export door may write outputs; absolute paths.
    pub output_dirs: Vec<PathBuf>,
    /// The docker door, if there is one.
    pub docker_door: Option<DockerDoor>,
    /// What docker's clients are told, if that is this docker door itself: it does not choose the engine.
    pub clients_door: Option<Given>,
    /// The group that our unix sockets belong to.
    pub gid: u32,
    /// How long to wait at the start for an engine that is not up yet.
    pub engine_timeout: Duration,
    /// How long connections may take to finish after a signal.
    pub drain_timeout: Duration,
    /// Level and format of the log.
    pub log: Log,
}

impl Config {
    /// Reads and checks all sources; `flags` are those of the command line.
    ///
    /// Only the configuration file and the machine's list of groups are read; TLS files are read by
    /// [`crate::net::Upstream::new`].
    ///
    /// # Errors
    /// The error names the first wrong setting, where it was set, and what was expected.
    pub fn load(flags: Layer, environment: &dyn Environment) -> Result<Self, ConfigError> {
        Self::resolve(flags, environment, &SystemFiles::default(), None)
    }

    /// Like [`Config::load`], for a daemon: `inherited` has the addresses of sockets that a service manager passed to it.
    /// If no source names a door, the default doors are opened.
    ///
    /// # Errors
    /// As [`Config::load`], and when there is no folder for the default doors.
    pub fn load_serving(flags: Layer, environment: &dyn Environment, inherited: Layer) -> Result<Self, ConfigError> {
        Self::resolve(flags, environment, &SystemFiles::default(), Some(inherited))
    }

    /// Whether flags or variables ask for JSON logs, for errors before the configuration is checked.
    pub fn requests_json(flags: &Layer, environment: &dyn Environment) -> bool {
        let flag = flags.last(Setting::LogFormat).map(|given| given.text.clone());
        let variable = || environment.get(&Setting::LogFormat.variable())?.into_string().ok();
        flag.or_else(variable).as_deref() == Some("json")
    }

    /// The docker door that a command takes if no setting names one and none is open: that of this user's own daemon, or that of
    /// the machine's daemon, where only its socket exists.
    pub fn default_docker_listen(environment: &dyn Environment) -> String {
        own_or(Self::usual_doors(environment).docker, DEFAULT_DOCKER_LISTEN)
    }

    /// The door of the exporter API, in the same way; `None` if there is none, and no folder where this user could have one.
    pub(crate) fn default_export_listen(environment: &dyn Environment) -> Option<String> {
        let UsualDoors { export, has_folder, .. } = Self::usual_doors(environment);
        let door = own_or(export, DEFAULT_EXPORT_LISTEN);
        (has_folder || door == DEFAULT_EXPORT_LISTEN).then_some(door)
    }

    /// Where `serve` opens doors for this user, if no setting names other places.
    pub fn usual_doors(environment: &dyn Environment) -> UsualDoors {
        let SystemFiles { is_root, users, .. } = SystemFiles::default();
        defaults::usual(is_root, &users, |name| environment.get(name))
    }

    fn resolve(
        flags: Layer,
        environment: &dyn Environment,
        files: &SystemFiles,
        serving: Option<Layer>,
    ) -> Result<Self, ConfigError> {
        let explicit = flags.over(environment::own(environment)?);
        let file = match explicit.last(Setting::Config) {
            Some(given) => file::read(Path::new(&given.text))?,
            None => file::read_if_there(&files.file)?,
        };
        let mut ambient = environment::foreign_variables(environment)?;
        let mut configured = explicit.over(file.layer);
        if let Some(mut inherited) = serving.clone() {
            if file.builders.iter().any(|builder| builder.listen.is_some()) {
                inherited.remove(Setting::BuildkitListen);
            }
            configured = configured.over(inherited);
        }
        // If only other doors are configured, BUILDKIT_HOST does not ask for a builder's door.
        let is_configured = |setting| configured.last(setting).is_some();
        let others = [Setting::DockerListen, Setting::ExportListen, Setting::RegistryListen];
        let other_door = others.into_iter().any(is_configured) && !is_configured(Setting::BuildkitListen);
        // A BUILDKIT_HOST that points to one of our own doors was set for clients: it names no builder.
        let listens = configured.all(Setting::BuildkitListen);
        let usual = defaults::usual(files.is_root, &files.users, |name| environment.get(name));
        let is_ours = |builder: &Given| match listens {
            [] => builder.text == usual.buildkit,
            listens => listens.iter().any(|listen| listen.text == builder.text),
        };
        let is_ours = ambient.last(Setting::Builder).is_some_and(is_ours);
        if !file.builders.is_empty() || other_door || is_ours {
            ambient.remove(Setting::Builder);
        }
        let docker = docker_host::add(&configured, &mut ambient, environment)?;
        let mut settings = configured.over(ambient);
        if serving.is_some() && file.builders.is_empty() {
            defaults::add(&mut settings, files.is_root, &files.users, |name| environment.get(name))?;
        }
        let security = listen::check(&settings, files.is_root, |name| environment.get(name))?;
        let config = check::check(&settings, docker, (file.builders, &file.rules), &files.groups, &usual, security)?;
        let is_example = |builder: &Builder| !usual.has_folder && builder.listen.to_string() == usual.buildkit;
        if serving.is_some() && config.builders.iter().any(is_example) {
            return Err(ConfigError::NoRuntimeFolder);
        }
        Ok(config)
    }
}

/// A door of this user's, or that of the `machine`, where only its socket exists.
fn own_or(own: String, machine: &str) -> String {
    let is_there =
        |door: &str| door.strip_prefix("unix://").is_some_and(|path| Path::new(path).symlink_metadata().is_ok());
    if !is_there(&own) && is_there(machine) { machine.to_owned() } else { own }
}

/// The files of the machine; tests use their own.
struct SystemFiles {
    file: PathBuf,
    groups: PathBuf,
    /// Where systemd makes the folders of users' sockets.
    users: PathBuf,
    is_root: bool,
}

impl Default for SystemFiles {
    fn default() -> Self {
        Self {
            file: DEFAULT_FILE.into(),
            groups: "/etc/group".into(),
            users: defaults::USERS.into(),
            is_root: rustix::process::geteuid().is_root(),
        }
    }
}

#[cfg(test)]
mod tests;
