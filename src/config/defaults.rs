//! The default doors of a daemon.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::engine::ClusterAddress;

use super::{ConfigError, DEFAULT_DOCKER_LISTEN, DEFAULT_EXPORT_LISTEN, Layer, Origin, Setting};

/// The variable for the folder of a user's own sockets (XDG Base Directory Specification).
const RUNTIME: &str = "XDG_RUNTIME_DIR";

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
    let folder = (!is_root).then(|| runtime(variable)).flatten();
    folder.map_or_else(
        || DEFAULT_DOCKER_LISTEN.to_owned(),
        |folder| format!("unix://{}", folder.join("docker.sock").display()),
    )
}

fn runtime(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = PathBuf::from(variable(RUNTIME)?);
    // The specification says to ignore a relative path.
    folder.is_absolute().then(|| folder.join("linkspan"))
}
