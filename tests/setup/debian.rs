//! The Debian package in a fresh Debian with systemd: `scripts/try-package`, with small numbers. And systemd's own program for
//! socket activation, without a systemd.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use crate::common::{self, Run, Stack, unix, until};

/// Two minutes on an idle machine.
const LIMIT: Duration = Duration::from_secs(840);

#[test]
#[ignore = "it makes a Debian and boots it: by itself, with --ignored, where debootstrap and systemd-nspawn are"]
fn an_installation_is_restarted_upgraded_taken_over_and_removed_and_nobody_is_refused() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/try-package");
    let program = ["--binary", env!("CARGO_BIN_EXE_linkspan"), "--restarts", "2", "--clients", "6"];
    let output = Run::new(script).args(program).timeout(LIMIT).ok();
    let figures: serde_json::Value = serde_json::from_str(output.lines().last().unwrap()).unwrap();
    for part in ["restarted", "upgraded", "taken_over"] {
        let part = &figures[part];
        assert_eq!((&part["refused"], &part["lost"]), (&0.into(), &0.into()), "{output}");
        // docker's client, pings, connections that are kept, streams in both directions, and exports.
        assert_eq!(part["requests"].as_object().map(|kinds| kinds.len()), Some(6), "{output}");
    }
}

#[test]
fn the_first_client_of_a_socket_starts_the_daemon() {
    let stack = Stack::shared();
    let (docker, export) = (stack.fresh_path("-d.sock"), stack.fresh_path("-e.sock"));
    let run = stack.run("systemd-socket-activate").arg("-l").arg(&docker).arg("-l").arg(&export);
    let run = run.args(["--fdname=docker:export", env!("CARGO_BIN_EXE_linkspan"), "serve", "--engine", "docker"]);
    let systemd = run.args(["--docker-host", stack.docker_host()]).without_env("BUILDKIT_HOST").spawn();
    until("the sockets", || docker.exists() && export.exists(), |there| *there);
    assert!(!systemd.stderr().contains("listening on unix"), "nobody has asked yet: {}", systemd.stderr());
    stack.docker(["version"]).env("DOCKER_HOST", unix(&docker)).ok();
    common::linkspan(["ps", "--to", &unix(&export)]).ok();
    systemd.signal(Signal::TERM);
    let output = systemd.wait();
    assert!(output.status.success() && output.stderr.contains("draining"), "{output}");
    assert!(docker.exists() && export.exists(), "who made them removes them");
}
