//! Which blobs are read from the builder, and how much is sent to dockerd.

use std::collections::BTreeSet;

use linkspan::image::Digest;

use crate::{
    common::{Context, Linkspan, Part, Stack, until},
    proxied::{Proxied, application},
};

/// A plain load; buildx takes its default builder from the engine, so that it must be told which.
const LOAD: [&str; 5] = ["--builder", "remote", "--load", "-t", "plain:1"];
/// What an export costs that sends no layer: a config, a manifest and the archive around them.
const LITTLE: u64 = 20_000;

#[test]
fn only_what_is_missing_is_read_and_sent() {
    let stack = Stack::classic();
    let proxied = Proxied::new(stack);
    let first = application(stack, 1, "one\n");
    proxied.export(&first, "edit:1").ok();
    assert_eq!(proxied.run_image("edit:1", &[]), "one\n");
    let (loads, bytes) = proxied.relay.take();
    assert!(loads == 1 && bytes > 5_000_000, "{loads} {bytes}");

    // One line changed.
    proxied.take_read();
    let second = application(stack, 1, "two\n");
    let output = proxied.export(&second, "edit:1").ok();
    assert!(output.stderr.contains("2 already in docker-classic"), "{output}");
    assert_eq!(proxied.run_image("edit:1", &[]), "two\n");
    let (loads, bytes) = proxied.relay.take();
    assert!(loads == 1 && bytes < LITTLE, "{loads} {bytes}");
    let blobs = proxied.blobs(&second);
    let layers: BTreeSet<_> = proxied.take_read().intersection(&blobs.iter().cloned().collect()).cloned().collect();
    assert_eq!(layers, BTreeSet::from([blobs[2].clone()]), "only the changed layer is read");

    // Nothing changed: not even documents are read, for this process has seen the image.
    let output = proxied.export(&second, "edit:1").ok();
    assert!(output.stderr.contains("0B sent"), "{output}");
    assert_eq!((proxied.relay.take(), proxied.take_read()), ((0, 0), BTreeSet::new()));

    // To another process the image is new, to dockerd it is not.
    let address = proxied.relay.address();
    let fresh = Linkspan::start(stack, &["--docker-host", &address], &[&proxied.builder.address()]);
    let client = stack.builder(&fresh.address());
    client.build(second.path(), ["-o", "type=linkspan,name=edit:1"]).ok();
    assert_eq!(proxied.relay.take(), (0, 0));
    assert!(proxied.take_read().is_disjoint(&blobs.iter().cloned().collect()), "no layer is read");

    // Another name needs no layers, but dockerd makes it.
    proxied.export(&second, "edit:2").ok();
    let (loads, bytes) = proxied.relay.take();
    assert!(loads == 1 && bytes < LITTLE, "{loads} {bytes}");
    assert_eq!(proxied.id("edit:2"), proxied.id("edit:1"));
}

#[test]
fn an_engine_takes_notice_of_what_changes_nothing() {
    let stack = Stack::classic();
    let proxied = Proxied::new(stack);
    let context = application(stack, 2, "noticed\n");
    proxied.export(&context, "noticed:1").ok();
    let tagged = || {
        let format = ["--filter", "event=tag", "--format", "{{.Actor.Attributes.name}}"];
        let output = proxied.docker(["events", "--since", "1h", "--until", "0s"]).args(format).ok().lines();
        output.into_iter().filter(|name| name == "noticed:1").count()
    };
    proxied.relay.take();
    proxied.export(&context, "noticed:1").ok();
    assert_eq!(proxied.relay.take().0, 0);
    // Events are requested by whole seconds.
    until("dockerd to tell of the tag", tagged, |count| *count == 1);
}

#[test]
fn without_the_folder_the_images_list_what_is_there() {
    let stack = Stack::classic();
    let proxied = Proxied::new(stack);
    let id = proxied.docker(["info", "--format", "{{.ID}}"]).ok().stdout.trim().to_owned();
    proxied.relay.substitute(&id, &"0".repeat(id.len()));
    proxied.export(&application(stack, 3, "one\n"), "asked:1").ok();
    proxied.relay.take();
    proxied.export(&application(stack, 3, "two\n"), "asked:1").ok();
    let (loads, bytes) = proxied.relay.take();
    assert!(loads == 1 && bytes < LITTLE, "{loads} {bytes}");
    assert_eq!(proxied.run_image("asked:1", &[]), "two\n");
}

#[test]
fn layers_of_the_engine_are_not_even_pulled_by_the_builder() {
    let stack = Stack::start(&[Part::DockerdClassic, Part::Buildkitd, Part::Registry]);
    let proxied = Proxied::new(&stack);
    let context =
        |who: &str| Context::new(&format!("FROM {}\nCOPY --link who /who\n", stack.base_image())).file("who", who);
    let base = |digest: &str| {
        let blobs = stack.state().join("buildkit/runc-overlayfs/content/blobs");
        blobs.join(digest.replace(':', "/")).exists()
    };
    proxied.docker(["pull", "-q", stack.base_image()]).ok();
    proxied.export(&context("lazy\n"), "lazy:1").ok();
    assert_eq!(proxied.run_image("lazy:1", &["cat", "/who"]), "lazy\n");
    let manifest = stack.run("crane").args(["manifest", "--insecure", stack.base_image()]).ok().stdout;
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let digest = manifest["layers"][0]["digest"].as_str().unwrap();
    assert!(!base(digest), "the builder pulled a layer that the engine already has");

    // Nobody has it: the builder is asked to fetch it.
    proxied.docker(["rmi", "lazy:1", stack.base_image()]).ok();
    proxied.export(&context("lazier\n"), "lazy:1").ok();
    assert_eq!(proxied.run_image("lazy:1", &["cat", "/who"]), "lazier\n");
    assert!(base(digest));
}

#[test]
fn exports_that_share_layers_run_at_once() {
    let stack = Stack::classic();
    let proxied = Proxied::new(stack);
    let dockerfile = |who: usize| {
        let base = stack.base_image();
        let context = Context::new(&format!("FROM {base}\nCOPY a /a\nCOPY b /b\nCOPY c /c\nCOPY who /who\n"));
        let context = context.noise("a", 3_000_000, 40).noise("b", 4_000_000, 41).noise("c", 5_000_000, 42);
        context.file("who", format!("{who}\n"))
    };
    let contexts: Vec<_> = (0..4).map(dockerfile).collect();
    // The builder is done before, so that the exports begin together.
    for context in &contexts {
        proxied.direct.build(context.path(), ["-o", "type=cacheonly"]).ok();
    }
    let running: Vec<_> = contexts
        .iter()
        .enumerate()
        .map(|(at, context)| proxied.export(context, &format!("shared:{at},shared:any")).spawn())
        .collect();
    for run in running {
        let output = run.wait();
        assert!(output.status.success(), "{output}");
    }
    for at in 0..4 {
        assert_eq!(proxied.run_image(&format!("shared:{at}"), &["cat", "/who"]), format!("{at}\n"));
    }
    // All wanted this name, and the last to come has it.
    let any = proxied.id("shared:any");
    assert!((0..4).any(|at| proxied.id(&format!("shared:{at}")) == any));
    proxied.nothing_is_left();
}

#[test]
fn a_plain_docker_exporter_is_a_load_where_it_is_configured_so() {
    let stack = Stack::classic();
    let proxied = Proxied::with(stack, &["--docker-is-load"]);
    let host = stack.docker_classic_host();
    let load = |context: &Context| proxied.client.build(context.path(), LOAD).env("DOCKER_HOST", host);
    load(&application(stack, 5, "one\n")).ok();
    proxied.relay.take();
    let output = load(&application(stack, 5, "two\n")).ok();
    assert!(output.stderr.contains("importing to docker-classic"), "{output}");
    assert!(!output.stderr.contains("sending tarball"), "{output}");
    let (loads, bytes) = proxied.relay.take();
    assert!(loads == 1 && bytes < LITTLE, "{loads} {bytes}");
    assert_eq!(proxied.run_image("plain:1", &[]), "two\n");

    let usual = Proxied::new(stack);
    let context = application(stack, 5, "three\n");
    usual.client.build(context.path(), LOAD).env("DOCKER_HOST", host).ok();
    assert_eq!(usual.relay.take(), (0, 0), "without the setting it is the client who loads");
    assert_eq!(usual.run_image("plain:1", &[]), "three\n");
}

#[test]
fn the_metadata_has_the_builds_own_digests() {
    let stack = Stack::classic();
    let proxied = Proxied::new(stack);
    let context = application(stack, 6, "answer\n");
    let file = stack.fresh_path(".json");
    let path = file.to_str().unwrap();
    proxied.export(&context, "answer:1").args(["--metadata-file", path]).ok();
    let metadata: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(metadata["containerimage.config.digest"], proxied.id("answer:1"));
    assert!(metadata["containerimage.digest"].as_str().unwrap().parse::<Digest>().is_ok(), "{metadata}");
    assert_eq!(metadata["image.name"], "docker.io/library/answer:1");
}
