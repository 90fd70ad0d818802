//! Getting builders through the door: `linkspan setup`, `scripts/take-over`.
#![allow(clippy::unwrap_used, reason = "tests state what they expect by failing loudly")]

mod common;

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

#[test]
fn a_take_over_is_a_unit_and_two_drop_ins_and_leaves_nothing_when_it_is_undone() {
    let root = machine();
    let before = files(root.path());
    take_over(root.path()).ok();
    let units = root.path().join("etc/systemd/system");
    let names = [
        "docker.socket.d/linkspan-take-over.conf",
        "linkspan.service",
        "linkspan.service.d/take-over.conf",
        "multi-user.target.wants/linkspan.service",
    ];
    assert_eq!(files(&units), names.map(|name| units.join(name)));

    // A list is emptied before it is filled again (systemd.socket(5)), or dockerd would listen at both paths.
    let docker = fs::read_to_string(units.join(names[0])).unwrap();
    let listens: Vec<_> = docker.lines().filter_map(|line| line.strip_prefix("ListenStream=")).collect();
    let [nothing, engine] = listens[..] else { panic!("{docker}") };
    assert_eq!(nothing, "");
    // What Linkspan is told is what dockerd is told.
    let linkspan = fs::read_to_string(units.join(names[2])).unwrap();
    assert!(linkspan.contains(&format!("LINKSPAN_DOCKER_HOST=unix://{engine}\n")), "{linkspan}");
    assert!(linkspan.contains("LINKSPAN_DOCKER_LISTEN=unix:///run/docker.sock\n"), "{linkspan}");

    take_over(root.path()).arg("--undo").ok();
    assert_eq!(files(root.path()), before);
    let output = take_over(root.path()).arg("--undo").fails();
    assert!(output.stderr.contains("nothing was taken over"), "{output}");
}

#[test]
fn a_docker_that_does_not_get_its_socket_from_systemd_is_left_alone() {
    let root = machine();
    let service = root.path().join("usr/lib/systemd/system/docker.service");
    fs::write(&service, "[Service]\nExecStart=/usr/bin/dockerd -H unix:///var/run/docker.sock\n").unwrap();
    let before = files(root.path());
    let output = take_over(root.path()).fails();
    assert!(output.stderr.contains("no fd:// in ExecStart") && output.stderr.contains("to mend it: "), "{output}");

    fs::remove_file(root.path().join("usr/lib/systemd/system/docker.socket")).unwrap();
    let output = take_over(root.path()).fails();
    assert!(output.stderr.contains("there is no docker.socket"), "{output}");
    assert_eq!(files(root.path()), &before[..1]);
}
