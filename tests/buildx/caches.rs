//! The builder's cache: exported, imported, listed, pruned; and its history.

use crate::{
    both_ways::{BothWays, Side},
    common::{Context, Part, Stack, text},
};

const PARTS: [Part; 4] = [Part::Containerd, Part::Dockerd, Part::Buildkitd, Part::Registry];

/// Builds with a cache export, forgets everything, builds again with the import: all steps must be cached.
fn there_and_back(to: impl Fn(&Side<'_>) -> [String; 2], from: impl Fn(&Side<'_>) -> String) {
    let stack = Stack::start(&PARTS);
    let sides = BothWays::of(&stack);
    // A step that prints something else each time it really runs.
    let once = "RUN cat /proc/sys/kernel/random/uuid | tee /uuid\n";
    let context = Context::new(&format!("FROM {}\nCOPY a /a\n{once}", stack.base_image())).file("a", "cached");
    for side in [sides.through(), sides.direct()] {
        // Nothing that the other side left may help.
        side.builder.buildx(["prune", "-af"]).ok();
        let [to, output] = to(side);
        let first = side.builder.build(context.path(), ["--cache-to", &to, "-o", &output]).ok();
        side.builder.buildx(["prune", "-af"]).ok();
        let tag = side.tag("cached");
        let again = side.builder.build(context.path(), ["--cache-from", &from(side), "--load", "-t", &tag]).ok();
        let uuid = side.run_image(&tag, &["cat", "/uuid"]);
        assert!(first.stderr.contains(uuid.trim_end()), "{uuid} is not from {first}\nbut from {again}");
    }
}

#[test]
fn local() {
    let folder = |side: &Side<'_>| side.stack.state().join(format!("cache-{}", side.name));
    there_and_back(
        |side| [format!("type=local,mode=max,dest={}", text(&folder(side))), "type=cacheonly".into()],
        |side| format!("type=local,src={}", text(&folder(side))),
    );
}

#[test]
fn registry() {
    let name = |side: &Side<'_>| format!("{}/cache-{}:1", side.stack.registry(), side.name);
    there_and_back(
        |side| [format!("type=registry,mode=max,ref={}", name(side)), "type=cacheonly".into()],
        |side| format!("type=registry,ref={}", name(side)),
    );
}

#[test]
fn inline() {
    let name = |side: &Side<'_>| format!("{}/inline-{}:1", side.stack.registry(), side.name);
    there_and_back(
        |side| ["type=inline".into(), format!("type=image,name={},push=true", name(side))],
        |side| format!("type=registry,ref={}", name(side)),
    );
}

#[test]
fn an_inline_cache_is_in_the_image_that_is_loaded() {
    let stack = Stack::shared();
    let sides = BothWays::of(stack);
    let context = Context::new("FROM scratch\nCOPY a /a\n").file("a", "inline");
    sides.compare(|side| {
        let digest = side.load(&context, "inline", &["--cache-to", "type=inline"]);
        let config = side.document(side.document(&digest)["config"]["digest"].as_str().unwrap());
        assert!(config["moby.buildkit.cache.v0"].is_string(), "{config}");
        digest
    });
}

#[test]
fn du_and_prune() {
    let stack = Stack::start(&PARTS);
    let sides = BothWays::of(&stack);
    let context = Context::new(&format!("FROM {}\nCOPY a /a\nRUN true\n", stack.base_image())).noise("a", 1 << 20, 2);
    sides.through().load(&context, "pruned", &[]);
    let rows = sides.compare(|side| {
        let mut rows = side.builder.buildx(["du", "--verbose"]).ok().lines();
        rows.retain(|row| !row.starts_with("Last used") && !row.starts_with("Usage count"));
        rows
    });
    assert!(rows.len() > 10, "{rows:?}");
    let one = sides.compare(|side| {
        side.builder.buildx(["du", "--filter", "type=source.local", "--format", "{{.ID}}"]).ok().stdout
    });
    assert!(!one.is_empty());
    // A prune through the door prunes the builder: nothing is left for the other side to see.
    let pruned = sides.through().builder.buildx(["prune", "-af"]).ok();
    assert!(pruned.stdout.contains("Total:"), "{pruned}");
    let left = sides.compare(|side| side.builder.buildx(["du", "--format", "{{.ID}}"]).ok().stdout);
    assert_eq!(left, "");
    assert_eq!(
        sides.through().builder.buildx(["prune", "-af"]).ok().stdout,
        sides.direct().builder.buildx(["prune", "-af"]).ok().stdout
    );
}

#[test]
fn ls_and_inspect() {
    let stack = Stack::shared();
    let sides = BothWays::of(stack);
    let (door, builder) = (sides.linkspan.address(), stack.buildkit_host());
    let shown = sides.compare(|side| {
        ["ls --format {{.Name}}|{{.DriverEndpoint}}|{{.Status}}|{{.Buildkit}}|{{.Platforms}}", "inspect --bootstrap"]
            .map(|command| {
                let output = side.builder.buildx(command.split(' ')).ok().stdout.replace(&door, builder);
                output.lines().filter(|line| !line.starts_with("Last Activity")).map(str::to_owned).collect::<Vec<_>>()
            })
    });
    assert!(shown[0].iter().any(|line| line.contains("running|v0.")), "{shown:?}");
}

#[test]
fn history() {
    let stack = Stack::start(&PARTS);
    let sides = BothWays::of(&stack);
    let context = Context::new(&format!("FROM {}\nRUN echo words in the log\n", stack.base_image()));
    sides.compare(|side| {
        let json = stack.fresh_path(".json");
        let output = side
            .builder
            .build(context.path(), ["--load", "--no-cache", "-t", &side.tag("history"), "--metadata-file", text(&json)])
            .ok();
        side.check_way(&output);
        let metadata: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
        let reference = metadata["buildx.build.ref"].as_str().unwrap().rsplit('/').next().unwrap();
        let listed = side.builder.buildx(["history", "ls", "--format", "{{.Ref}} {{.Status}}"]).ok().lines();
        let row =
            listed.iter().find(|row| row.contains(reference)).unwrap_or_else(|| panic!("{reference}: {listed:?}"));
        let logs = side.builder.buildx(["history", "logs", "--progress", "plain", reference]).ok();
        assert!(logs.stderr.contains("words in the log") || logs.stdout.contains("words in the log"), "{logs}");
        let inspected = side
            .builder
            .buildx(["history", "inspect", reference, "--format", "{{.Status}} {{.NumTotalSteps}} {{.Target}}"])
            .ok()
            .stdout;
        let status = row.rsplit(' ').next().map(str::to_owned);
        side.builder.buildx(["history", "rm", reference]).ok();
        let left = side.builder.buildx(["history", "ls", "--format", "{{.Ref}}"]).ok();
        assert!(!left.stdout.contains(reference), "{left}");
        (status, inspected)
    });
}
