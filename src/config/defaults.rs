//! The default doors of a daemon.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::engine::ClusterAddress;

use super::{ConfigError, DEFAULT_DOCKER_LISTEN, DEFAULT_EXPORT_LISTEN, DEFAULT_LISTEN, Layer, Origin, Setting};

/// The variable for the folder of a user's own sockets (XDG Base Directory Specification).
const RUNTIME: &str = "XDG_RUNTIME_DIR";
/// Where systemd makes that folder, by the user's number.
const USERS: &str = "/run/user";

/// Adds the docker door and the exporter API's door, in the runtime folder of root or of the user, if `settings` name
/// no door. The docker door is left out if another engine is configured.
pub(super) fn add(
    settings: &mut Layer,
    is_root: bool,
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
    let [docker, export] = if is_root {
        [DEFAULT_DOCKER_LISTEN, DEFAULT_EXPORT_LISTEN].map(str::to_owned)
    } else {
        let folder = runtime(variable).ok_or(ConfigError::NoRuntimeFolder)?;
        ["docker.sock", "export.sock"].map(|name| format!("unix://{}", folder.join(name).display()))
    };
    let engine = settings.last(Setting::Engine).map(|given| given.text.as_str());
    let is_cluster = engine.is_some_and(ClusterAddress::is_meant);
    if !is_cluster && !matches!(engine, Some("containerd" | "layout" | "object")) {
        settings.add(Setting::DockerListen, docker, Origin::Default(Setting::DockerListen));
    }
    settings.add(Setting::ExportListen, export, Origin::Default(Setting::ExportListen));
    Ok(())
}

/// The default address of the docker door.
pub(super) fn docker_listen(is_root: bool, variable: impl Fn(&str) -> Option<OsString>) -> String {
    own(is_root, variable, "docker.sock").unwrap_or_else(|| DEFAULT_DOCKER_LISTEN.to_owned())
}

/// The default address of a single builder's door.
pub(super) fn buildkit_listen(is_root: bool, variable: impl Fn(&str) -> Option<OsString>) -> String {
    own(is_root, variable, "buildkit.sock").unwrap_or_else(|| DEFAULT_LISTEN.to_owned())
}

/// The socket `name` of a user other than root.
fn own(is_root: bool, variable: impl Fn(&str) -> Option<OsString>, name: &str) -> Option<String> {
    let folder = (!is_root).then(|| runtime(variable)).flatten()?;
    Some(format!("unix://{}", folder.join(name).display()))
}

fn runtime(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = PathBuf::from(variable(RUNTIME)?);
    // The specification says to ignore a relative path.
    folder.is_absolute().then(|| folder.join("linkspan"))
}

/// Where the sockets of this user's daemon are looked for. A command that ssh runs may lack the variable, where pam_systemd(8) has
/// made the folder all the same.
pub(crate) fn runtime_folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let own = || Path::new(USERS).join(rustix::process::geteuid().as_raw().to_string());
    runtime_folder_or(variable, own())
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
