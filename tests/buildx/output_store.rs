//! A program on BuildKit's own client whose output store is an export of the exporter API (`tests/go/build`): without a door in
//! between, it leaves in the engine what buildx leaves there with `--load`.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::attested::statements;
use crate::both_ways::forget_the_moment;
use crate::common::{ApiServer, Context, Linkspan, Output, Part, Run, Stack, full_name, linkspan, until};

/// `tests/go/build`, made once.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let path = Stack::shared().fresh_path("-build");
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/go");
        Run::new("go").args(["-C", folder, "build", "-o"]).arg(&path).arg("./build").ok();
        path
    })
}

/// Builds `context` with the builder of `stack` and exports it through `to`, with these flags.
fn build(stack: &Stack, to: &Linkspan, context: &Context, flags: &[&str]) -> Run {
    let run = stack.run(program().to_str().unwrap()).args(["-builder", stack.buildkit_host(), "-to", &to.address()]);
    run.args(flags).arg(context.path())
}

/// What the program printed of an export: the root and how many blobs it has sent.
#[track_caller]
fn exported(output: &Output, names: &[&str]) -> (String, u64) {
    let names: Vec<_> = names.iter().map(|name| full_name(name)).collect();
    let (root, rest) = output.stdout.split_once(&format!(" [{}], ", names.join(" "))).unwrap();
    (root.to_owned(), rest.strip_suffix(" blobs sent\n").unwrap().parse().unwrap())
}

/// The manifests, configs and layers that `root` names, but for statements about it.
#[track_caller]
fn contents(root: &str, document: &impl Fn(&str) -> Value) -> Vec<Value> {
    let found = document(root);
    let Some(entries) = found["manifests"].as_array() else {
        return vec![found["config"].clone(), found["layers"].clone()];
    };
    let is_statement = |entry: &Value| entry["annotations"]["vnd.docker.reference.type"] == "attestation-manifest";
    let images = entries.iter().filter(|entry| !is_statement(entry));
    images
        .flat_map(|entry| [vec![entry.clone()], contents(entry["digest"].as_str().unwrap(), document)].concat())
        .collect()
}

#[test]
fn without_a_context_it_says_how_it_is_called() {
    for args in [&[][..], &["-to", "unix:///nowhere.sock"], &["a", "b"]] {
        let output = Run::new(program().to_str().unwrap()).args(args).fails();
        assert_eq!(output.status.code(), Some(2), "{output}");
        assert!(
            output.stderr.starts_with("usage: build [flags] CONTEXT\n") && output.stderr.contains("-output"),
            "{output}"
        );
    }
}

/// An image of any platform, with files of its own.
fn copied(theme: &str) -> Context {
    let run = std::process::id();
    Context::new("FROM scratch\nCOPY a /a\nCOPY b /b\n").file("a", format!("{theme} {run}")).file("b", theme)
}

#[test]
fn it_gives_what_load_gives() {
    let server = ApiServer::docker();
    let (stack, document) = (server.stack, |digest: &str| server.stack.document("moby", digest));
    let builder = stack.builder(stack.buildkit_host());
    let two = "platform=linux/amd64,linux/arm64";
    let base = Context::new(&format!("FROM {}\nRUN echo stored > /a\nENV b=c\n", stack.base_image()));
    // Flags of the program, and those that say the same to buildx.
    for (context, names, flags, load) in [
        (&base, &["output-store:1"][..], &[][..], &[][..]),
        (&copied("names"), &["output-store:1", "output-store-2:2"], &[], &[]),
        (
            &copied("platforms"),
            &["output-store-3:1"],
            &["-opt", two],
            &["--platform", "linux/amd64,linux/arm64", "--provenance=false"],
        ),
        (
            &copied("zstd"),
            &["output-store-4:1"],
            &["-output", "compression=zstd", "-output", "force-compression=true", "-output", "annotation.a=b"],
            &["--output", "type=docker,compression=zstd,force-compression=true,annotation.a=b"],
        ),
    ] {
        let name = format!("name={}", names.join(","));
        let output = build(stack, &server.linkspan, context, &[&["-output", &name][..], flags].concat()).ok();
        let (root, sent) = exported(&output, names);
        assert!(sent > 1, "{output}");
        let records: Vec<_> = names.iter().map(|name| stack.tagged("moby", name)).collect();
        assert_eq!(records, vec![Some(root.clone()); names.len()]);
        until("docker's event", || loads(stack), |loads| loads.contains(&root));
        let seen = inspected(stack, names[0]);
        let tags = names.iter().flat_map(|name| ["-t", name]);
        let load: &[&str] = if load.contains(&"--output") { load } else { &[&["--load"][..], load].concat() };
        let loaded = builder.build(context.path(), load.iter().copied().chain(tags)).ok();
        assert!(loaded.stderr.contains("sending tarball"), "the other way is the tar: {loaded}");
        assert_eq!(stack.tagged("moby", names[0]), Some(root.clone()), "the image that --load makes: {loaded}");
        assert_eq!(inspected(stack, names[0]), seen);
        assert!(!contents(&root, &document).is_empty());
        // The engine has all of it by now.
        let again = build(stack, &server.linkspan, context, &[&["-output", &name][..], flags].concat()).ok();
        assert_eq!(exported(&again, names), (root, 0));
    }
    let tag = "output-store-5:1";
    build(stack, &server.linkspan, &base, &["-output", &format!("name={tag}")]).ok();
    assert_eq!(stack.run_image(tag, &["sh", "-c", "cat /a; echo $b"]).ok().stdout, "stored\nc\n");
    until("the exports to end", || live(&server.linkspan), String::is_empty);
}

/// The images that docker says were loaded in the last minutes.
#[track_caller]
fn loads(stack: &Stack) -> String {
    let past = ["events", "--since", "10m", "--until", "0s", "--filter", "event=load", "--format", "{{.Actor.ID}}"];
    stack.docker(past).ok().stdout
}

/// What docker shows of an image, without the moments at which it was exported and tagged.
#[track_caller]
fn inspected(stack: &Stack, name: &str) -> Value {
    let shown = stack.docker(["image", "inspect", name]).ok().stdout;
    let mut shown: Value = serde_json::from_str(&shown).unwrap();
    shown[0].as_object_mut().unwrap().remove("Metadata");
    forget_the_moment(&mut shown);
    shown
}

/// What `linkspan ps` shows of the open exports.
#[track_caller]
fn live(to: &Linkspan) -> String {
    linkspan(["ps", "--json", "--to", &to.address()]).ok().stdout
}

#[test]
fn what_is_stated_about_an_image_is_exported_with_it() {
    let server = ApiServer::docker();
    let (stack, document) = (server.stack, |digest: &str| server.stack.document("moby", digest));
    let builder = stack.builder(stack.buildkit_host());
    let context = copied("stated");
    let (names, platforms) = (["output-stated:1"], "linux/amd64,linux/arm64");
    // buildx says which file it is in any case.
    let flags =
        ["-output", "name=output-stated:1", "-opt", "attest:provenance=mode=max", "-opt", "filename=Dockerfile"];
    let platform = format!("platform={platforms}");
    let output = build(stack, &server.linkspan, &context, &[&flags[..], &["-opt", &platform]].concat()).ok();
    let (root, _) = exported(&output, &names);
    assert_eq!(stack.tagged("moby", names[0]), Some(root.clone()));
    let args = ["--load", "-t", names[0], "--platform", platforms, "--attest", "type=provenance,mode=max"];
    builder.build(context.path(), args).ok();
    let loaded = stack.tagged("moby", names[0]).unwrap();
    assert_eq!(contents(&root, &document), contents(&loaded, &document));
    let [stored, of_load] = [root, loaded].map(|root| statements(&root, document));
    assert_eq!(stored.len(), 2);
    assert_eq!(stored, of_load, "left: by the output store");
}

#[test]
fn containerd_has_the_image_that_docker_loads() {
    let server = ApiServer::containerd("output-store");
    let stack = server.stack;
    let context = copied("containerd");
    let output = build(stack, &server.linkspan, &context, &["-output", "name=stored:1"]).ok();
    let (root, sent) = exported(&output, &["stored:1"]);
    assert_eq!(sent, 4);
    stack.builder(stack.buildkit_host()).build(context.path(), ["--load", "-t", "output-loaded:1"]).ok();
    assert_eq!(stack.tagged("moby", "output-loaded:1"), Some(root.clone()));
    assert_eq!(stack.images("output-store"), [(full_name("stored:1"), root.clone())]);
    // Without a name, as buildx leaves it: one record more, of the digest.
    exported(&build(stack, &server.linkspan, &copied("nameless"), &[]).ok(), &[]);
    assert_eq!(stack.images("output-store").len(), 2);
    let complete = stack.ctr("output-store", ["images", "check", "-q"]).ok().lines();
    assert_eq!(complete.len(), 2, "{complete:?}");
    server.until_released();
}

#[test]
fn an_image_may_have_more_layers_than_an_export_has_writes() {
    let server = ApiServer::containerd("output-many");
    let run = std::process::id();
    let many = 70;
    let dockerfile: String = (0..many).map(|n| format!("COPY f{n} /f{n}\n")).collect();
    let context = (0..many).fold(Context::new(&format!("FROM scratch\n{dockerfile}")), |context, n| {
        context.file(&format!("f{n}"), format!("{n} of {run}"))
    });
    let output = build(server.stack, &server.linkspan, &context, &["-output", "name=many:1"]).ok();
    let (root, sent) = exported(&output, &["many:1"]);
    assert_eq!(sent, many + 2);
    assert_eq!(server.stack.tagged("output-many", "many:1"), Some(root));
}

#[test]
fn a_name_that_may_not_be_set_fails_the_build_and_leaves_nothing() {
    let server = ApiServer::containerd_with("output-denied", &["--allow-name", "docker.io/library/good*"]);
    let context = copied("denied");
    let output = build(server.stack, &server.linkspan, &context, &["-output", "name=bad:1"]).fails();
    assert!(output.stderr.contains("REASON_NAME_DENIED") && output.stderr.contains("bad:1"), "{output}");
    assert!(server.stack.images("output-denied").is_empty());
    server.until_released();
    build(server.stack, &server.linkspan, &context, &["-output", "name=good:1"]).ok();
}

#[test]
fn an_interrupted_build_aborts_its_export() {
    let stack = Stack::start(&[Part::Containerd, Part::Buildkitd, Part::Registry]);
    let door = stack.fresh_path("-export.sock");
    let server = Linkspan::export(&stack, &stack.containerd_flags("output-interrupted"), &[], door);
    // While the builder builds.
    let context = Context::new(&format!("FROM {}\nRUN touch /begun && sleep 600\n", stack.base_image()));
    let snapshots = stack.state().join("buildkit/runc-overlayfs/snapshots/snapshots");
    let begun = || {
        let folders = std::fs::read_dir(&snapshots).into_iter().flatten().flatten();
        folders.into_iter().any(|folder| folder.path().join("fs/begun").exists())
    };
    let running = build(&stack, &server, &context, &["-output", "name=interrupted:1"]).spawn();
    until("the step to begin", begun, |begun| *begun);
    assert!(live(&server).contains(stack.buildkit_host()), "{}", live(&server));
    running.signal(Signal::INT);
    let output = running.wait();
    assert!(!output.status.success() && output.stderr.contains("cancel"), "{output}");
    assert_eq!(live(&server), "", "{output}");
    // With a server that stands still: whatever the client has sent by then, nothing can be complete.
    let context = Context::new("FROM scratch\nCOPY big /big\n").noise("big", 200 << 20, 7);
    let flags = ["-output", "name=interrupted:1", "-output", "compression=uncompressed"];
    let running = build(&stack, &server, &context, &flags).spawn();
    until("an open export", || live(&server), |live| !live.is_empty());
    kill_process(server.pid(), Signal::STOP).unwrap();
    // Long enough for some of its bytes to be on their way.
    sleep(Duration::from_secs(2));
    running.signal(Signal::INT);
    kill_process(server.pid(), Signal::CONT).unwrap();
    let output = running.wait();
    assert!(!output.status.success(), "{output}");
    assert_eq!(live(&server), "", "{output}");
    stack.until_idle("output-interrupted");
    assert!(stack.images("output-interrupted").is_empty());
    // The next one is whole.
    let output = build(&stack, &server, &context, &flags).ok();
    let (root, sent) = exported(&output, &["interrupted:1"]);
    assert_eq!((stack.tagged("output-interrupted", "interrupted:1"), sent), (Some(root), 3));
}
