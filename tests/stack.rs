//! The stack that the other tests stand on: what `scripts/stack` promises.

mod common;

use common::{Context, Part, Run, Stack, alive};

const APPLICATION: &str = "FROM scratch\nCOPY a /a\n";

#[test]
fn a_plain_load_works_from_end_to_end() {
    let stack = Stack::shared();
    let builder = stack.builder(stack.buildkit_host());
    let context = Context::new(&format!("FROM {}\nRUN echo hi > /hello\n", stack.base_image()));
    builder.build(context.path(), ["--load", "-t", "plain"]).ok();
    let output = stack.run_image("plain", &["cat", "/hello"]).ok();
    assert_eq!(output.stdout, "hi\n");
    assert!(stack.tagged("moby", "plain:latest").is_some());
    stack.until_idle("moby");
}

#[test]
fn a_classic_dockerd_runs_beside_the_other() {
    let stack = Stack::start(&[Part::Dockerd, Part::DockerdClassic]);
    let info = |run: Run| run.ok().stdout.trim().to_owned();
    let format = ["info", "--format", "{{.Driver}} {{.DriverStatus}} {{.DockerRootDir}}"];
    let (usual, classic) = (info(stack.docker(format)), info(stack.docker_classic(format)));
    assert!(usual.contains("io.containerd.snapshotter.v1"), "{usual}");
    assert!(!classic.contains("io.containerd.snapshotter.v1"), "{classic}");
    let driver = classic.split(' ').next().unwrap();
    assert!(["overlay2", "vfs"].contains(&driver), "{classic}");
    assert!(classic.ends_with(stack.state().join("classic").to_str().unwrap()), "{classic}");

    let image = stack.fresh_path(".tar");
    std::fs::write(&image, []).unwrap();
    stack.docker_classic(["import", image.to_str().unwrap(), "only:classic"]).ok();
    stack.docker_classic(["image", "inspect", "only:classic"]).ok();
    stack.docker(["image", "inspect", "only:classic"]).fails();
    stack.kill(Part::DockerdClassic);
    stack.up();
    stack.docker_classic(["image", "inspect", "only:classic"]).ok();
}

#[test]
fn a_killed_part_is_started_again_with_its_data() {
    let stack = Stack::start(&[Part::Containerd, Part::Dockerd, Part::Buildkitd]);
    let builder = stack.builder(stack.buildkit_host());
    let context = Context::new(APPLICATION).file("a", "a");
    builder.build(context.path(), ["--load", "-t", "kept"]).ok();
    let before = stack.tagged("moby", "kept:latest").expect("the image was loaded");
    for part in [Part::Containerd, Part::Dockerd, Part::Buildkitd] {
        stack.kill(part);
        stack.up();
    }
    assert_eq!(stack.tagged("moby", "kept:latest"), Some(before));
    builder.build(context.path(), ["--load", "-t", "again"]).ok();
}

#[test]
fn two_stacks_do_not_meet_and_leave_nothing() {
    let (one, two) = (Stack::start(&[Part::Containerd]), Stack::start(&[Part::Containerd]));
    let (state, pid) = (one.state().to_owned(), one.pid(Part::Containerd));
    drop(one);
    assert!(!state.exists(), "{} is still there", state.display());
    assert!(!alive(pid), "containerd outlived its stack");
    two.ctr("default", ["version"]).ok();
}

#[test]
fn mistakes_are_reported_with_the_remedy() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/stack");
    let long = format!("/tmp/{}", "x".repeat(90));
    let cases: [(&[&str], &str); 5] = [
        (&["up", "--state", "relative"], "choose another with --state"),
        (&["up", "--state", &long], "choose a shorter one with --state"),
        (&["up", "--only", "podman"], "one of: containerd dockerd dockerd-classic buildkitd registry"),
        (&["up", "--state"], "scripts/stack --help"),
        (&["sideways"], "usage: scripts/stack"),
    ];
    for (args, remedy) in cases {
        let output = Run::new(script).args(args).fails();
        assert!(output.stderr.contains(remedy), "{output}");
    }
    // Nothing to run on PATH but what the script itself needs.
    let empty = tempfile::tempdir().expect("a temporary folder");
    let output = Run::new(script)
        .args(["up", "--state"])
        .arg(empty.path().join("s"))
        .env("PATH", "/usr/bin:/bin")
        .env("LINKSPAN_CACHE", empty.path())
        .fails();
    assert!(output.stderr.contains("not found on PATH: "), "{output}");
    assert!(output.stderr.contains("scripts/stack install"), "{output}");
}
