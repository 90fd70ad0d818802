//! `--load-compression` and `--push-compression`: what builders make for loads, and what of it they keep.

use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::common::{Builder, Buildkitd, Context, Linkspan, Part, Run, Stack, until};

const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";

/// Go's gzip notes its quickest level in the header (RFC 1952, `XFL`; Go `compress/gzip`, `Writer.Write`).
const XFL: usize = 8;
const QUICKEST: u8 = 4;

#[track_caller]
fn serve(stack: &Stack, builder: &str, settings: &[&str]) -> Linkspan {
    let engine = ["--engine", "docker", "--docker-host", stack.docker_host()];
    Linkspan::start(stack, &[&engine, settings].concat(), &[builder])
}

/// Media type and digest of each layer.
type Layers = Vec<(String, String)>;

fn layers(manifest: &Value) -> Layers {
    let text = |layer: &Value, key: &str| layer[key].as_str().unwrap().to_owned();
    let layers = manifest["layers"].as_array().unwrap_or_else(|| panic!("{manifest}"));
    layers.iter().map(|layer| (text(layer, "mediaType"), text(layer, "digest"))).collect()
}

/// The layers of an image in dockerd.
#[track_caller]
fn loaded(stack: &Stack, name: &str) -> Layers {
    let full = if name.contains('/') { name.to_owned() } else { format!("docker.io/library/{name}") };
    let digest = stack.image(&full).unwrap();
    layers(&serde_json::from_str(&stack.ctr("moby", ["content", "get", &digest]).ok().stdout).unwrap())
}

/// The layers of an image in the registry.
#[track_caller]
fn pushed(stack: &Stack, name: &str) -> Layers {
    layers(&serde_json::from_str(&stack.run("crane").args(["manifest", "--insecure", name]).ok().stdout).unwrap())
}

#[track_caller]
fn push(builder: &Builder<'_>, context: &Context, name: &str) {
    let output = format!("type=image,name={name},push=true");
    builder.build(context.path(), ["--provenance=false", "-o", &output]).ok();
}

/// Byte [`XFL`] of a blob in dockerd's content store.
#[track_caller]
fn level_of(stack: &Stack, digest: &str) -> u8 {
    // Its bytes are no text.
    let script = "ctr --namespace moby content get \"$0\" | head -c 9 | od -An -tu1";
    let bytes = stack.run("sh").args(["-c", script, digest]).ok().stdout;
    bytes.split_whitespace().nth(XFL).unwrap().parse().unwrap()
}

#[test]
fn new_layers_have_the_compression_that_is_set_and_others_stay() {
    let stack = Stack::shared();
    let base = {
        let manifest = stack.run("crane").args(["manifest", "--insecure", stack.base_image()]).ok().stdout;
        layers(&serde_json::from_str(&manifest).unwrap())
    };
    for (how, media_type, seed) in [("fast", GZIP, 401), ("zstd", ZSTD, 402), ("uncompressed", PLAIN, 403)] {
        let linkspan = serve(stack, stack.buildkit_host(), &["--load-compression", how]);
        let builder = stack.builder(&linkspan.address());
        let dockerfile = format!("FROM {}\nCOPY noise /noise\nRUN wc -c </noise >/count\n", stack.base_image());
        let context = Context::new(&dockerfile).noise("noise", 200_000, seed);
        let name = format!("compressed-{how}:1");
        let output = builder.build(context.path(), ["--load", "-t", &name]).ok();
        assert!(!output.stderr.contains("sending tarball"), "{output}");
        let found = loaded(stack, &name);
        assert_eq!(found[0].1, base[0].1, "the base's layer is its own");
        let types: Vec<_> = found[1..].iter().map(|(media_type, _)| media_type.as_str()).collect();
        assert_eq!(types, [media_type; 2], "{how}");
        assert_eq!(how == "fast", media_type == GZIP && level_of(stack, &found[1].1) == QUICKEST);
        let run = ["run", "--rm", "--network", "host", &name, "cat", "/count"];
        assert_eq!(stack.docker(run).ok().stdout.trim(), "200000");

        // What the client asks for is above it.
        let context = Context::new("FROM scratch\nCOPY noise /noise\n").noise("noise", 200_000, seed + 10);
        let output = format!("type=linkspan,name={name},compression=gzip");
        builder.build(context.path(), ["-o", &output]).ok();
        let found = loaded(stack, &name);
        assert_eq!(found[0].0, GZIP, "{how}");
        assert_ne!(level_of(stack, &found[0].1), QUICKEST);
    }
}

#[test]
fn what_a_builder_made_once_sticks_and_a_push_can_have_gzip_again() {
    let stack = Stack::shared();
    let plain = serve(stack, stack.buildkit_host(), &["--load-compression", "uncompressed"]);
    let builder = stack.builder(&plain.address());
    let context = Context::new("FROM scratch\nCOPY noise /noise\n").noise("noise", 200_000, 421);
    builder.build(context.path(), ["--load", "-t", "sticks:1"]).ok();
    let first = loaded(stack, "sticks:1");
    assert_eq!(first[0].0, PLAIN);

    // A later push has the same layers, as the documentation says, and so has a load without the setting.
    let name = format!("{}/sticks", stack.registry());
    push(&builder, &context, &name);
    assert_eq!(pushed(stack, &name), first);
    let unchanged = serve(stack, stack.buildkit_host(), &[]);
    stack.builder(&unchanged.address()).build(context.path(), ["--load", "-t", "sticks:2"]).ok();
    assert_eq!(loaded(stack, "sticks:2"), first);

    // With the other setting a push has the layers that it has from a builder without either setting.
    let gzip = serve(stack, stack.buildkit_host(), &["--push-compression", "gzip"]);
    let name = format!("{}/gzip", stack.registry());
    push(&stack.builder(&gzip.address()), &context, &name);
    let other = Buildkitd::start(stack, "buildkitd");
    let expected = format!("{}/expected", stack.registry());
    push(&stack.builder(&other.address()), &context, &expected);
    assert_eq!(pushed(stack, &name), pushed(stack, &expected));
    assert_eq!(pushed(stack, &name)[0].0, GZIP);

    // Loads keep what was made first.
    builder.build(context.path(), ["--load", "-t", "sticks:3"]).ok();
    assert_eq!(loaded(stack, "sticks:3"), first);
}

#[test]
fn a_build_that_also_pushes_is_left_as_it_is() {
    let stack = Stack::shared();
    let linkspan = serve(stack, stack.buildkit_host(), &["--load-compression", "uncompressed"]);
    let builder = stack.builder(&linkspan.address());
    let context = Context::new("FROM scratch\nCOPY noise /noise\n").noise("noise", 200_000, 431);
    let name = format!("{}/both:1", stack.registry());
    builder.build(context.path(), ["--provenance=false", "--load", "--push", "-t", &name]).ok();
    assert_eq!(loaded(stack, &name)[0].0, GZIP);
    assert_eq!(pushed(stack, &name), loaded(stack, &name));
}

#[test]
fn a_load_beside_a_push_has_the_digest_of_the_push() {
    let stack = Stack::shared();
    let linkspan = serve(stack, stack.buildkit_host(), &["--load-compression", "zstd", "--push-compression", "gzip"]);
    let builder = stack.builder(&linkspan.address());
    let context = Context::new("FROM scratch\nCOPY noise /noise\n").noise("noise", 200_000, 441);
    builder.build(context.path(), ["--load", "-t", "before:1"]).ok();
    assert_eq!(loaded(stack, "before:1")[0].0, ZSTD);

    let name = format!("{}/same:1", stack.registry());
    let metadata = context.path().join("metadata.json");
    let file = metadata.to_str().unwrap();
    let args = ["--provenance=false", "--load", "--push", "-t", &name, "--metadata-file", file];
    builder.build(context.path(), args).ok();
    assert_eq!(pushed(stack, &name)[0].0, GZIP);
    let pushed = stack.run("crane").args(["digest", "--insecure", &name]).ok().stdout;
    assert_eq!(stack.image(&name).as_deref(), Some(pushed.trim()));
    let metadata: Value = serde_json::from_slice(&std::fs::read(metadata).unwrap()).unwrap();
    assert_eq!(metadata["containerimage.digest"], pushed.trim());
}

#[test]
fn a_load_that_the_builders_gzip_made_slow_gets_a_remark() {
    let stack = Stack::start(&[Part::Containerd, Part::Dockerd, Part::Buildkitd]);
    let linkspan = serve(&stack, stack.buildkit_host(), &[]);
    let builder = stack.builder(&linkspan.address());
    let remark = ": the builder's gzip of new layers";
    let advice = "serve --load-compression fast: -";
    // Stopped in the middle of it, because gzip alone would take a machine as slow as the test needs.
    let slow = |context: &Context| {
        let running = builder.build(context.path(), ["--load", "-t", "slow:1"]).spawn();
        until("the layers to be made", || running.stderr(), |shown| shown.contains("exporting layers"));
        let buildkitd = stack.pid(Part::Buildkitd);
        kill_process(buildkitd, Signal::STOP).unwrap();
        // What is tested is the time itself: a load is slow from 5 s on.
        sleep(Duration::from_secs(6));
        kill_process(buildkitd, Signal::CONT).unwrap();
        running.wait().stderr
    };
    let context = |seed| Context::new("FROM scratch\nCOPY noise /noise\n").noise("noise", 100_000_000, seed);
    let shown = slow(&context(1));
    for line in [remark, advice] {
        assert_eq!(shown.matches(line).count(), 1, "{shown}\n{}", linkspan.log());
    }

    let doctor = ["doctor", "--json", "--docker-host", stack.docker_host(), "--builder", stack.buildkit_host()];
    let report = Run::new(env!("CARGO_BIN_EXE_linkspan")).args(doctor).args(["--buildkit-listen", &linkspan.address()]);
    let report: Value = serde_json::from_str(&report.ok().stdout).unwrap();
    let check = report["checks"].as_array().unwrap().iter().find(|check| check["about"] == "load");
    let check = check.unwrap_or_else(|| panic!("no check of loads: {report}"));
    assert_eq!(check["mark"], "slow");
    assert!(check["remedy"].as_str().unwrap().contains("--load-compression fast"), "{check}");

    // There is no remark where it would not help: no layer is new.
    let shown = builder.build(context(1).path(), ["--load", "-t", "slow:2"]).ok().stderr;
    assert!(!shown.contains(remark), "{shown}");
}
