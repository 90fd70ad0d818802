//! What buildx keeps of its builders, read and, for one key, changed.
//!
//! A builder is a JSON file below `instances/` of buildx's configuration folder (buildx `store/store.go`,
//! `store/nodegroup.go`; the same since its first release). It pins every node to an *endpoint*: the address of an engine
//! or of a buildkitd, or the name of a docker context, whatever `DOCKER_HOST` says later.

mod context;
mod file;
mod owned;
mod version;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};

pub use context::Context;
pub use file::Locked;
pub(crate) use owned::OwnedFolder;
pub use version::{Version, version};

/// A builder's file is a few kilobytes, certificates included; anything longer is something else.
const MAX_BYTES: u64 = 4 << 20;
/// Where builders are, in buildx's folder.
const INSTANCES: &str = "instances";

/// A user's builders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// Docker's configuration folder.
    docker: PathBuf,
    /// buildx's, usually in it.
    buildx: PathBuf,
}

/// One builder.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Instance {
    /// Its name.
    pub name: String,
    /// `docker-container`, `remote`, `kubernetes`, …
    pub driver: String,
    /// Where it builds.
    #[serde(default, deserialize_with = "or_none")]
    pub nodes: Vec<Node>,
}

/// One node of a builder.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Node {
    /// Its name; the container of the docker-container driver is called `buildx_buildkit_NAME`.
    pub name: String,
    /// The address or docker context that it is pinned to.
    pub endpoint: String,
}

/// Why builders cannot be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no such builder.
    #[error("buildx has no builder `{name}` in {folder}; it has: {known}", folder = folder.display())]
    Unknown {
        /// The name asked for.
        name: String,
        /// Where builders are kept.
        folder: PathBuf,
        /// Those that exist, separated by commas.
        known: String,
    },
    /// A file of buildx is not what it is known to be.
    #[error("{path} is not a builder as buildx writes it: {reason}", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The system refuses.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Somebody else changes builders at the moment.
    #[error("another buildx command holds {path} for longer than {seconds} s; try again when it has ended", path = path.display())]
    Busy {
        /// buildx's lock.
        path: PathBuf,
        /// How long it was waited for.
        seconds: u64,
    },
}

impl Store {
    /// The builders of whoever has these variables: `BUILDX_CONFIG`, else `buildx` in `DOCKER_CONFIG`, else
    /// `~/.docker/buildx` (buildx `util/confutil/config.go`). `None` if not even `HOME` is set.
    pub fn find(variable: impl Fn(&str) -> Option<OsString>) -> Option<Self> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let docker = variable("DOCKER_CONFIG").or_else(|| Some(variable("HOME")?.join(".docker")))?;
        let buildx = variable("BUILDX_CONFIG").unwrap_or_else(|| docker.join("buildx"));
        Some(Self { docker, buildx })
    }

    /// buildx's configuration folder.
    pub fn folder(&self) -> &Path {
        &self.buildx
    }

    /// All builders that were created, by name. Those that come with docker contexts are not among them.
    ///
    /// # Errors
    /// When the folder or a file in it cannot be read. A folder that is absent holds no builders.
    pub fn instances(&self) -> Result<Vec<Instance>, StoreError> {
        Ok(self.files()?.into_iter().map(|(_, instance)| instance).collect())
    }

    /// All builders, and what their files are called.
    fn files(&self) -> Result<Vec<(OsString, Instance)>, StoreError> {
        let path = self.buildx.join(INSTANCES);
        let failed = |source| StoreError::Io { what: "list", path: path.clone(), source };
        let opened = OwnedFolder::open(&self.buildx).and_then(|folder| folder.subfolder(INSTANCES));
        let folder = match opened {
            Ok(folder) => folder,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut instances = Vec::new();
        for entry in path.read_dir().map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let path = path.join(&name);
            let instance = file::parse(&path, &file::read(&folder, &name, &path)?)?;
            instances.push((name, instance));
        }
        instances.sort_by(|(_, one): &(_, Instance), (_, other)| one.name.cmp(&other.name));
        Ok(instances)
    }

    /// The builder called `name`.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] names those that exist.
    pub fn instance(&self, name: &str) -> Result<Instance, StoreError> {
        Ok(self.file(name)?.1)
    }

    fn file(&self, name: &str) -> Result<(OsString, Instance), StoreError> {
        let mut instances = self.files()?;
        // buildx takes names in any case and keeps them in lower case (`store/util.go`).
        match instances.iter().position(|(_, instance)| instance.name.eq_ignore_ascii_case(name)) {
            Some(index) => Ok(instances.swap_remove(index)),
            None => Err(StoreError::Unknown {
                name: name.to_owned(),
                folder: self.buildx.clone(),
                known: match instances.len() {
                    0 => "none".to_owned(),
                    _ => instances.iter().map(|(_, instance)| instance.name.as_str()).collect::<Vec<_>>().join(", "),
                },
            }),
        }
    }

    /// The address behind `endpoint`: the host of the docker context of that name, or the endpoint itself.
    pub fn address(&self, endpoint: &str) -> String {
        context::host(&self.docker, endpoint).unwrap_or_else(|| endpoint.to_owned())
    }

    /// The docker contexts that were created, by name. One that cannot be read is left out.
    pub fn contexts(&self) -> Vec<Context> {
        context::all(&self.docker)
    }

    /// The address of the engine that docker's client uses for whoever has these variables: `DOCKER_HOST`, else the
    /// context that `DOCKER_CONTEXT` or docker's configuration file names (docker/cli `cli/command/cli.go`,
    /// `resolveContextName`). `None` stands for the usual socket.
    pub fn engine(&self, variable: impl Fn(&str) -> Option<OsString>) -> Option<String> {
        let variable = |name: &str| variable(name)?.into_string().ok().filter(|value| !value.is_empty());
        if let Some(host) = variable("DOCKER_HOST") {
            return Some(host);
        }
        let name = variable("DOCKER_CONTEXT").or_else(|| context::current(&self.docker))?;
        context::host(&self.docker, &name)
    }

    /// Keeps buildx from changing builders until the answer is dropped.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when buildx itself is changing them for longer than ten seconds.
    pub fn lock(&self) -> Result<Locked<'_>, StoreError> {
        Locked::new(self)
    }
}

/// Go writes an empty list as `null`.
fn or_none<'de, D: Deserializer<'de>>(nodes: D) -> Result<Vec<Node>, D::Error> {
    Option::deserialize(nodes).map(Option::unwrap_or_default)
}

/// Whether two addresses lead to the same place; `/var/run` is a link to `/run` almost everywhere.
pub fn is_same_address(one: &str, other: &str) -> bool {
    let path = |address: &str| address.strip_prefix("unix://").and_then(|path| Path::new(path).canonicalize().ok());
    one == other || path(one).is_some_and(|it| Some(it) == path(other))
}

#[cfg(test)]
mod tests;
