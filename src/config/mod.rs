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
mod docker;
mod environment;
mod error;
mod file;
mod group;
mod layer;
mod place;
mod setting;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::engine::select::Selection;
use crate::proxy::Address;

pub use builder::Builder;
pub use check::{Log, LogFormat, Names};
pub use docker::DockerDoor;
pub use environment::{Environment, ProcessEnvironment};
pub use error::ConfigError;
pub use layer::{Given, Layer, Origin};
pub use place::{KEEP_EXEC, Place};
pub use setting::Setting;

/// Where the file is looked for when none is named.
pub const DEFAULT_FILE: &str = "/etc/linkspan/config.toml";
/// Where a single builder's door listens when nothing else is said.
pub const DEFAULT_LISTEN: &str = "unix:///run/linkspan/buildkit.sock";
/// Where the docker door is expected where nothing else is said; it is opened only when it is asked for.
pub const DEFAULT_DOCKER_LISTEN: &str = "unix:///run/linkspan/docker.sock";
/// Where the door of the exporter API is expected where nothing else is said; it is opened only when it is asked for.
pub const DEFAULT_EXPORT_LISTEN: &str = "unix:///run/linkspan/export.sock";
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
    /// How long connections may take to finish after a signal.
    pub drain_timeout: Duration,
    /// What is logged, and how.
    pub log: Log,
}

impl Config {
    /// Reads all sources and checks them. `flags` is what the command line gave.
    ///
    /// Nothing but the configuration file and the machine's list of groups is read; TLS files are read by
    /// [`crate::proxy::Upstream::new`].
    ///
    /// # Errors
    /// Names the first setting that is wrong, where it was set, and what was expected.
    pub fn load(flags: Layer, environment: &dyn Environment) -> Result<Self, ConfigError> {
        Self::resolve(flags, environment, &Places::default())
    }

    fn resolve(flags: Layer, environment: &dyn Environment, places: &Places) -> Result<Self, ConfigError> {
        let explicit = flags.over(environment::own(environment)?);
        let file = match explicit.one(Setting::Config) {
            Some(given) => file::read(Path::new(&given.text))?,
            None => file::read_if_there(&places.file)?,
        };
        let mut ambient = environment::neighbours(environment)?;
        let said = explicit.over(file.layer);
        // Who asks for another door and for nothing of a builder's has not asked for a builder's door.
        let is_said = |setting| said.one(setting).is_some();
        let other_door =
            (is_said(Setting::DockerListen) || is_said(Setting::ExportListen)) && !is_said(Setting::BuildkitListen);
        if !file.builders.is_empty() || other_door {
            ambient.remove(Setting::Builder);
        }
        let settings = said.over(ambient);
        check::check(&settings, file.builders, &places.groups)
    }
}

/// Files that are read without being named; tests bring their own.
struct Places {
    file: PathBuf,
    groups: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self { file: DEFAULT_FILE.into(), groups: "/etc/group".into() }
    }
}

#[cfg(test)]
mod tests;
