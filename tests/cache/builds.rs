//! `--cache-to type=linkspan` and `--cache-from type=linkspan` of unmodified clients.

use std::fs;

use serde_json::Value;

use crate::common::{Builder, Context, Linkspan, Output, Part, Stack, cached_steps, linkspan, text, until};

const PARTS: [Part; 4] = [Part::Containerd, Part::Dockerd, Part::Buildkitd, Part::Registry];

/// A step that prints something else each time it really runs.
pub(crate) const ONCE: &str = "RUN cat /proc/sys/kernel/random/uuid | tee /uuid\n";

/// A stack of one's own, whose builder and engine may be emptied, and a door in front of the builder.
struct Rig {
    stack: &'static Stack,
    linkspan: Linkspan,
}

impl Rig {
    fn new() -> Self {
        // As long as the process: builders borrow from it.
        let stack = Box::leak(Box::new(Stack::start(&PARTS)));
        Self { linkspan: Linkspan::docker(stack), stack }
    }

    fn builder(&self) -> Builder<'static> {
        self.stack.builder(&self.linkspan.address())
    }

    /// A build whose only way to be the same twice is a cache.
    fn context(&self) -> Context {
        let dockerfile = format!("FROM {}\nCOPY noise /noise\n{ONCE}", self.stack.base_image());
        Context::new(&dockerfile).noise("noise", 2 << 20, 7)
    }

    fn uuid(&self, tag: &str) -> String {
        self.stack.run_image(tag, &["cat", "/uuid"]).ok().stdout
    }
}

/// Builds and returns what `cache.results` says in the metadata file.
#[track_caller]
pub(crate) fn build(builder: &Builder<'_>, context: &Context, args: &[&str]) -> (Output, Value) {
    let json = context.path().with_extension("json");
    let output = builder.build(context.path(), ["--metadata-file", text(&json)]).args(args).ok();
    let metadata: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    (output, metadata["cache.results"].clone())
}

/// Whether a lease is that of a version. Others end in the background, after their builds.
fn is_of_cache(lease: &str) -> bool {
    lease.starts_with("linkspan-cache-")
}

#[test]
fn a_cache_comes_back_after_everything_was_pruned() {
    let rig = Rig::new();
    let (builder, context) = (rig.builder(), rig.context());
    let to = "type=linkspan,ref=app:main,mode=max";
    // A cache that is not there yet neither fails nor warns.
    let from = ["--cache-from", "type=linkspan,ref=app:main"];
    let (first, results) = build(&builder, &context, &[&from[..], &["--cache-to", to, "--load", "-t", "a:1"]].concat());
    assert!(!first.stderr.contains("importing cache") && !first.stderr.contains("WARN"), "{first}");
    assert!(first.stderr.contains("exporting cache to docker as app:main"), "{first}");
    assert_eq!((&results[0]["type"], &results[0]["ref"]), (&"linkspan".into(), &"app:main".into()), "{results}");
    assert_eq!((results.as_array().unwrap().len(), &results[0]["sent"]), (1, &3.into()), "{results}");
    let uuid = rig.uuid("a:1");

    // Nothing has changed, so nothing is sent, and the same version stays.
    let versions = || rig.stack.leases("moby").into_iter().filter(|lease| is_of_cache(lease)).collect::<Vec<_>>();
    let before = versions();
    let (again, same) = build(&builder, &context, &["--cache-to", to, "-o", "type=cacheonly"]);
    assert_eq!((&same[0]["sent"], &same[0]["unchanged"]), (&0.into(), &true.into()), "{again}");
    assert_eq!((&same[0]["digest"], versions()), (&results[0]["digest"], before));

    // Neither Docker's prune nor the builder's takes it away.
    rig.stack.docker(["image", "rm", "a:1"]).ok();
    rig.stack.docker(["system", "prune", "--all", "--force", "--volumes"]).ok();
    builder.prune();
    let images = rig.stack.images("moby");
    let (back, _) = build(&builder, &context, &[&from[..], &["--load", "-t", "a:2"]].concat());
    assert_eq!((rig.uuid("a:2"), cached_steps(&back)), (uuid, 2), "{back}");
    assert!(back.stderr.contains("linkspan: importing cache app:main from docker: 1 version, 3 layers"), "{back}");
    assert_eq!(images, [], "a cache is no image");
}

#[test]
fn other_caches_and_outputs_of_a_build_stay_as_they_are() {
    let rig = Rig::new();
    let (builder, base) = (rig.builder(), rig.stack.base_image());
    // Only mode max has the layers of the first stage.
    let dockerfile =
        format!("FROM {base} AS first\nCOPY noise /noise\n{ONCE}FROM {base}\nCOPY --from=first /uuid /uuid\n");
    let context = Context::new(&dockerfile).noise("noise", 2 << 20, 7);
    let (folder, name) = (rig.stack.fresh_path("-cache"), format!("{}/cache:1", rig.stack.registry()));
    let local = format!("type=local,mode=max,dest={}", text(&folder));
    let registry = format!("type=registry,mode=max,ref={name}");
    let args = ["--cache-to", &local, "--cache-to", "type=linkspan,ref=one;two", "--cache-to", &registry];
    let (output, results) = build(&builder, &context, &[&args[..], &["-o", "type=cacheonly"]].concat());
    let refs: Vec<_> = results.as_array().unwrap().iter().map(|result| result["ref"].as_str().unwrap()).collect();
    assert_eq!(refs, ["one", "two"], "{output}");
    // The client's own folder has the client's own manifest, of mode max, although ours is another one.
    let index: Value = serde_json::from_slice(&fs::read(folder.join("index.json")).unwrap()).unwrap();
    let own = index["manifests"][0]["digest"].as_str().unwrap();
    assert_ne!(own, results[0]["digest"].as_str().unwrap());
    assert!(folder.join("blobs/sha256").join(own.strip_prefix("sha256:").unwrap()).exists());
    // Each of them brings everything back by itself.
    let uuid = {
        let (loaded, _) = build(&builder, &context, &["--load", "-t", "b:1"]);
        assert_eq!(cached_steps(&loaded), 3, "{loaded}");
        rig.uuid("b:1")
    };
    let local = format!("type=local,src={}", text(&folder));
    for from in [local.as_str(), &format!("type=registry,ref={name}"), "type=linkspan,ref=two"] {
        builder.prune();
        let (back, _) = build(&builder, &context, &["--cache-from", from, "--load", "-t", "b:2"]);
        assert_eq!(rig.uuid("b:2"), uuid, "{from}: {back}");
    }
    // Together, too.
    builder.prune();
    let both = ["--cache-from", &local, "--cache-from", "type=linkspan,ref=one", "--load", "-t", "b:3"];
    let (back, _) = build(&builder, &context, &both);
    assert_eq!(rig.uuid("b:3"), uuid, "{back}");
}

#[test]
fn targets_of_a_bake_write_parts_of_one_cache() {
    let rig = Rig::new();
    let builder = rig.builder();
    let target = |name: &str| {
        format!(
            "target \"{name}\" {{\n  target = \"{name}\"\n  cache-to = [\"type=linkspan,ref=bake,mode=max\"]\n  \
             cache-from = [\"type=linkspan,ref=bake\"]\n  tags = [\"bake-{name}:1\"]\n}}\n"
        )
    };
    let group = "group \"default\" { targets = [\"one\", \"two\", \"three\"] }\n";
    let file = [group.to_owned(), target("one"), target("two"), target("three")].concat();
    let base = rig.stack.base_image();
    // No target uses another's steps: of those, BuildKit may export and import less when builds run side by side, with caches
    // of any type.
    let stage = |name: &str| format!("FROM {base} AS {name}\nCOPY noise /{name}\n{ONCE}");
    let dockerfile = [stage("one"), stage("two"), stage("three")].concat();
    let context = Context::new(&dockerfile).file("docker-bake.hcl", file).noise("noise", 1 << 20, 3);
    let bake = || builder.buildx(["bake", "--progress", "plain", "--load"]).dir(context.path()).ok();
    let uuids = || ["one", "two", "three"].map(|name| rig.uuid(&format!("bake-{name}:1")));
    bake();
    let first = uuids();
    builder.prune();
    let output = bake();
    assert_eq!(uuids(), first, "{output}");
    let leases = rig.stack.leases("moby");
    assert_eq!(leases.iter().filter(|lease| is_of_cache(lease)).count(), 3, "{leases:?}");
}

#[test]
fn buildctl_with_and_without_a_frontend() {
    let rig = Rig::new();
    let (context, address) = (rig.context(), rig.linkspan.address());
    let folder = text(context.path());
    let buildctl = |args: &[&str]| rig.stack.buildctl(["--addr", &address]).args(args.iter().copied());
    let (local, dockerfile) = (format!("context={folder}"), format!("dockerfile={folder}"));
    let build = |args: &[&str]| {
        let build =
            ["build", "--progress=plain", "--frontend=dockerfile.v0", "--local", &local, "--local", &dockerfile];
        buildctl(&[&build[..], args].concat()).ok()
    };
    let output =
        build(&["--export-cache", "type=linkspan,ref=ctl,mode=max", "--import-cache", "type=linkspan,ref=ctl"]);
    assert!(output.stderr.contains("exporting cache to docker as ctl"), "{output}");
    buildctl(&["prune", "--all"]).ok();
    let output = build(&["--import-cache", "type=linkspan,ref=ctl"]);
    assert_eq!(cached_steps(&output), 2, "{output}");
}

#[test]
fn what_is_wrong_is_reported_and_fails_only_what_was_requested() {
    let rig = Rig::new();
    let (builder, context) = (rig.builder(), Context::new("FROM scratch\nCOPY a /a\n").file("a", "x"));
    let build = |to: &str| builder.build(context.path(), ["--cache-to", to, "-o", "type=cacheonly"]);
    for (to, expected) in [
        ("type=linkspan", "names no cache; hint: ref=NAME"),
        ("type=linkspan,ref=a,size=1", "does not know `size`"),
        ("type=linkspan,ref=-a", "`-a` cannot be the ref of a cache"),
        ("type=linkspan,ref=a,keep=0", "keep=0"),
        ("type=linkspan,ref=a,mode=mx", "mode=mx is neither `min` nor `max`"),
    ] {
        let output = build(to).fails();
        assert!(output.stderr.contains(expected) && output.stderr.contains("the cache export"), "{to}: {output}");
        let output = build(&format!("{to},ignore-error=true")).ok();
        assert!(output.stderr.contains(expected), "{to}: {output}");
    }
    // A result tells whose it is, whatever became of the others.
    let (bad, good) = ("type=linkspan,ref=a,size=1,ignore-error=true", "type=linkspan,ref=second");
    let (_, results) =
        crate::builds::build(&builder, &context, &["--cache-to", bad, "--cache-to", good, "-o", "type=cacheonly"]);
    assert_eq!((&results[0]["ref"], &results[0]["id"]), (&"second".into(), &1.into()), "{results}");
    linkspan(["cache", "rm", "second"]).args(rig.stack.docker_flags()).ok();
    // An import never fails a build.
    let output =
        builder.build(context.path(), ["--cache-from", "type=linkspan,ref=a,b=c", "-o", "type=cacheonly"]).ok();
    assert!(
        output.stderr.contains("the cache import `type=linkspan,b=c,ref=a` is left out: it does not know `b`"),
        "{output}"
    );
    assert!(!rig.stack.leases("moby").iter().any(|lease| is_of_cache(lease)));
}

#[test]
fn a_builder_in_a_container_of_the_docker_door() {
    let stack = Stack::shared();
    let linkspan = Linkspan::docker_door(stack);
    let builder = stack.container_builder(&linkspan.address(), "caching");
    let dockerfile = format!("FROM {}\nCOPY noise /noise\n{ONCE}", stack.base_image());
    let context = Context::new(&dockerfile).noise("noise", 1 << 20, 11);
    let uuid = |tag: &str| stack.run_image(tag, &["cat", "/uuid"]).ok().stdout;
    let to = ["--cache-to", "type=linkspan,ref=container,mode=max", "--load", "-t", "container-cache:1"];
    build(&builder, &context, &to);
    let first = uuid("container-cache:1");
    builder.buildx(["rm"]).ok();
    // A new builder, which has nothing.
    let builder = stack.container_builder(&linkspan.address(), "caching-again");
    let from = ["--cache-from", "type=linkspan,ref=container", "--load", "-t", "container-cache:2"];
    let (output, _) = build(&builder, &context, &from);
    builder.buildx(["rm"]).ok();
    assert_eq!(uuid("container-cache:2"), first, "{output}");
}

#[test]
fn the_cache_in_an_image_of_the_engine_is_imported_under_its_name() {
    let stack: &'static Stack = Box::leak(Box::new(Stack::start(&PARTS)));
    let engine = ["--engine", "docker", "--docker-host", stack.docker_host(), "--cache-from-engine"];
    let rig = Rig { linkspan: Linkspan::start(stack, &engine, &[stack.buildkit_host()]), stack };
    let (builder, context) = (rig.builder(), rig.context());
    // The registry has no such image.
    let name = format!("{}/inline:1", stack.registry());
    builder.build(context.path(), ["--cache-to", "type=inline", "--load", "-t", &name]).ok();
    let uuid = rig.uuid(&name);
    for from in [format!("type=linkspan,ref={name}"), format!("type=registry,ref={name}")] {
        builder.prune();
        let output = builder.build(context.path(), ["--cache-from", &from, "--load", "-t", "again:1"]).ok();
        assert_eq!((rig.uuid("again:1"), cached_steps(&output)), (uuid.clone(), 2), "{from}: {output}");
        assert!(output.stderr.contains(&format!("importing the inline cache of {name} from docker")), "{output}");
    }
}

#[test]
fn what_others_delete_of_a_cache_is_written_again() {
    let rig = Rig::new();
    let (builder, context) = (rig.builder(), rig.context());
    let to = ["--cache-to", "type=linkspan,ref=lost,mode=max", "-o", "type=cacheonly"];
    let (_, results) = build(&builder, &context, &to);
    let root = results[0]["digest"].as_str().unwrap();
    let manifest = rig.stack.document("moby", root);
    let listed = |blob: &Value| blob["digest"].as_str().unwrap().to_owned();
    for lost in [listed(&manifest["config"]), root.to_owned(), listed(&manifest["layers"][0])] {
        rig.stack.ctr("moby", ["content", "rm", &lost]).ok();
        let (output, again) = build(&builder, &context, &to);
        assert_eq!(again[0]["digest"], root, "{lost}: {output}");
        assert!(rig.stack.blobs("moby").contains(&lost), "{lost}: {output}");
    }
    // It is kept as it was before.
    rig.stack.ctr("moby", ["leases", "create", "--id", "collect"]).ok();
    rig.stack.ctr("moby", ["leases", "delete", "--sync", "collect"]).ok();
    builder.prune();
    let from = ["--cache-from", "type=linkspan,ref=lost", "-o", "type=cacheonly"];
    let output = builder.build(context.path(), from).ok();
    assert_eq!(cached_steps(&output), 2, "{output}");
}

#[test]
fn a_cache_that_is_removed_while_a_build_reads_it_stays_for_that_build() {
    let rig = Rig::new();
    let builder = rig.builder();
    let base = rig.stack.base_image();
    // The step that is not cached comes before the layers are read.
    let dockerfile = format!(
        "FROM {base} AS first\nCOPY noise /noise\n{ONCE}FROM {base} AS slow\nARG N\nRUN sleep 3 && echo $N > /n\n\
         FROM first\nCOPY --from=slow /n /n\n"
    );
    let context = Context::new(&dockerfile).noise("noise", 2 << 20, 7);
    build(&builder, &context, &["--cache-to", "type=linkspan,ref=read,mode=max", "-o", "type=cacheonly"]);
    builder.prune();
    let from = ["--cache-from", "type=linkspan,ref=read", "--build-arg", "N=1", "-o", "type=cacheonly"];
    let running = builder.build(context.path(), from).spawn();
    until("the slow step to run", || running.stderr(), |output| output.contains("RUN sleep 3"));
    let engine = rig.stack.docker_flags();
    linkspan(["cache", "rm", "read"]).args(engine).ok();
    let output = running.wait();
    assert!(output.status.success(), "{output}");
    // The build's own lease goes with it.
    until("no lease to be left", || rig.stack.leases("moby"), Vec::is_empty);
}

#[test]
fn a_clients_own_folder_may_have_any_name() {
    let rig = Rig::new();
    let (builder, context) = (rig.builder(), rig.context());
    let here = rig.stack.fresh_path("-own");
    fs::create_dir(&here).unwrap();
    let args = ["--cache-to", "type=local,dest=linkspan/own,mode=max", "--cache-to", "type=linkspan,ref=own"];
    builder.build(context.path(), args).args(["-o", "type=cacheonly"]).dir(&here).ok();
    builder.prune();
    let args = ["--cache-from", "type=local,src=linkspan/own", "--cache-from", "type=linkspan,ref=none"];
    let output = builder.build(context.path(), args).args(["-o", "type=cacheonly"]).dir(&here).ok();
    assert_eq!(cached_steps(&output), 2, "{output}");
}
