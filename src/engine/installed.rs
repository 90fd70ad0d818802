//! Whether an engine is installed on this machine, running or not.

use std::path::{Path, PathBuf};

pub(super) const DOCKER: &str = "docker";

/// Programs of engines, and what they belong to. A client alone is no engine.
const PROGRAMS: [(&str, &str); 3] =
    [(DOCKER, "dockerd"), (DOCKER, "dockerd-rootless.sh"), ("containerd", "containerd")];
/// Units of systemd.
const UNITS: [(&str, &str); 4] = [
    (DOCKER, "docker.service"),
    (DOCKER, "docker.socket"),
    (DOCKER, "snap.docker.dockerd.service"),
    ("containerd", "containerd.service"),
];
/// Where units lie (systemd.unit(5)).
const UNIT_FOLDERS: [&str; 4] =
    ["etc/systemd/system", "run/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"];
/// Where programs lie that are not on everybody's PATH.
const PROGRAM_FOLDERS: [&str; 8] =
    ["usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin", "snap/bin", "opt/bin"];
/// Sockets of engines in other places than the usual ones: k3s and RKE2, MicroK8s, Docker's of a snap.
const SOCKETS: [(&str, &str); 4] = [
    (DOCKER, "run/docker.sock"),
    ("containerd", "run/k3s/containerd/containerd.sock"),
    ("containerd", "var/snap/microk8s/common/run/containerd.sock"),
    ("containerd", "run/docker/containerd/containerd.sock"),
];

/// Where to look.
#[derive(Debug, Clone)]
pub(super) struct Places {
    root: PathBuf,
    path: Vec<PathBuf>,
    /// The folder of the user's own sockets, where rootless engines have theirs.
    runtime: Option<PathBuf>,
}

/// What says that an engine is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trace {
    pub(super) engine: &'static str,
    pub(super) path: PathBuf,
}

impl Places {
    /// Everything below `root`, as if that were `/`.
    #[cfg(test)]
    pub(super) fn below(root: &Path) -> Self {
        Self { root: root.to_owned(), path: Vec::new(), runtime: None }
    }

    pub(super) fn of_this_machine() -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        Self {
            root: "/".into(),
            path: std::env::split_paths(&path).filter(|folder| folder.is_absolute()).collect(),
            runtime: std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from),
        }
    }
}

/// What is found first of Docker, else of containerd: a program on PATH or in the usual folders, a unit, a socket.
pub(super) fn trace(places: &Places) -> Option<Trace> {
    let under = |folder: &&str| places.root.join(folder);
    let folders: Vec<_> = places.path.iter().cloned().chain(PROGRAM_FOLDERS.iter().map(under)).collect();
    let units: Vec<_> = UNIT_FOLDERS.iter().map(under).collect();
    let rootless = places.runtime.iter().map(|folder| (DOCKER, folder.join("docker.sock")));
    each(&folders, &PROGRAMS)
        .chain(each(&units, &UNITS))
        .chain(each(std::slice::from_ref(&places.root), &SOCKETS))
        .chain(rootless)
        .filter(|(_, path)| is_there(path))
        .map(|(engine, path)| Trace { engine, path })
        // Docker brings a containerd along. The first of those that are alike is kept.
        .min_by_key(|trace| trace.engine != DOCKER)
}

fn each<'a>(
    folders: &'a [PathBuf],
    names: &'static [(&'static str, &'static str)],
) -> impl Iterator<Item = (&'static str, PathBuf)> + 'a {
    folders.iter().flat_map(|folder| names.iter().map(|(engine, name)| (*engine, folder.join(name))))
}

/// A link that leads nowhere, as to a masked unit or into a container's host, counts as there.
fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn found(files: &[&str], path: &[&str]) -> Option<(&'static str, String)> {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let file = root.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        }
        let path = path.iter().map(|folder| root.path().join(folder)).collect();
        let places = Places { root: root.path().to_owned(), path, runtime: Some(root.path().join("user")) };
        trace(&places).map(|trace| (trace.engine, trace.path.strip_prefix(root.path()).unwrap().display().to_string()))
    }

    #[test]
    fn a_stopped_engine_is_seen_by_any_of_its_traces() {
        for (file, engine) in [
            ("usr/bin/dockerd", "docker"),
            ("home/me/bin/dockerd", "docker"),
            ("usr/local/bin/containerd", "containerd"),
            ("lib/systemd/system/docker.service", "docker"),
            ("etc/systemd/system/containerd.service", "containerd"),
            ("run/k3s/containerd/containerd.sock", "containerd"),
            ("user/docker.sock", "docker"),
        ] {
            assert_eq!(found(&[file], &["home/me/bin"]), Some((engine, file.to_owned())), "{file}");
        }
    }

    #[test]
    fn a_client_is_no_engine() {
        assert_eq!(found(&["usr/bin/docker", "usr/bin/ctr", "usr/bin/buildctl", "user/bus"], &["usr/bin"]), None);
    }
}
