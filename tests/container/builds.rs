//! What buildx does with its docker-container driver, through the docker door and without it.

use std::fs;

use crate::both_ways::{BothWays, no_tunnels, tunnels};
use crate::common::{Context, Linkspan, Stack, text, until};

#[test]
fn an_image_is_exported_directly() {
    let sides = BothWays::of(Stack::shared(), "image");
    let context = Context::new("FROM scratch\nCOPY a /a\nCOPY big /big\n").file("a", "some").noise("big", 3 << 20, 21);
    let digest = sides.compare(|side| {
        let tag = side.tag("image");
        let output = side.builder.build(context.path(), ["--load", "-t", &tag]).ok();
        side.check_way(&output);
        side.digest(&tag)
    });
    // A line is changed: only what is new is sent.
    let context = Context::new("FROM scratch\nCOPY big /big\nCOPY a /a\n").file("a", "other").noise("big", 3 << 20, 21);
    let side = sides.through();
    let first = side.builder.build(context.path(), ["--load", "-t", "edit:1"]).ok();
    assert_ne!(side.digest("edit:1"), digest);
    let again = side.builder.build(context.path(), ["--load", "-t", "edit:1"]).ok();
    assert!(again.stderr.contains("0 blobs, 0B sent"), "{first}{again}");
}

#[test]
fn a_large_layer_is_read_from_the_builders_files() {
    let sides = BothWays::of(Stack::shared(), "files");
    let context = Context::new("FROM scratch\nCOPY big /big\n").noise("big", 20 << 20, 22);
    sides.compare(|side| {
        let tag = side.tag("files");
        side.builder.build(context.path(), ["--load", "-t", &tag]).ok();
        side.digest(&tag)
    });
    let log = sides.linkspan.log();
    assert_eq!(log.matches("a blob is read from the builder's own files").count(), 1, "{log}");
}

#[test]
fn new_layers_have_the_compression_that_is_set() {
    let stack = Stack::shared();
    let door = stack.fresh_path("-docker.sock");
    let listen = format!("unix://{}", text(&door));
    let args = ["--docker-host", stack.docker_host(), "--docker-listen", &listen, "--load-compression", "uncompressed"];
    let linkspan = Linkspan::start_at(stack, &args, &[], vec![door]);
    let builder = stack.container_builder(&linkspan.address(), "plain");
    let context = Context::new("FROM scratch\nCOPY big /big\n").noise("big", 100_000, 23);
    builder.build(context.path(), ["--load", "-t", "plain:1"]).ok();
    let manifest = stack.image("docker.io/library/plain:1").unwrap();
    let manifest = stack.ctr("moby", ["content", "get", &manifest]).ok().stdout;
    assert!(manifest.contains("\"application/vnd.oci.image.layer.v1.tar\""), "{manifest}");
    builder.buildx(["rm"]).ok();
}

#[test]
fn an_image_of_the_engine_is_a_base() {
    let stack = Stack::shared();
    let door = stack.fresh_path("-docker.sock");
    let linkspan = Linkspan::docker_door_at(stack, stack.docker_host(), door, &["--from-engine", "local/*"]);
    let builder = stack.container_builder(&linkspan.address(), "from-engine");
    let context = Context::new(&format!("FROM {}\nCOPY a /a\n", stack.base_image())).file("a", "of the engine\n");
    builder.build(context.path(), ["--load", "-t", "local/container:1"]).ok();
    // A builder that has never had it.
    builder.buildx(["rm"]).ok();
    let builder = stack.container_builder(&linkspan.address(), "from-engine-again");
    let context = Context::new("FROM local/container:1\nRUN cat /a > /b\n");
    let output = builder.build(context.path(), ["--load", "-t", "container-from-engine:1"]).ok();
    assert!(output.stderr.contains("linkspan: local/container:1 comes from docker: sha256:"), "{output}");
    assert_eq!(stack.run_image("container-from-engine:1", &["cat", "/b"]).ok().stdout, "of the engine\n");
    builder.buildx(["rm"]).ok();
}

#[test]
fn commands_share_one_process() {
    let sides = BothWays::of(Stack::shared(), "share");
    let side = sides.through();
    let context = Context::new("FROM scratch\nCOPY a /a\n").file("a", "shared");
    let build = || side.builder.build(context.path(), ["--load", "-t", "shared:1"]).ok();
    build();
    let before = side.now();
    build();
    build();
    side.builder.buildx(["du"]).ok();
    side.builder.buildx(["inspect"]).ok();
    assert_eq!(side.started_since(&before), 0, "{}", sides.linkspan.log());
    assert_eq!(tunnels(side.stack, &side.container), 1);
    // On the other side each command has its own.
    let direct = sides.direct();
    let before = direct.now();
    direct.builder.buildx(["du"]).ok();
    assert!(direct.started_since(&before) > 0);
}

#[test]
fn nothing_stays_behind_when_linkspan_ends() {
    let mut sides = BothWays::of(Stack::shared(), "leave");
    let context = Context::new("FROM scratch\nCOPY a /a\n").file("a", "left");
    for _ in 0..3 {
        sides.through().builder.build(context.path(), ["--load", "-t", "left:1"]).ok();
    }
    assert_eq!(tunnels(sides.stack, &sides.through().container), 1);
    assert!(sides.through().execs().len() > 1, "execs that were not started, and one that was");
    assert!(sides.linkspan.terminate().success(), "{}", sides.linkspan.log());
    let side = sides.through();
    no_tunnels(side.stack, &side.container);
    until("no exec to be listed", || side.execs(), Vec::is_empty);
}

#[test]
fn management() {
    let sides = BothWays::of(Stack::shared(), "manage");
    let context = Context::new("FROM scratch\nCOPY a /a\n").file("a", "managed");
    sides.compare(|side| {
        side.builder.build(context.path(), ["--load", "-t", &side.tag("managed")]).ok();
        let listed = side.builder.buildx(["ls"]).ok().stdout;
        assert!(listed.contains("running") && listed.contains("v0.32.2"), "{listed}");
        let inspected = side.builder.buildx(["inspect", "--bootstrap"]).ok().stdout;
        // Driver options are printed in no order (buildx `commands/inspect.go` ranges over a map).
        let steady = |line: &&str| {
            !["Last Activity", "Endpoint", "hostname", "Name", "Driver Options"].iter().any(|it| line.contains(it))
        };
        let inspected: Vec<_> = inspected.lines().filter(steady).map(str::to_owned).collect();
        let du = side.builder.buildx(["du"]).ok().stdout;
        assert!(du.contains("Reclaimable"), "{du}");
        let pruned = side.builder.buildx(["prune", "-af"]).ok().stdout;
        assert!(pruned.contains("Total:"), "{pruned}");
        let empty = side.builder.buildx(["du"]).ok().stdout;
        let total = pruned.lines().last().unwrap().to_owned();
        side.builder.buildx(["rm"]).ok();
        let gone = side.docker(["inspect", &side.container]).fails();
        (inspected, empty, total.is_empty(), gone.stderr)
    });
}

#[test]
fn other_outputs_pass() {
    let stack = Stack::shared();
    let sides = BothWays::of(stack, "outputs");
    let context = Context::new("FROM scratch\nCOPY a /folder/a\n").file("a", "elsewhere");
    sides.compare(|side| {
        let (folder, tar) = (stack.fresh_path("-out"), stack.fresh_path(".tar"));
        side.builder.build(context.path(), ["-o", &format!("type=local,dest={}", text(&folder))]).ok();
        let local = fs::read_to_string(folder.join("folder/a")).unwrap();
        let docker = format!("type=docker,name=archive:1,dest={}", text(&tar));
        side.builder.build(context.path(), ["--provenance=false", "-o", &docker]).ok();
        let listed = stack.run("tar").arg("-tf").arg(&tar).ok().lines();
        let name = format!("{}/outputs-{}:1", stack.registry(), side.name);
        let push = format!("type=image,name={name},push=true");
        side.builder.build(context.path(), ["--provenance=false", "-o", &push]).ok();
        let pushed = stack.run("crane").args(["digest", &name]).ok().stdout;
        assert_eq!(stack.tagged("moby", "archive:1"), None);
        (local, listed, pushed)
    });
}

#[test]
fn several_targets_at_once() {
    let stack = Stack::shared();
    let sides = BothWays::of(stack, "bake");
    let file = "variable \"SIDE\" {}\ngroup \"default\" { targets = [\"one\", \"two\"] }\n\
        target \"one\" { tags = [\"c-one-${SIDE}:1\"] }\n\
        target \"two\" {\n tags = [\"c-two-${SIDE}:1\"]\n args = { WHICH = \"two\" }\n}\n";
    let dockerfile = format!("FROM {}\nARG WHICH=one\nCOPY big /big\nRUN echo $WHICH > /which\n", stack.base_image());
    let context = Context::new(&dockerfile).file("docker-bake.hcl", file).noise("big", 1 << 20, 5);
    sides.compare(|side| {
        let bake = side.builder.buildx(["bake", "--progress", "plain", "--load"]);
        side.check_way(&bake.env("SIDE", side.name).dir(context.path()).ok());
        for target in ["one", "two"] {
            let tag = side.tag(&format!("c-{target}"));
            assert!(side.digest(&tag).starts_with("sha256:"));
            let run = side.stack.run_image(&tag, &["cat", "/which"]).env("DOCKER_HOST", &side.host);
            assert_eq!(run.ok().stdout, format!("{target}\n"));
        }
    });
}

#[test]
fn several_builders_and_builds_at_once() {
    let stack = Stack::shared();
    let sides = BothWays::of(stack, "several");
    let other = stack.container_builder(&sides.linkspan.address(), "several-other");
    other.buildx(["inspect", "--bootstrap"]).ok();
    let side = sides.through();
    let contexts = [1, 2].map(|n| {
        let context = Context::new("FROM scratch\nCOPY a /a\nCOPY big /big\n");
        context.file("a", format!("{n}")).noise("big", 2 << 20, n)
    });
    let running: Vec<_> = (0..8)
        .map(|n| {
            let builder = if n % 2 == 0 { &side.builder } else { &other };
            builder.build(contexts[n / 2 % 2].path(), ["--load", "-t", &format!("several-{n}:1")]).spawn()
        })
        .collect();
    for running in running {
        let output = running.wait();
        assert!(output.status.success() && !output.stderr.contains("sending tarball"), "{output}");
    }
    // The same builder makes the same image of the same context, whoever asks; another one another: it is the time.
    let digests: Vec<_> = (0..8).map(|n| side.digest(&format!("several-{n}:1"))).collect();
    assert_eq!(digests[..4], digests[4..]);
    assert_eq!(digests[..4].iter().collect::<std::collections::BTreeSet<_>>().len(), 4, "{digests:?}");
    // One process each, once those that were started at the same time have ended.
    for container in [&side.container, "buildx_buildkit_several-other0"] {
        until("one process to lead to the builder", || tunnels(stack, container), |count| *count == 1);
    }
}
