//! Lazy layers: the builder reports an image whose base layers it has never pulled.

use std::path::PathBuf;

use crate::{
    both_ways::{BothWays, Side},
    common::{Context, Part, Stack, text, until},
};

const PARTS: [Part; 4] = [Part::Containerd, Part::Dockerd, Part::Buildkitd, Part::Registry];

/// An application whose own layer is independent of its base, so that the builder needs not pull it.
fn application(stack: &Stack) -> Context {
    Context::new(&format!("FROM {}\nCOPY --link a /a\n", stack.base_image())).file("a", "linked\n")
}

/// Where the builder would keep the base's only layer.
fn pulled_layer(stack: &Stack) -> PathBuf {
    let manifest = stack.run("crane").args(["manifest", stack.base_image()]).ok().stdout;
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let digest = manifest["layers"][0]["digest"].as_str().unwrap();
    stack.state().join("buildkit/runc-overlayfs/content/blobs").join(digest.replace(':', "/"))
}

/// The image is whole and runs.
fn check(side: &Side<'_>) {
    assert_eq!(side.run_image(&side.tag("lazy"), &["cat", "/a"]), "linked\n");
    let archive = side.stack.fresh_path(".tar");
    side.stack.docker(["save", "-o", text(&archive), &side.tag("lazy")]).ok();
}

#[test]
fn a_base_that_builder_and_engine_lack() {
    let stack = Stack::start(&PARTS);
    let sides = BothWays::of(&stack);
    let context = application(&stack);
    let side = sides.through();
    assert!(!pulled_layer(&stack).exists());
    // The fallback is the client's own tar path, so this export may be one.
    let tag = side.tag("lazy");
    side.builder.build(context.path(), ["--load", "-t", &tag]).ok();
    check(side);
    assert_eq!(sides.direct().load(&context, "lazy", &[]), side.digest(&tag));
}

#[test]
fn the_engine_has_the_base() {
    let stack = Stack::start(&PARTS);
    let sides = BothWays::of(&stack);
    let context = application(&stack);
    let side = sides.through();
    stack.docker(["pull", "-q", stack.base_image()]).ok();
    let digest = side.load(&context, "lazy", &[]);
    check(side);
    assert!(!pulled_layer(&stack).exists(), "the builder pulled a layer that the engine already has");
    assert_eq!(sides.direct().load(&context, "lazy", &[]), digest);
}

/// Whoever wins each race, the build succeeds and the image is whole. That the builder loses one is not left to chance
/// elsewhere: `faults::prune` holds its response back until it has pruned.
#[test]
fn a_builder_that_prunes_while_its_image_is_read() {
    const ROUNDS: u64 = 20;
    let stack = Stack::start(&PARTS);
    let sides = BothWays::of(&stack);
    let side = sides.through();
    for round in 0..ROUNDS {
        let dockerfile = "FROM scratch\nCOPY a /a\nCOPY b /b\n";
        let context = Context::new(dockerfile).noise("a", 2 << 20, round).noise("b", 100, round);
        let tag = side.tag(&format!("pruned-{round}"));
        let running = side.builder.build(context.path(), ["--load", "-t", &tag]).spawn();
        until("the image to be made", || running.stderr(), |output| output.contains("exporting manifest"));
        stack.buildctl(["prune", "--all"]).ok();
        let output = running.wait();
        assert!(output.status.success(), "{output}");
        stack.docker(["save", "-o", text(&stack.fresh_path(".tar")), &tag]).ok();
    }
}
