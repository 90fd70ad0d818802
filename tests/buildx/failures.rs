//! Builds that fail: the same exit code and the same words, with the excerpt of the Dockerfile.

use crate::{
    both_ways::{BothWays, messages},
    common::{Context, Run, Stack},
};

/// Runs a build that must fail on both sides, and returns what both printed.
fn fails(context: &Context, args: &[&str]) -> String {
    let sides = BothWays::of(Stack::shared());
    let (code, words) = sides.compare(|side| {
        let output = side.builder.build(context.path(), ["--load", "-t", "failing"]).args(args).fails();
        (output.status.code(), messages(&output))
    });
    assert_eq!(code, Some(1));
    words.join("\n")
}

#[test]
fn a_command_that_fails() {
    let base = Stack::shared().base_image();
    let words = fails(&Context::new(&format!("FROM {base}\nRUN echo some words; exit 3\n")), &[]);
    assert!(words.contains("some words"), "{words}");
    assert!(words.contains("2 | >>> RUN echo some words; exit 3"), "{words}");
    assert!(words.contains("did not complete successfully: exit code: 3"), "{words}");
}

#[test]
fn an_instruction_that_does_not_exist() {
    let words = fails(&Context::new("FROM scratch\nCOPPY a /a\n"), &[]);
    assert!(words.contains("2 | >>> COPPY a /a"), "{words}");
    assert!(words.contains("did you mean COPY?"), "{words}");
}

#[test]
fn a_file_that_is_not_there() {
    let words = fails(&Context::new("FROM scratch\nCOPY missing /a\n"), &[]);
    assert!(words.contains("2 | >>> COPY missing /a"), "{words}");
    assert!(words.contains("\"/missing\": not found"), "{words}");
}

#[test]
fn a_base_image_that_does_not_exist() {
    let words = fails(&Context::new(&format!("FROM {}/none:1\n", Stack::shared().registry())), &[]);
    assert!(words.contains("none:1: not found"), "{words}");
}

#[test]
fn a_target_that_does_not_exist() {
    let words = fails(&Context::new("FROM scratch AS real\nCOPY Dockerfile /d\n"), &["--target", "other"]);
    assert!(words.contains("target stage \"other\" could not be found"), "{words}");
}

#[test]
fn a_tag_that_is_no_name() {
    let context = Context::new("FROM scratch\nCOPY Dockerfile /d\n");
    let words = fails(&context, &["-t", "Bad Name"]);
    assert!(words.contains("invalid tag \"Bad Name\""), "{words}");
}

#[test]
fn an_exporter_that_does_not_exist() {
    let context = Context::new("FROM scratch\nCOPY Dockerfile /d\n");
    let sides = BothWays::of(Stack::shared());
    let words = sides.compare(|side| {
        let output = side.builder.build(context.path(), ["-o", "type=nonesuch"]).fails();
        (output.status.code(), messages(&output))
    });
    assert!(words.1.join("\n").contains("exporter \"nonesuch\" could not be found"), "{words:?}");
}

#[test]
fn warnings_and_checks() {
    let context = Context::new("from scratch as Mixed\nCOPY Dockerfile /d\nMAINTAINER someone\n");
    let sides = BothWays::of(Stack::shared());
    let words = sides.compare(|side| {
        let built = side.builder.build(context.path(), ["--load", "-t", "warned"]).ok();
        let checked = side.builder.build(context.path(), ["--check"]).output();
        // Warnings come in no order.
        let plain = |line: &str| line.replace("\u{1b}[33m", "").replace("\u{1b}[0m", "");
        let mut words: Vec<_> =
            messages(&built).iter().map(String::as_str).chain(checked.stdout.lines()).map(plain).collect();
        words.sort();
        (words.join("\n"), checked.status.code())
    });
    assert!(words.0.contains("MaintainerDeprecated"), "{words:?}");
}

#[test]
fn a_client_that_is_not_buildx() {
    // buildctl's exit code and words, for a frontend that fails.
    let stack = Stack::shared();
    let sides = BothWays::of(stack);
    let context = Context::new("FROM scratch\nCOPY missing /a\n");
    let folder = context.path().to_str().unwrap();
    let (context_arg, dockerfile_arg) = (format!("context={folder}"), format!("dockerfile={folder}"));
    let args = [
        "build",
        "--progress",
        "plain",
        "--frontend",
        "dockerfile.v0",
        "--local",
        &context_arg,
        "--local",
        &dockerfile_arg,
    ];
    let build = |address: &str| -> Run { stack.buildctl(["--addr", address]).args(args) };
    let (through, direct) = (build(&sides.linkspan.address()).fails(), build(stack.buildkit_host()).fails());
    assert_eq!((through.status.code(), messages(&through)), (direct.status.code(), messages(&direct)));
    assert!(direct.stderr.contains(">>> COPY missing /a"), "{direct}");
}
