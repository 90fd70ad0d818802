//! `linkspan setup`: builders through the door, and back.

use std::fs;
use std::path::Path;

use crate::common::{self, Builder, Context, Linkspan, Part, Run, Stack};

/// `linkspan ARGS`, without the variables of the machine's shell, for the user of `builder`.
fn linkspan<'a>(builder: &Builder<'_>, args: impl IntoIterator<Item = &'a str>) -> Run {
    common::linkspan(args).env("BUILDX_CONFIG", builder.config())
}

/// Whether a build by `builder` sends a tarball; what it builds is in the engine afterwards.
#[track_caller]
fn sends_a_tarball(builder: &Builder<'_>, context: &Context, tag: &str) -> bool {
    let output = builder.build(context.path(), ["--load", "-t", tag]).ok();
    output.stderr.contains("sending tarball")
}

#[test]
fn a_builder_that_exists_goes_through_the_door_and_back() {
    let stack = Stack::start(&[Part::Containerd, Part::Dockerd]);
    let builder = stack.container_builder(stack.docker_host(), "mine");
    let file = builder.config().join("instances/mine");
    let context = Context::new("FROM scratch\nCOPY noise /noise\n").noise("noise", 100_000, 7);
    assert!(sends_a_tarball(&builder, &context, "before"));
    let container = || {
        let show = ["inspect", "-f", "{{.Id}} {{.State.StartedAt}}", "buildx_buildkit_mine0"];
        stack.docker(show).ok().stdout
    };
    let (started, settings) = (container(), fs::read_to_string(&file).unwrap());

    let door = Linkspan::docker_door(&stack);
    let setup = |args: &[&str]| {
        let ways = ["--docker-listen", &door.address(), "--docker-host", stack.docker_host()];
        linkspan(&builder, ["setup", "buildx", "mine"]).args(ways).args(args)
    };
    let doctor = || {
        let ways = ["doctor", "--json", "--docker-listen", &door.address(), "--docker-host", stack.docker_host()];
        let report = linkspan(&builder, ways).ok().stdout;
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        report["buildx"][0].clone()
    };
    assert_eq!(doctor()["remedy"], format!("linkspan setup buildx mine --docker-listen {}", door.address()));
    let output = setup(&["MINE"]).ok();
    let line =
        format!("builder mine: node mine0 now goes to {}\n  (before: {})\n", door.address(), stack.docker_host());
    assert!(output.stdout.starts_with(&line) && output.stdout.contains("--undo"), "{output}");
    assert!(!output.stdout.contains("already"), "it was named twice: {output}");
    assert_eq!(doctor()["through"], "docker");
    let shown = builder.buildx(["inspect", "mine"]).ok();
    assert!(shown.lines().iter().any(|line| line.split_whitespace().eq(["Endpoint:", &door.address()])), "{shown}");
    assert!(!sends_a_tarball(&builder, &context, "through"));
    let output = builder.build(context.path(), ["--load", "-t", "through"]).ok();
    assert!(output.stderr.contains("CACHED"), "the cache is kept: {output}");
    assert_eq!(container(), started, "the container is the same one, and was not restarted");
    assert_eq!(stack.tagged("moby", "through:latest"), stack.tagged("moby", "before:latest"));

    setup(&["mine", "--undo"]).ok();
    assert_eq!(
        fs::read_to_string(&file).unwrap().parse::<serde_json::Value>().unwrap(),
        settings.parse::<serde_json::Value>().unwrap()
    );
    assert!(sends_a_tarball(&builder, &context, "after"));
    assert_eq!(container(), started);
}

#[test]
fn what_setup_cannot_do_is_reported_and_nothing_is_changed() {
    let stack = Stack::shared();
    let builder = stack.container_builder(stack.docker_host(), "still");
    let file = builder.config().join("instances/still");
    let before = fs::read_to_string(&file).unwrap();
    let closed = format!("unix://{}", stack.fresh_path(".sock").display());
    for (args, words) in [
        (["setup", "buildx", "absent"], "buildx has no builder `absent`"),
        (["setup", "buildx", "still"], "does not respond"),
    ] {
        let ways = ["--docker-listen", &closed, "--docker-host", stack.docker_host()];
        let output = linkspan(&builder, args).args(ways).fails();
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stderr.starts_with("linkspan: error: ") && output.stderr.contains(words), "{output}");
    }
    let output = linkspan(&builder, ["setup", "buildx"]).fails();
    assert_eq!(output.status.code(), Some(2), "{output}");
    assert_eq!(fs::read_to_string(&file).unwrap(), before);
}

/// What the take-over's units do: dockerd at another path, Linkspan at the usual one, and nobody was told.
#[test]
fn a_builder_that_knows_of_nothing_goes_through_a_door_at_the_usual_path() {
    let stack = Stack::start(&[Part::Containerd, Part::Dockerd]);
    let builder = stack.container_builder(stack.docker_host(), "unaware");
    let context = Context::new("FROM scratch\nCOPY noise /noise\n").noise("noise", 100_000, 8);
    assert!(sends_a_tarball(&builder, &context, "unaware"));
    let usual = Path::new(stack.docker_host().strip_prefix("unix://").unwrap());
    let engine = usual.with_file_name("docker-engine.sock");
    // A socket goes on being served under another name.
    fs::rename(usual, &engine).unwrap();
    let door = Linkspan::docker_door_at(&stack, &format!("unix://{}", engine.display()), usual.to_owned(), &[]);
    assert!(!sends_a_tarball(&builder, &context, "unaware"));
    drop(door);
    // The door is killed, not drained: its socket is left, and in the way.
    fs::rename(&engine, usual).unwrap();
    assert!(sends_a_tarball(&builder, &context, "unaware"));
}
