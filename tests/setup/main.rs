//! Getting Linkspan onto a machine, and builders through the door: packages, `linkspan setup`, `scripts/take-over`; and the other scripts.
#![allow(clippy::unwrap_used, reason = "tests state what they expect by failing loudly")]

#[path = "../common/mod.rs"]
mod common;

mod builders;
mod debian;
mod fix;
mod interrupted;
mod kubernetes;
mod package;
mod plugin;
mod soak;
mod undo;
mod units;

use std::fs;
use std::path::{Path, PathBuf};

use common::Run;
use tempfile::TempDir;

/// A folder that stands for a machine whose Docker gets its socket from systemd, as that of docker.com and Debian does.
fn machine() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let units = root.path().join("usr/lib/systemd/system");
    fs::create_dir_all(&units).unwrap();
    fs::write(units.join("docker.socket"), "[Socket]\nListenStream=/run/docker.sock\nSocketGroup=docker\n").unwrap();
    let service = "[Service]\nExecStart=/usr/bin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock\n";
    fs::write(units.join("docker.service"), service).unwrap();
    root
}

fn take_over(root: &Path) -> Run {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/take-over");
    Run::new(script).arg("--root").arg(root)
}

/// Every file and link below `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

const UNITS: &str = "etc/systemd/system";
/// What a take-over writes there.
const OURS: [&str; 5] = [
    "docker.socket.d/linkspan-take-over.conf",
    "linkspan.service",
    "linkspan.service.d/take-over.conf",
    "linkspan.socket",
    "linkspan.socket.d/take-over.conf",
];
const ENABLED: [&str; 2] = ["multi-user.target.wants/linkspan.service", "sockets.target.wants/linkspan.socket"];

/// A [`machine`] with all of it below `/etc`, and a `linkspan.service` of its own.
fn machine_of_its_own() -> TempDir {
    let root = machine();
    let units = root.path().join(UNITS);
    fs::create_dir_all(&units).unwrap();
    for name in ["docker.socket", "docker.service"] {
        fs::copy(root.path().join("usr/lib/systemd/system").join(name), units.join(name)).unwrap();
    }
    fs::write(units.join("linkspan.service"), OWN).unwrap();
    root
}

const OWN: &str = "[Service]\nExecStart=/opt/linkspan serve\n";

/// The names and the contents of every file below `folder`.
fn contents(folder: &Path) -> Vec<(PathBuf, String)> {
    files(folder).into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap_or_default())).collect()
}
