//! `-o type=linkspan`: what may be asked of it, and what is said where it cannot be had.

use crate::{
    both_ways::BothWays,
    common::{Context, Linkspan, Stack},
};

/// A build that takes a command to run, so that it shows whether it was begun.
fn context(stack: &Stack, theme: &str) -> Context {
    Context::new(&format!("FROM {}\nRUN echo it was built: {theme}\n", stack.base_image()))
}

#[test]
fn attributes_are_refused_before_anything_is_built() {
    let stack = Stack::shared();
    let sides = BothWays::of(stack);
    let context = context(stack, "refused");
    for (attribute, expected) in [
        ("nam=x", "does not know `nam`; hint: use attestation-inline, "),
        ("push=true", "put `--push`"),
        ("store=false", "leave it out"),
    ] {
        let output = format!("type=linkspan,name=refused:1,{attribute}");
        let output = sides.through().builder.build(context.path(), ["-o", &output]).fails();
        assert!(output.stderr.contains(expected), "{output}");
        assert!(!output.stderr.contains("it was built"), "{output}");
    }
}

#[test]
fn what_the_image_exporter_knows_is_done() {
    let sides = BothWays::of(Stack::shared());
    let context = Context::new("FROM scratch\nCOPY a /a\n").noise("a", 100_000, 9);
    let output = "type=linkspan,name=known:1,compression=zstd,force-compression=true,compression-level=3,\
                  oci-mediatypes=true,annotation.note=x,push=false,rewrite-timestamp=true,source-date-epoch=0";
    let side = sides.through();
    side.check_way(&side.builder.build(context.path(), ["-o", output]).ok());
    let manifest = side.document(&side.digest("known:1"));
    assert_eq!(manifest["annotations"]["note"], "x");
    assert_eq!(manifest["layers"][0]["mediaType"], "application/vnd.oci.image.layer.v1.tar+zstd");
}

#[test]
fn a_tag_that_does_not_arrive_is_reported() {
    let sides = BothWays::of(Stack::shared());
    let context = Context::new("FROM scratch\nCOPY a /a\n").file("a", "tagged in vain");
    let side = sides.through();
    let output = side.builder.build(context.path(), ["-o", "type=linkspan", "-t", "in-vain:1"]).ok();
    assert!(output.stderr.contains("the image gets no name") && output.stderr.contains("name=NAME"), "{output}");
    assert_eq!(side.stack.tagged("moby", "in-vain:1"), None);
    let output = side.builder.build(context.path(), ["-o", "type=linkspan,name=in-vain:1"]).ok();
    assert!(!output.stderr.contains("no name"), "{output}");
    // An image without a name is what `--load` without a tag is for.
    let output = side.builder.build(context.path(), ["--load"]).ok();
    assert!(!output.stderr.contains("no name"), "{output}");
}

#[test]
fn names_that_are_not_allowed_are_refused_before_anything_is_built() {
    let stack = Stack::shared();
    let context = context(stack, "denied");
    let engine = ["--engine", "docker", "--docker-host", stack.docker_host(), "--allow-name", "docker.io/library/ci-*"];
    let linkspan = Linkspan::start(stack, &engine, &[stack.buildkit_host()]);
    let builder = stack.builder(&linkspan.address());
    for args in [
        &["--load", "-t", "production"][..],
        &["--load", "-t", "ci-1", "-t", "production"],
        &["-o", "type=linkspan,name=production"],
        &["-o", "type=linkspan,name=*,image.name=production"],
        &["-o", "type=linkspan,name=ci-1", "-o", "type=docker,name=production"],
    ] {
        let output = builder.build(context.path(), args.iter().copied()).fails();
        assert!(output.stderr.contains("docker.io/library/production:latest` is not allowed here"), "{output}");
        assert!(!output.stderr.contains("it was built"), "{output}");
    }
    builder.build(context.path(), ["--load", "-t", "ci-1"]).ok();
    // Others are nothing to it.
    builder.build(context.path(), ["-o", "type=image,name=production"]).ok();
}
