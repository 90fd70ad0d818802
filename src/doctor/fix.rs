//! What the doctor mends by itself: only what Linkspan has made, or what is in the place of a socket of its own, and only what
//! nobody uses.
//!
//! A socket file that nobody listens at is removed under the lock that a starting daemon takes. A builder goes back to the
//! address that `linkspan setup buildx` has noted, and only if its door is closed. Docker contexts, daemons' settings and
//! units are the user's.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;
use serde::Serialize;

use crate::buildx::Store;
use crate::config::Config;
use crate::daemon::{is_stale, remove_stale};
use crate::net::{Address, ServerCertificate};
use crate::running::SearchFolders;
use crate::setup::{self, SetupError, Stranded};

/// The mode of a file with a key.
const PRIVATE: u32 = 0o600;

/// Something that can be mended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Repair {
    /// A socket file whose process is gone.
    StaleSocket {
        /// The file.
        path: PathBuf,
    },
    /// An empty folder where a socket of Linkspan's belongs: dockerd makes one for a container that mounts what is not there.
    EmptyFolder {
        /// The folder.
        path: PathBuf,
    },
    /// The key of Linkspan's own authority, which other users may read.
    OpenKey {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A builder of buildx that was sent through a door at which nobody listens.
    StrandedBuilder {
        /// The builder.
        builder: String,
        /// The door.
        door: String,
        /// Where it goes back to.
        to: String,
    },
}

/// Why something was not mended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepairError {
    /// The system refused, or things are no longer as they were.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The builder was not changed.
    #[error(transparent)]
    Setup(#[from] SetupError),
}

impl Repair {
    /// What is wrong.
    pub fn found(&self) -> String {
        match self {
            Self::StaleSocket { path } => format!("nobody listens at {}", path.display()),
            Self::EmptyFolder { path } => format!("{} is an empty folder, where a socket belongs", path.display()),
            Self::OpenKey { path, mode } => format!("{} has a key, and its mode is {mode:o}", path.display()),
            Self::StrandedBuilder { builder, door, .. } => {
                format!("builder {builder} goes to {door}, where nobody listens")
            }
        }
    }

    /// What is done about it.
    pub fn action(&self) -> String {
        match self {
            Self::StaleSocket { path } => format!("remove {}", path.display()),
            Self::EmptyFolder { path } => format!("rmdir {}", path.display()),
            Self::OpenKey { path, .. } => format!("chmod {PRIVATE:o} {}", path.display()),
            Self::StrandedBuilder { builder, to, .. } => format!("send builder {builder} back to {to}"),
        }
    }

    /// What was done about it, once it is.
    pub fn done(&self) -> String {
        match self {
            Self::StaleSocket { path } => format!("removed {}", path.display()),
            Self::EmptyFolder { path } => format!("removed the folder {}", path.display()),
            Self::OpenKey { path, .. } => format!("set the mode of {} to {PRIVATE:o}", path.display()),
            Self::StrandedBuilder { builder, to, .. } => format!("sent builder {builder} back to {to}"),
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// When the system refuses, or it is no longer as it was found: then it stays as it is.
    pub fn apply(&self, users: Option<&Store>) -> Result<(), RepairError> {
        let failed = |path: &PathBuf| {
            let path = path.clone();
            move |source| RepairError::Io { path, source }
        };
        match self {
            Self::StaleSocket { path } => remove_stale(path).map_err(failed(path)),
            // It fails for one that is not empty.
            Self::EmptyFolder { path } => fs::remove_dir(path).map_err(failed(path)),
            Self::OpenKey { path, .. } => {
                fs::set_permissions(path, fs::Permissions::from_mode(PRIVATE)).map_err(failed(path))
            }
            Self::StrandedBuilder { builder, door, to } => {
                let store = users.ok_or(SetupError::Homeless)?;
                setup::back(store, builder, &door.parse().map_err(SetupError::Door)?, to)?;
                Ok(())
            }
        }
    }
}

/// What can be mended on this machine, for the user with the builders `users`; and why some of these could not be looked at. Nothing
/// is changed.
pub fn repairs(config: &Config, folders: &SearchFolders, users: Option<&Store>) -> (Vec<Repair>, Vec<SetupError>) {
    let places = doors(config).chain(folders.sockets().into_iter().map(|(address, _)| address));
    let paths: BTreeSet<_> = places
        .filter_map(|address| match address {
            Address::Unix(path) => Some(path),
            Address::Tcp { .. } => None,
        })
        .collect();
    let mut found: Vec<_> = paths.iter().filter_map(|path| at(path)).collect();
    found.extend(key(config));
    let (stranded, unread) = users.map(setup::stranded).unwrap_or_default();
    for Stranded { builder, door, to } in stranded {
        found.push(Repair::StrandedBuilder { builder, door: door.to_string(), to });
    }
    (found, unread)
}

/// Where the doors of the configuration listen.
fn doors(config: &Config) -> impl Iterator<Item = Address> {
    let docker = config.docker_door.iter().map(|door| door.listen.clone());
    let registry = config.registry_door.iter().map(|door| door.listen.clone());
    let builders = config.builders.iter().map(|builder| builder.listen.clone());
    docker.chain(config.export_listen.clone()).chain(registry).chain(config.metrics_listen.clone()).chain(builders)
}

/// What is wrong where a socket belongs.
fn at(path: &Path) -> Option<Repair> {
    let found = fs::symlink_metadata(path).ok()?;
    if found.is_dir() {
        let is_empty = fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
        return is_empty.then(|| Repair::EmptyFolder { path: path.to_owned() });
    }
    is_stale(path).then(|| Repair::StaleSocket { path: path.to_owned() })
}

/// The key of an authority of our own that is open to others.
fn key(config: &Config) -> Option<Repair> {
    let ServerCertificate::Generated { folder, .. } = &config.security.tls.certificate else { return None };
    let path = ServerCertificate::secret(folder);
    let found = fs::symlink_metadata(&path).ok()?;
    let (mode, is_ours) = (found.mode() & 0o777, found.is_file() && found.uid() == geteuid().as_raw());
    (is_ours && mode & 0o077 != 0).then_some(Repair::OpenKey { path, mode })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_what_nobody_uses_is_found_and_only_that_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        drop(UnixListener::bind(place("stale")).unwrap());
        let live = UnixListener::bind(place("live")).unwrap();
        fs::create_dir(place("empty")).unwrap();
        fs::create_dir_all(place("full/of")).unwrap();
        fs::write(place("file"), "").unwrap();
        std::os::unix::fs::symlink("stale", place("link")).unwrap();
        for name in ["live", "full", "file", "absent", "link"] {
            assert_eq!(at(&place(name)), None, "{name}");
        }
        let stale = at(&place("stale")).unwrap();
        assert_eq!(stale, Repair::StaleSocket { path: place("stale") });
        assert_eq!(at(&place("empty")), Some(Repair::EmptyFolder { path: place("empty") }));

        // Between the look and the repair somebody has come.
        let late = Repair::StaleSocket { path: place("live") };
        assert!(late.apply(None).unwrap_err().to_string().contains("another program is listening"));
        assert!(Repair::EmptyFolder { path: place("full") }.apply(None).is_err());
        assert!(Repair::StaleSocket { path: place("file") }.apply(None).is_err());
        stale.apply(None).unwrap();
        assert!(!place("stale").exists() && place("live").exists() && place("file").exists());
        assert!(!place("stale.lock").exists());
        drop(live);
    }
}
