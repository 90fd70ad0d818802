//! Makes `docker linkspan` work for a user: a link to this program in a folder in which docker's command line looks for
//! plugins (docker/cli `cli-plugins/manager/manager.go`).

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// The link's name; docker calls a plugin what follows the first dash.
const LINK: &str = "docker-linkspan";
/// The name of the program that a link of ours points to.
const PROGRAM: &str = "linkspan";

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
    match target(&link)? {
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

/// Removes the link of `folder`.
///
/// # Errors
/// When there is none, or it is not ours.
pub fn remove_plugin(folder: &Path) -> Result<PluginChange, PluginError> {
    let link = folder.join(LINK);
    let Some(program) = target(&link)? else { return Err(PluginError::Absent { path: link }) };
    match fs::remove_file(&link) {
        Ok(()) => Ok(PluginChange { link, program, changed: true }),
        Err(source) => Err(PluginError::Io { what: "remove", path: link, source }),
    }
}

/// Where our link points; `None` if there is nothing.
fn target(link: &Path) -> Result<Option<PathBuf>, PluginError> {
    match fs::read_link(link) {
        Ok(program) if program.file_name().is_some_and(|name| name == PROGRAM) => Ok(Some(program)),
        // `EINVAL`: it is no link.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Ok(_) => Err(PluginError::NotOurs { path: link.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            Err(PluginError::NotOurs { path: link.to_owned() })
        }
        Err(source) => Err(PluginError::Io { what: "look at", path: link.to_owned(), source }),
    }
}
