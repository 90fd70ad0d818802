//! The files in which buildx keeps its builders: reads them, and changes one key.
//!
//! A builder is a JSON file below `instances/` of buildx's configuration folder (buildx `store/store.go`,
//! `store/nodegroup.go`; unchanged since its first release). It pins every node to an *endpoint*: the address of an engine or
//! of a buildkitd, or the name of a docker context, whatever `DOCKER_HOST` is later.

mod context;
mod file;
mod owned;
mod version;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};

pub use context::{Context, ContextError, ContextTls, DockerEndpoint};
pub use file::Locked;
pub(crate) use owned::OwnedFolder;
pub use version::{Version, version};

/// The largest builder file: a few kilobytes are usual, with certificates.
const MAX_BYTES: u64 = 4 << 20;
/// The most builders that are read; nobody has that many.
const MAX_BUILDERS: usize = 4096;
/// The folder of builders, in buildx's folder.
const INSTANCES: &str = "instances";

/// A user's builders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// Docker's configuration folder.
    docker: PathBuf,
    /// buildx's configuration folder, usually in it.
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
    /// Its nodes.
    #[serde(default, deserialize_with = "or_none")]
    pub nodes: Vec<Node>,
}

/// The name of a builder's file, and what is in it.
type BuilderFile = (OsString, Result<Instance, StoreError>);

/// All builders of a user.
#[derive(Debug, Default)]
pub struct Instances {
    /// Those that could be read, by name.
    pub read: Vec<Instance>,
    /// Why the others could not be.
    pub unread: Vec<StoreError>,
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
    /// The builder does not exist.
    #[error("buildx has no builder `{name}` in {folder}; it has: {known}", folder = folder.display())]
    Unknown {
        /// The requested name.
        name: String,
        /// The folder of builders.
        folder: PathBuf,
        /// The existing builders, separated by commas.
        known: String,
    },
    /// A file of buildx has an unexpected form.
    #[error("{path} is not a builder as buildx writes it: {reason}", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A system call failed.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io {
        /// The operation.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Another process holds buildx's lock.
    #[error("another buildx command holds {path} for longer than {seconds} s; try again when it has ended", path = path.display())]
    Busy {
        /// buildx's lock.
        path: PathBuf,
        /// The time limit.
        seconds: u64,
    },
}

impl Store {
    /// The builders of the user with this environment: `BUILDX_CONFIG`, else `buildx` in `DOCKER_CONFIG`, else
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

    /// All created builders, without the implicit ones of docker contexts. A file that cannot be read hides no other.
    pub fn instances(&self) -> Instances {
        match self.files() {
            Ok(files) => {
                let mut found = Instances::default();
                for (_, file) in files {
                    match file {
                        Ok(instance) => found.read.push(instance),
                        Err(error) => found.unread.push(error),
                    }
                }
                found.read.sort_by(|one, other| one.name.cmp(&other.name));
                found
            }
            Err(error) => Instances { read: Vec::new(), unread: vec![error] },
        }
    }

    /// What is in each file of a builder, with the file's name. An absent folder counts as empty.
    fn files(&self) -> Result<Vec<BuilderFile>, StoreError> {
        let path = self.buildx.join(INSTANCES);
        let failed = |source| StoreError::Io { what: "list", path: path.clone(), source };
        let opened = OwnedFolder::open(&self.buildx).and_then(|folder| folder.subfolder(INSTANCES));
        let folder = match opened {
            Ok(folder) => folder,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut names = Vec::new();
        for entry in path.read_dir().map_err(failed)?.take(MAX_BUILDERS) {
            names.push(entry.map_err(failed)?.file_name());
        }
        names.sort();
        let read = |name: OsString| {
            let path = path.join(&name);
            let instance = file::read(&folder, &name, &path).and_then(|text| file::parse(&path, &text));
            (name, instance)
        };
        Ok(names.into_iter().map(read).collect())
    }

    /// The builder called `name`.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] names those that exist.
    pub fn instance(&self, name: &str) -> Result<Instance, StoreError> {
        Ok(self.file(name)?.1)
    }

    fn file(&self, name: &str) -> Result<(OsString, Instance), StoreError> {
        let mut known = Vec::new();
        for (file, instance) in self.files()? {
            match instance {
                // buildx takes names in any case and keeps them in lower case (`store/util.go`), in the name of the file, too.
                Ok(instance) if instance.name.eq_ignore_ascii_case(name) => return Ok((file, instance)),
                Ok(instance) => known.push(instance.name),
                Err(error) if file.eq_ignore_ascii_case(name) => return Err(error),
                Err(_) => {}
            }
        }
        known.sort();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Err(StoreError::Unknown { name: name.to_owned(), folder: self.buildx.clone(), known })
    }

    /// The address behind `endpoint`: the host of the docker context of that name, or the endpoint itself.
    pub fn address(&self, endpoint: &str) -> String {
        context::host(&self.docker, endpoint).unwrap_or_else(|| endpoint.to_owned())
    }

    /// The created docker contexts, by name; unreadable ones are left out.
    pub fn contexts(&self) -> Vec<Context> {
        context::all(&self.docker)
    }

    /// The address of the engine that docker's client uses with this environment: `DOCKER_HOST`, else the context in
    /// `DOCKER_CONTEXT` or in docker's configuration file (docker/cli `cli/command/cli.go`, `resolveContextName`). `None` is
    /// the default socket.
    pub fn engine(&self, variable: impl Fn(&str) -> Option<OsString>) -> Option<String> {
        let variable = |name: &str| variable(name)?.into_string().ok().filter(|value| !value.is_empty());
        if let Some(host) = variable("DOCKER_HOST") {
            return Some(host);
        }
        context::host(&self.docker, &self.current_context(variable)?)
    }

    /// The name of the context that docker's client uses with this environment where `DOCKER_HOST` is not set; `None` is the
    /// default one.
    pub fn current_context(&self, variable: impl Fn(&str) -> Option<String>) -> Option<String> {
        let name = variable("DOCKER_CONTEXT").or_else(|| context::current(&self.docker))?;
        Some(name).filter(|name| !name.is_empty() && name != context::DEFAULT)
    }

    /// The engine of the context `name`.
    ///
    /// # Errors
    /// When there is none of that name, or its file is not one that docker wrote.
    pub fn docker_endpoint(&self, name: &str) -> Result<DockerEndpoint, ContextError> {
        context::endpoint(&self.docker, name)
    }

    /// The folder in which docker's client has its own files of TLS.
    pub fn docker_folder(&self) -> &Path {
        &self.docker
    }

    /// Takes buildx's lock until the result is dropped.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when buildx holds it for longer than ten seconds.
    pub fn lock(&self) -> Result<Locked<'_>, StoreError> {
        Locked::new(self)
    }
}

/// Go writes an empty list as `null`.
fn or_none<'de, D: Deserializer<'de>>(nodes: D) -> Result<Vec<Node>, D::Error> {
    Option::deserialize(nodes).map(Option::unwrap_or_default)
}

/// Whether two addresses are the same; `/var/run` is a link to `/run` almost everywhere.
pub fn is_same_address(one: &str, other: &str) -> bool {
    let path = |address: &str| address.strip_prefix("unix://").and_then(|path| Path::new(path).canonicalize().ok());
    one == other || path(one).is_some_and(|it| Some(it) == path(other))
}

#[cfg(test)]
mod tests;
