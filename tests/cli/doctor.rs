//! The text of the doctor.

use std::path::Path;

use rustix::process::Signal;

use super::{ended, linkspan, open, serve, unix};
use crate::common::{Part, Stack};

#[test]
fn the_doctor_finds_a_working_stack() {
    let stack = Stack::shared();
    let (door, closed) = (stack.fresh_path(".sock"), stack.fresh_path(".sock"));
    let daemon = open(serve(&door), &door);
    let doctor = |listen: &Path| {
        let engine = ["doctor", "--docker-host", stack.docker_host(), "--builder", stack.buildkit_host()];
        linkspan(engine).args(["--buildkit-listen", &unix(listen)])
    };
    let report: serde_json::Value = serde_json::from_str(&doctor(&door).arg("--json").ok().stdout).unwrap();
    assert_eq!(report["works"], true);
    assert_eq!(report["engine"]["kind"], "docker");
    assert_eq!(report["engine"]["namespace"], "moby");
    assert!(report["containerd"]["uuid"].as_str().is_some_and(|uuid| uuid.len() == 36), "{report}");
    assert!(report["containerd"]["version"].as_str().is_some_and(|version| version.starts_with("2.")), "{report}");
    assert!(report["containerd"]["inflate"].is_string(), "containerd's environment can be read: {report}");
    assert!(report["builders"][0]["version"].as_str().is_some_and(|version| version.starts_with("v0.")), "{report}");
    assert_eq!(report["builders"][0]["direct_export"], true);
    assert_eq!(report["builders"][0]["door_open"], true);
    daemon.signal(Signal::TERM);
    daemon.wait();

    let text = doctor(&closed).ok().stdout;
    let marks = ["ok    engine ", "ok    containerd ", "ok    unpack ", " inflate ", "ok    builder ", "note  door "];
    for part in marks {
        assert!(text.contains(part), "{part} in:\n{text}");
    }
    // Long commands go on in the next line.
    let text = text.replace(" \\\n", " ").split_whitespace().collect::<Vec<_>>().join(" ");
    let create = format!("docker buildx create --name direct --driver remote {}", unix(&closed));
    assert!(text.contains(&create) && text.contains("docker buildx build --builder direct --"), "{text}");
    assert!(!closed.exists(), "the doctor changes nothing");
}

#[test]
fn the_doctor_reports_what_is_broken() {
    let stack = Stack::start(&[Part::Containerd, Part::Dockerd, Part::Buildkitd]);
    let doctor = || {
        linkspan(["doctor", "--engine", "docker", "--docker-host", stack.docker_host()])
            .args(["--builder", stack.buildkit_host()])
    };
    doctor().ok();
    stack.kill(Part::Buildkitd);
    let output = doctor().fails();
    ended(&output, 1);
    let line = format!("no response from the builder at {}: ", stack.buildkit_host());
    let words = output.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in ["fail builder ", &line, "hint: see that buildkitd runs with `--addr ", "A direct export cannot work."]
    {
        assert!(words.contains(part), "{part} in {output}");
    }
    stack.kill(Part::Dockerd);
    let output = doctor().arg("--json").fails();
    ended(&output, 1);
    let report: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!((&report["works"], &report["engine"]), (&false.into(), &serde_json::Value::Null));
    let output = linkspan(["doctor", "--engine", "docker", "--docker-host", stack.docker_host()]).fails();
    ended(&output, 1);
    let words = output.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("no door is configured, and no Linkspan runs here"), "{output}");
}
