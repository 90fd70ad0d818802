//! The default doors of a daemon.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::engine::ClusterAddress;

use super::{ConfigError, Layer, Origin, Setting, UsualDoors};

/// The folder in the examples for a user who has none for sockets.
const NOWHERE: &str = "/path";

/// The variable for the folder of a user's own sockets (XDG Base Directory Specification).
const RUNTIME: &str = "XDG_RUNTIME_DIR";
/// Where systemd makes that folder, by the user's number.
pub(super) const USERS: &str = "/run/user";

/// Adds the docker door and the exporter API's door, in the runtime folder of root or of the user, if `settings` name
/// no door. The docker door is left out if another engine is configured.
pub(super) fn add(
    settings: &mut Layer,
    is_root: bool,
    users: &Path,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<(), ConfigError> {
    let doors = [
        Setting::Builder,
        Setting::BuildkitListen,
        Setting::DockerListen,
        Setting::ExportListen,
        Setting::RegistryListen,
    ];
    if doors.iter().any(|door| settings.last(*door).is_some()) {
        return Ok(());
    }
    let usual = usual(is_root, users, variable);
    if !usual.has_folder {
        return Err(ConfigError::NoRuntimeFolder);
    }
    let UsualDoors { docker, export, .. } = usual;
    let engine = settings.last(Setting::Engine).map(|given| given.text.as_str());
    let is_cluster = engine.is_some_and(ClusterAddress::is_meant);
    if !is_cluster && !matches!(engine, Some("containerd" | "layout" | "object")) {
        settings.add(Setting::DockerListen, docker, Origin::Default(Setting::DockerListen));
    }
    settings.add(Setting::ExportListen, export, Origin::Default(Setting::ExportListen));
    Ok(())
}

/// The usual doors of root, or of another user, whose folder systemd makes in `users`.
pub(super) fn usual(is_root: bool, users: &Path, variable: impl Fn(&str) -> Option<OsString>) -> UsualDoors {
    if is_root {
        return UsualDoors::default();
    }
    let folder = runtime_folder_or(variable, own_folder(users)).map(|folder| folder.join("linkspan"));
    let has_folder = folder.is_some();
    let folder = folder.unwrap_or_else(|| NOWHERE.into());
    let door = |name: &str| format!("unix://{}", folder.join(name).display());
    UsualDoors { docker: door("docker.sock"), export: door("export.sock"), buildkit: door("buildkit.sock"), has_folder }
}

/// Where the sockets of this user's daemon are looked for. A command that ssh runs may lack the variable, where pam_systemd(8) has
/// made the folder all the same.
pub(crate) fn runtime_folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    runtime_folder_or(variable, own_folder(Path::new(USERS)))
}

/// This user's folder in `users`.
fn own_folder(users: &Path) -> PathBuf {
    users.join(rustix::process::geteuid().as_raw().to_string())
}

fn runtime_folder_or(variable: impl Fn(&str) -> Option<OsString>, own: PathBuf) -> Option<PathBuf> {
    let set = variable(RUNTIME).filter(|value| !value.is_empty()).map(PathBuf::from);
    match set {
        Some(folder) => Some(folder).filter(|folder| folder.is_absolute()),
        None => Some(own).filter(|folder| folder.is_dir()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_a_users_sockets_is_found_without_its_variable() {
        let own = tempfile::tempdir().unwrap();
        let with = |value: Option<&str>, own: &Path| {
            runtime_folder_or(|name| value.filter(|_| name == RUNTIME).map(OsString::from), own.to_owned())
        };
        assert_eq!(with(Some("/mine"), own.path()), Some("/mine".into()));
        for value in [None, Some("")] {
            assert_eq!(with(value, own.path()), Some(own.path().to_owned()));
            assert_eq!(with(value, &own.path().join("absent")), None);
        }
        assert_eq!(with(Some("relative"), own.path()), None);
    }
}
