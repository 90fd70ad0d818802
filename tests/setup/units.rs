//! The units of a take-over.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::{ENABLED, OURS, UNITS, files, machine, take_over};
use crate::common::Run;

/// The values of `key` in a unit and its drop-in, in order; an empty one forgets those before it (systemd.syntax(7)).
fn values(texts: &[&str], key: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in texts.iter().flat_map(|text| text.lines()) {
        match line.strip_prefix(key).and_then(|rest| rest.strip_prefix('=')) {
            Some("") => found.clear(),
            Some(value) => found.push(value.to_owned()),
            None => {}
        }
    }
    found
}

#[test]
fn a_take_over_is_two_units_and_three_drop_ins_and_leaves_nothing_when_it_is_undone() {
    let root = machine();
    let before = files(root.path());
    take_over(root.path()).ok();
    let units = root.path().join(UNITS);
    let names: Vec<_> = OURS.iter().chain(&ENABLED).map(|name| units.join(name)).collect();
    assert_eq!(files(&units), names);
    let read = |name: &str| fs::read_to_string(units.join(name)).unwrap();

    let docker = read("docker.socket.d/linkspan-take-over.conf");
    // A list is emptied before it is filled again (systemd.socket(5)), or dockerd would listen at both paths.
    let engine = values(&["ListenStream=/run/docker.sock", &docker], "ListenStream");
    assert_eq!(engine, ["/run/docker-engine.sock"]);
    // What Linkspan is told is what dockerd and systemd are told.
    let (service, service_drop_in) = (read("linkspan.service"), read("linkspan.service.d/take-over.conf"));
    let environment = values(&[&service, &service_drop_in], "Environment");
    let environment = |name: &str| {
        environment.iter().rfind(|value| value.starts_with(name)).unwrap().split_once("=unix://").unwrap().1
    };
    assert_eq!(environment("LINKSPAN_DOCKER_HOST"), engine[0]);
    let (socket, socket_drop_in) = (read("linkspan.socket"), read("linkspan.socket.d/take-over.conf"));
    let listens = values(&[&socket, &socket_drop_in], "ListenStream");
    assert_eq!(listens, [environment("LINKSPAN_DOCKER_LISTEN"), environment("LINKSPAN_EXPORT_LISTEN")]);
    assert_eq!(listens[0], "/run/docker.sock");
    // Without the drop-ins they are at the usual addresses, which need not be told.
    assert_eq!(values(&[&socket], "ListenStream"), ["/run/linkspan/docker.sock", "/run/linkspan/export.sock"]);
    // There before a container is, whatever fails and however often, and not taken away with the service.
    assert!(socket.contains("\nBefore=docker.service\n"));
    for unit in [&socket, &service] {
        assert!(unit.contains("\nStartLimitIntervalSec=0\n"), "{unit}");
    }
    assert!(socket.contains("\nTriggerLimitIntervalSec=0\n") && service.contains("\nRuntimeDirectoryPreserve=yes\n"));

    // A second time is as the first one.
    take_over(root.path()).ok();
    assert_eq!(files(&units), names);
    take_over(root.path()).arg("--undo").ok();
    assert_eq!(files(root.path()), before);
    let output = take_over(root.path()).arg("--undo").fails();
    assert!(output.stderr.contains("nothing was taken over"), "{output}");
}

#[test]
fn units_of_a_package_stay_and_are_enabled_again_after_an_undo() {
    let root = machine();
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/systemd");
    for unit in ["linkspan.socket", "linkspan.service"] {
        fs::copy(scripts.join(unit), root.path().join("usr/lib/systemd/system").join(unit)).unwrap();
    }
    Run::new("systemctl").arg("--root").arg(root.path()).args(["enable", "linkspan.socket", "linkspan.service"]).ok();
    let before = files(root.path());
    let units = root.path().join(UNITS);
    let drop_ins = OURS.iter().filter(|name| name.contains(".d/"));
    let names: Vec<_> = drop_ins.chain(&ENABLED).map(|name| units.join(name)).collect();
    for _ in 0..2 {
        take_over(root.path()).ok();
        assert_eq!(files(&units), names);
    }
    take_over(root.path()).arg("--undo").ok();
    assert_eq!(files(root.path()), before);
}

#[test]
fn the_socket_unit_removes_an_empty_folder_that_is_in_its_place() {
    let root = machine();
    take_over(root.path()).ok();
    let drop_in = fs::read_to_string(root.path().join(UNITS).join("linkspan.socket.d/take-over.conf")).unwrap();
    let [command] = &values(&[&drop_in], "ExecStartPre")[..] else { panic!("{drop_in}") };
    let place = root.path().join("docker.sock");
    let command = command.strip_prefix("-/bin/sh -c '").unwrap().strip_suffix('\'').unwrap();
    let command = command.replace("/run/docker.sock", place.to_str().unwrap());
    let clear = || Run::new("sh").args(["-c", &command]).output();
    fs::create_dir(&place).unwrap();
    clear();
    assert!(!place.exists());
    for precious in [place.join("precious"), place.clone()] {
        fs::create_dir_all(precious.parent().unwrap()).unwrap();
        let _ = fs::remove_dir(&precious);
        fs::write(&precious, "").unwrap();
        clear();
        assert!(precious.exists());
        let _ = fs::remove_dir_all(&place);
    }
}

#[test]
fn systemd_understands_the_units() {
    let root = machine();
    take_over(root.path()).ok();
    let program = root.path().join("usr/local/bin/linkspan");
    for program in [&program, &root.path().join("bin/sh"), &root.path().join("usr/bin/dockerd")] {
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        fs::write(program, "#!/bin/sh\n").unwrap();
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let verify = Run::new("systemd-analyze").arg("verify").arg(format!("--root={}", root.path().display()));
    let output = verify.args(["linkspan.socket", "linkspan.service"]).output();
    // What it says of units that this folder lacks is none of our business.
    for line in output.stderr.lines().filter(|line| line.contains("linkspan")) {
        for word in ["Unknown", "Invalid", "Failed to parse", "ignoring", "cycle", "not executable"] {
            assert!(!line.contains(word), "{output}");
        }
    }
}
