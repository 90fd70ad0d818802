//! Loads that end inside their build: the builder's history says what became of them.

use std::path::Path;

use rustix::process::Signal;

use crate::{
    both_ways::BothWays,
    common::{Builder, Context, Linkspan, Part, Stack, until},
};

/// The builds of the Dockerfile in `context` that the builder's history has, each with its status, the oldest first.
fn history(builder: &Builder<'_>, context: &Path) -> Vec<String> {
    let own = context.file_name().unwrap().to_str().unwrap();
    let ended = |rows: &Vec<String>| !rows.is_empty() && rows.iter().all(|row| row != "Running");
    // The builder writes a record after its response.
    let look = || {
        let rows = builder.buildx(["history", "ls", "--no-trunc", "--format", "{{.Ref}} {{.Status}}"]).ok().lines();
        let of_context = |row: &&String| {
            let reference = row.split(' ').next().unwrap();
            let inspected = builder.buildx(["history", "inspect", reference, "--format", "{{.Context}}"]).output();
            inspected.stdout.contains(own)
        };
        let statuses = rows.iter().rev().filter(of_context).map(|row| row.rsplit(' ').next().unwrap().to_owned());
        statuses.collect::<Vec<_>>()
    };
    until("the history has the build", look, ended)
}

#[test]
fn a_load_that_fails_is_a_failed_build_in_the_builders_history() {
    let stack = Stack::shared();
    let sides = BothWays::of(stack);
    let side = sides.through();
    let context = Context::new("FROM scratch\nCOPY a /a\n").file("a", "finalized");
    side.builder.build(context.path(), ["--load", "-t", "finalized:1"]).ok();
    let failed = side.builder.build(context.path(), ["-o", "type=linkspan,name=Bad Name"]).fails();
    assert!(failed.stderr.contains("failed to solve: failed to parse Bad Name"), "{failed}");
    assert_eq!(history(&side.builder, context.path()), ["Completed", "Error"], "{}", sides.linkspan.log());
    stack.docker(["image", "rm", "finalized:1"]).ok();
}

#[test]
fn an_engine_that_is_gone_fails_the_build_in_its_history_too() {
    let stack = Stack::start(&[Part::Containerd, Part::Buildkitd]);
    let linkspan = Linkspan::containerd(&stack, "finalized");
    let builder = stack.builder(&linkspan.address());
    let context = Context::new("FROM scratch\nCOPY a /a\n").file("a", "gone");
    let args = ["-o", "type=linkspan,name=finalized:1"];
    let output = builder.build(context.path(), args).ok();
    // Among the builder's own progress, where the load runs.
    assert!(output.stderr.contains("importing to containerd"), "{output}");
    stack.kill(Part::Containerd);
    let failed = builder.build(context.path(), args).fails();
    assert!(failed.stderr.contains("failed to solve: linkspan: "), "{failed}");
    assert_eq!(history(&builder, context.path()), ["Completed", "Error"], "{}", linkspan.log());
    stack.up();
    builder.build(context.path(), args).ok();
    assert_eq!(history(&builder, context.path()), ["Completed", "Error", "Completed"], "{}", linkspan.log());
}

#[test]
fn a_load_that_is_interrupted_is_no_completed_build() {
    let stack = Stack::start(&[Part::Containerd, Part::Buildkitd]);
    let linkspan = Linkspan::containerd(&stack, "interrupted");
    let builder = stack.builder(&linkspan.address());
    for seed in 1..6 {
        let context = Context::new("FROM scratch\nCOPY noise /noise\n").noise("noise", 60 << 20, seed);
        let running =
            builder.build(context.path(), ["--progress", "plain", "-o", "type=linkspan,name=interrupted:1"]).spawn();
        until("the load to begin", || running.stderr(), |output| output.contains("importing to containerd"));
        running.signal(Signal::INT);
        let output = running.wait();
        let is_there = stack.image_of("interrupted", "docker.io/library/interrupted:1").is_some();
        // The whole image may have been quicker than the signal.
        let expected = if is_there { "Completed" } else { "Error" };
        assert_eq!(history(&builder, context.path()), [expected], "{output}\n{}", linkspan.log());
        if is_there {
            stack.ctr("interrupted", ["images", "delete", "--sync", "docker.io/library/interrupted:1"]).ok();
        }
    }
}
