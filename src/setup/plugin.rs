//! Makes `docker linkspan` work for a user: a link to this program in a folder in which docker's command line looks for
//! plugins (docker/cli `cli-plugins/manager/manager.go`).

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::plain_file;

/// The link's name; docker calls a plugin what follows the first dash.
const LINK: &str = "docker-linkspan";
/// The name of the program that a link of ours points to.
const PROGRAM: &str = "linkspan";
/// A user's folder of plugins, below docker's folder.
const FOLDER: &str = "cli-plugins";
/// The folders of plugins of all users (docker/cli `cli-plugins/manager/manager_unix.go`).
const SYSTEM: [&str; 4] = [
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
];
/// The longest configuration file of docker that is read.
const MAX_CONFIG: u64 = 4 << 20;

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PluginChange {
    /// The link.
    pub link: PathBuf,
    /// Where it points, or pointed.
    pub program: PathBuf,
    /// Whether something had to be done.
    pub changed: bool,
}

/// Why the plugin was not installed, or not removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PluginError {
    /// The folder of docker is unknown.
    #[error("docker's folder is unknown: neither HOME nor DOCKER_CONFIG is set")]
    Homeless,
    /// Something else has the name.
    #[error("{path} is there, and is no link to linkspan: nothing was changed", path = path.display())]
    NotOurs {
        /// What is there.
        path: PathBuf,
    },
    /// There is nothing to remove.
    #[error("there is no {path}: there is nothing to undo", path = path.display())]
    Absent {
        /// Where it would be.
        path: PathBuf,
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
}

impl PluginError {
    /// What a user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Homeless | Self::Absent { .. } => Some("name the folder of the plugin with --dir".to_owned()),
            Self::NotOurs { path } => {
                Some(format!("move {} away, or choose another folder with --dir", path.display()))
            }
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("run this as the owner of the folder, or choose another one with --dir".to_owned())
            }
            Self::Io { .. } => None,
        }
    }
}

/// Puts a link to `program` into `folder`, which is made if it is absent.
///
/// # Errors
/// When something that is not ours has the name, which then stays, or the system refuses.
pub fn install_plugin(folder: &Path, program: &Path) -> Result<PluginChange, PluginError> {
    let link = folder.join(LINK);
    let failed = |what, path: &Path| {
        let path = path.to_owned();
        move |source| PluginError::Io { what, path, source }
    };
    let done = |changed| PluginChange { link: link.clone(), program: program.to_owned(), changed };
    match target(&link, program)? {
        Some(found) if found == program => return Ok(done(false)),
        _ => fs::create_dir_all(folder).map_err(failed("make the folder", folder))?,
    }
    // Under another name first: docker finds either the old one or the new one.
    let new = folder.join(format!(".{LINK}-{}", std::process::id()));
    symlink(program, &new).map_err(failed("make the link", &new))?;
    if let Err(source) = fs::rename(&new, &link) {
        // At worst it stays, and docker does not look at it.
        let _ = fs::remove_file(&new);
        return Err(PluginError::Io { what: "make the link", path: link, source });
    }
    Ok(done(true))
}

/// Removes the link of `folder`, to `own` program or to one that is called like it is installed.
///
/// # Errors
/// When there is none, or it is not ours.
pub fn remove_plugin(folder: &Path, own: &Path) -> Result<PluginChange, PluginError> {
    let link = folder.join(LINK);
    let Some(program) = target(&link, own)? else { return Err(PluginError::Absent { path: link }) };
    match fs::remove_file(&link) {
        Ok(()) => Ok(PluginChange { link, program, changed: true }),
        Err(source) => Err(PluginError::Io { what: "remove", path: link, source }),
    }
}

/// Where docker looks for plugins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginFolders {
    /// The user's own, if docker's folder is known.
    pub own: Option<PathBuf>,
    /// Those that docker's configuration file names.
    pub extra: Vec<PathBuf>,
}

impl PluginFolders {
    /// Those of the user with docker's folder `docker`. A configuration file that cannot be read names none, as for docker.
    pub fn of(docker: Option<&Path>) -> Self {
        let read = |docker: &Path| plain_file::read_text(&docker.join("config.json"), MAX_CONFIG).ok();
        let named = docker.and_then(read).and_then(|text| serde_json::from_str::<DockerConfig>(&text).ok());
        Self { own: docker.map(|docker| docker.join(FOLDER)), extra: named.unwrap_or_default().extra }
    }

    /// Whether docker looks into `folder`.
    pub fn have(&self, folder: &Path) -> bool {
        self.all().any(|searched| is_same(searched, folder))
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Path> {
        self.extra.iter().chain(&self.own).map(PathBuf::as_path).chain(SYSTEM.map(Path::new))
    }
}

/// What is read of docker's configuration file.
#[derive(Debug, Default, Deserialize)]
struct DockerConfig {
    #[serde(default, rename = "cliPluginsExtraDirs")]
    extra: Vec<PathBuf>,
}

/// Whether two paths lead to the same file.
fn is_same(one: &Path, other: &Path) -> bool {
    one == other || matches!((fs::canonicalize(one), fs::canonicalize(other)), (Ok(one), Ok(other)) if one == other)
}

/// Where our link points; `None` if there is nothing. Ours is one to `own` program, whatever its file is called, or to one that
/// is called like it is installed.
fn target(link: &Path, own: &Path) -> Result<Option<PathBuf>, PluginError> {
    match fs::read_link(link) {
        Ok(program) if program.file_name().is_some_and(|name| name == PROGRAM) => Ok(Some(program)),
        Ok(program) if program == own || is_same(link, own) => Ok(Some(program)),
        // `EINVAL`: it is no link.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Ok(_) => Err(PluginError::NotOurs { path: link.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            Err(PluginError::NotOurs { path: link.to_owned() })
        }
        Err(source) => Err(PluginError::Io { what: "look at", path: link.to_owned(), source }),
    }
}
