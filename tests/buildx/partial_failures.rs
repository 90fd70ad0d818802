//! Builds of which one output fails: what can be loaded is, and the build fails for its own reason.

use crate::{
    both_ways::{BothWays, messages},
    common::{Context, Part, Stack, text},
};

/// Where no registry listens.
const NOWHERE: &str = "127.0.0.1:1";

/// Builds with `args` on both sides; returns whether the engine has `name`, and the words.
#[track_caller]
fn build(theme: &str, name: &str, args: &[&str]) -> (bool, String) {
    let sides = BothWays::of(Stack::shared());
    let context = Context::new("FROM scratch\nCOPY a /a\nCOPY big /big\n").file("a", theme).noise("big", 300_000, 5);
    let (code, loaded, words) = sides.compare(|side| {
        let output = side.builder.build(context.path(), ["--provenance=false"]).args(args).fails();
        let loaded = side.stack.image(name);
        if loaded.is_some() {
            side.stack.docker(["image", "rm", name]).ok();
        }
        // The request that a registry refused is for any of the blobs.
        let words: Vec<_> =
            messages(&output).iter().map(|line| line.split("sha256:").next().unwrap().to_owned()).collect();
        (output.status.code(), loaded, words.join("\n"))
    });
    assert_eq!(code, Some(1));
    (loaded.is_some(), words)
}

#[test]
fn a_registry_refuses_the_push() {
    let name = format!("{NOWHERE}/refused:1");
    let (loaded, words) = build("load and push", &name, &["--load", "--push", "-t", &name]);
    assert!(loaded && words.contains("failed to push"), "{words}");
}

#[test]
fn the_order_of_outputs_changes_nothing() {
    let push = format!("type=image,name={NOWHERE}/refused:1,push=true");
    let load = "type=docker,name=in-order:1";
    for outputs in [["-o", &push, "-o", load], ["-o", load, "-o", &push]] {
        let (loaded, words) = build("in order", "docker.io/library/in-order:1", &outputs);
        assert!(loaded && words.contains("failed to push"), "{words}");
    }
}

#[test]
fn a_push_fails_beside_a_file() {
    let stack = Stack::shared();
    let push = format!("type=image,name={NOWHERE}/refused:1,push=true");
    let local = format!("type=local,dest={}", text(&stack.fresh_path("-out")));
    let args = ["-o", &local, "-o", "type=docker,name=beside-file:1", "-o", &push];
    let (loaded, words) = build("three", "docker.io/library/beside-file:1", &args);
    assert!(loaded && words.contains("failed to push"), "{words}");
}

#[test]
fn a_cache_cannot_be_written() {
    let cache = format!("type=registry,ref={NOWHERE}/cache:1");
    let name = "docker.io/library/uncached:1";
    let (loaded, words) = build("cache", name, &["--load", "-t", "uncached:1", "--cache-to", &cache]);
    assert!(loaded && words.contains("exporting cache to registry"), "{words}");
}

/// Builds through Linkspan alone: directly it is a race whether the tarball arrives.
#[track_caller]
fn loaded(theme: &str, outputs: &[&str], expected: &str) -> bool {
    let stack = Stack::shared();
    let sides = BothWays::of(stack);
    let dockerfile = format!("FROM {}\nRUN echo {theme} >/a\nCOPY big /big\n", stack.base_image());
    let context = Context::new(&dockerfile).noise("big", 3 << 20, 5);
    let name = format!("{theme}:1");
    let load = format!("type=docker,name={name}");
    let output = sides.through().builder.build(context.path(), ["-o", &load]).args(outputs).fails();
    assert!(output.stderr.contains(expected), "{output}\n{}", sides.linkspan.log());
    let loaded = stack.tagged("moby", &name).is_some();
    assert_eq!(loaded, output.stderr.contains("importing to docker"), "{output}\n{}", sides.linkspan.log());
    if loaded {
        stack.docker(["image", "rm", &name]).ok();
    }
    loaded
}

#[test]
fn an_output_that_fails_at_once_is_no_reason_not_to_load() {
    for (output, expected) in [
        ("type=oci,name=Bad Name,dest=/dev/null", "failed to parse Bad Name"),
        ("type=image,oci-mediatypes=false,annotation-manifest-descriptor.a=b", "cannot export annotations"),
    ] {
        assert!(loaded("at-once", &["-o", output], expected), "{output}");
    }
}

#[test]
fn a_file_that_finds_no_room_is_no_reason_not_to_load() {
    for kind in ["tar", "oci"] {
        let output = format!("type={kind},dest=/dev/full");
        assert!(loaded("no-room", &["-o", &output], "no space left on device"), "{kind}");
    }
}

#[test]
fn steps_from_no_cache_are_not_run_twice() {
    let args = ["-o", "type=tar,dest=/dev/full", "--no-cache"];
    assert!(!loaded("uncached", &args, "no space left on device"));
}

#[test]
fn of_two_loads_the_good_one_arrives() {
    let stack = Stack::shared();
    let sides = BothWays::of(stack);
    let side = sides.through();
    let context = Context::new("FROM scratch\nCOPY a /a\n").file("a", "two loads");
    for outputs in [
        ["-o", "type=linkspan,name=good:1", "-o", "type=linkspan,name=Bad Name"],
        ["-o", "type=linkspan,name=Bad Name", "-o", "type=linkspan,name=good:1"],
    ] {
        let output = side.builder.build(context.path(), outputs).fails();
        assert!(output.stderr.contains("failed to parse Bad Name"), "{output}");
        side.digest("good:1");
        stack.docker(["image", "rm", "good:1"]).ok();
    }
}

#[test]
fn a_build_that_fails_itself_loads_nothing() {
    let stack = Stack::shared();
    let sides = BothWays::of(stack);
    let context = Context::new(&format!("FROM {}\nRUN exit 3\n", stack.base_image()));
    let tags = ["--load", "-t", "failed:1", "--push", "-t", "127.0.0.1:1/failed:1"];
    let output = sides.through().builder.build(context.path(), tags).fails();
    assert!(output.stderr.contains("exit code: 3") && !output.stderr.contains("importing to"), "{output}");
    assert_eq!(stack.tagged("moby", "failed:1"), None);
}

#[test]
fn a_refused_push_and_layers_that_are_nowhere() {
    let stack = Stack::start(&[Part::Containerd, Part::Dockerd, Part::Buildkitd, Part::Registry]);
    let sides = BothWays::of(&stack);
    let side = sides.through();
    let context = Context::new(&format!("FROM {}\nCOPY --link a /a\n", stack.base_image())).file("a", "linked\n");
    let push = format!("type=image,name={NOWHERE}/refused:1,push=true");
    let output = side.builder.build(context.path(), ["-o", &push, "-o", "type=docker,name=lazy:1"]).fails();
    assert!(output.stderr.contains("failed to push"), "{output}");
    assert_eq!(side.run_image("lazy:1", &["cat", "/a"]), "linked\n");
}
