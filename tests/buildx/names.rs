//! Names that are not given with `-t`.

use crate::{
    both_ways::{BothWays, metadata},
    common::{Context, Stack, text},
};

#[test]
fn the_wildcard_resolves_to_all_names_that_the_frontend_chose() {
    let stack = Stack::shared();
    let sides = BothWays::of(stack);
    let context = Context::new("FROM scratch\nCOPY a /a\n").file("a", "wildcard");
    for (names, expected) in [
        ("image.name=wild:1", &["docker.io/library/wild:1"][..]),
        ("\"image.name=wild:1,user/wild\"", &["docker.io/library/wild:1", "docker.io/user/wild:latest"]),
    ] {
        for kind in ["docker", "linkspan"] {
            let output = format!("type={kind},name=*,{names}");
            let file = stack.fresh_path(".json");
            let through = sides.through();
            through.builder.build(context.path(), ["-o", &output, "--metadata-file", text(&file)]).ok();
            let written = metadata(&file);
            assert_eq!(written["image.name"], expected.join(","), "{output}");
            for name in expected {
                assert_eq!(stack.image(name).as_deref(), written["containerimage.digest"].as_str(), "{name}");
                stack.docker(["image", "rm", name]).ok();
            }
            if kind == "docker" {
                let direct = stack.fresh_path(".json");
                let args = ["-o", &output, "--metadata-file", text(&direct)];
                sides.direct().builder.build(context.path(), args).ok();
                assert_eq!(metadata(&direct)["image.name"], written["image.name"]);
            }
        }
    }
}

#[test]
fn each_wildcard_has_its_own_names() {
    let stack = Stack::shared();
    let sides = BothWays::of(stack);
    let context = Context::new("FROM scratch\nCOPY a /a\n").file("a", "own wildcard");
    let args = [
        "-o",
        "type=linkspan,name=*,\"image.name=first:1,first:2\"",
        "-o",
        "type=linkspan,name=given:1",
        "-o",
        "type=linkspan,name=*,image.name=third:1",
        "-o",
        "type=image,name=pushed-nowhere:1",
    ];
    sides.through().builder.build(context.path(), args).ok();
    for name in ["first:1", "first:2", "given:1", "third:1"] {
        sides.through().digest(name);
        stack.docker(["image", "rm", name]).ok();
    }
    assert_eq!(stack.tagged("moby", "pushed-nowhere:1"), None);
}

#[test]
fn names_that_are_none_are_refused_as_without_us() {
    let sides = BothWays::of(Stack::shared());
    let context = Context::new("FROM scratch\nCOPY a /a\n").file("a", "no names");
    for (name, expected) in
        [("name=*", "failed to parse *"), ("\"name=a,\"", "failed to parse :"), ("\"name=a, b\"", "failed to parse  b")]
    {
        sides.compare(|side| {
            let output = side.builder.build(context.path(), ["-o", &format!("type=docker,{name}")]).fails();
            assert!(output.stderr.contains(expected), "{output}");
            output.status.code()
        });
    }
}

/// The metadata is BuildKit's: it repeats what is repeated. The engine gets each name once.
#[test]
fn a_name_that_is_given_twice_is_reported_as_without_us() {
    let stack = Stack::shared();
    let sides = BothWays::of(stack);
    let context = Context::new("FROM scratch\nCOPY a /a\n").file("a", "named twice");
    for args in [&["--load", "-t", "twice:1", "-t", "twice:1"][..], &["-o", "type=docker,\"name=twice:1,twice:1\""]] {
        let names = sides.compare(|side| {
            let file = stack.fresh_path(".json");
            side.builder.build(context.path(), args.iter().copied()).args(["--metadata-file", text(&file)]).ok();
            assert!(stack.tagged("moby", "twice:1").is_some());
            stack.docker(["image", "rm", "twice:1"]).ok();
            metadata(&file)["image.name"].clone()
        });
        assert_eq!(names, "docker.io/library/twice:1,docker.io/library/twice:1", "{args:?}");
    }
}
