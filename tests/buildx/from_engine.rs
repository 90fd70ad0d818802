//! Images of builds that come from the engine (`--from-engine`), beside builds whose images come from a registry.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
};

use crate::{
    attested::statements,
    both_ways::messages,
    common::{Builder, Buildkitd, Context, Linkspan, Output, Stack, cached_steps, text, until},
};

/// A builder that has nothing yet, and a door in front of it that takes what matches `patterns` from the engine.
struct Rig<'a> {
    stack: &'a Stack,
    buildkitd: Buildkitd,
    linkspan: Linkspan,
}

impl<'a> Rig<'a> {
    #[track_caller]
    fn of(stack: &'a Stack, buildkitd: &str, engine: &[&str], patterns: &[&str]) -> Self {
        let buildkitd = Buildkitd::start(stack, buildkitd);
        let patterns = patterns.iter().flat_map(|pattern| ["--from-engine", pattern]);
        let args: Vec<_> = engine.iter().copied().chain(patterns).chain(["--log-level", "debug"]).collect();
        let linkspan = Linkspan::start(stack, &args, &[&buildkitd.address()]);
        Self { stack, buildkitd, linkspan }
    }

    #[track_caller]
    fn new(stack: &'a Stack, patterns: &[&str]) -> Self {
        Self::of(stack, "buildkitd", &stack.docker_flags(), patterns)
    }

    fn builder(&self) -> Builder<'a> {
        self.stack.builder(&self.linkspan.address())
    }

    /// Bytes of the engine's images that builds have read, one number for each session.
    fn read(&self) -> Vec<u64> {
        let log = self.linkspan.log();
        let lines = log.lines().filter(|line| line.contains("builds have read images of the engine"));
        lines.map(|line| line.split_once("bytes=").unwrap().1.split(' ').next().unwrap().parse().unwrap()).collect()
    }
}

/// An image with a layer of its own in the engine, made by another builder: `name`, which no registry has.
#[track_caller]
fn image(stack: &Stack, name: &str, theme: &str) {
    let context = Context::new(&format!("FROM {}\nCOPY theme noise /\n", stack.base_image()))
        .file("theme", format!("{theme}\n"))
        .noise("noise", 3 << 20, 99);
    stack.builder(stack.buildkit_host()).build(context.path(), ["--load", "-t", name]).ok();
}

fn comes_from(name: &str) -> String {
    format!("linkspan: {name} comes from docker: sha256:")
}

#[test]
fn an_image_that_only_the_engine_has_is_a_base_and_a_source_of_files() {
    let stack = Stack::shared();
    image(stack, "local/base:1", "only here");
    let rig = Rig::new(stack, &["local/*"]);
    let builder = rig.builder();
    let dockerfile = "FROM local/base:1 AS run\nRUN cat /theme > /ran\nFROM scratch AS copy\n\
                      COPY --from=local/base:1 /theme /copied\nFROM local/base:1\nCOPY --from=run /ran /\nCOPY --from=copy /copied /\n";
    let context = Context::new(dockerfile);
    let args = ["--provenance=false", "--load"];
    let output = builder.build(context.path(), args).args(["-t", "from-engine:1"]).ok();
    assert!(output.stderr.contains(&comes_from("local/base:1")), "{output}");
    assert_eq!(stack.run_image("from-engine:1", &["cat", "/ran", "/copied"]).ok().stdout, "only here\nonly here\n");
    let once = until("the session to end", || rig.read(), |read| !read.is_empty());
    assert!(once.len() == 1 && once[0] > 3 << 20, "{once:?}");

    // The builder has all of it now: documents are all that is read again.
    let again = builder.build(context.path(), args).args(["-t", "from-engine:2"]).ok();
    let digest = |tag: &str| stack.image(&format!("docker.io/library/from-engine:{tag}")).unwrap();
    assert_eq!(digest("1"), digest("2"));
    assert!(cached_steps(&again) >= 4, "{again}");
    let read = until("the second session to end", || rig.read(), |read| read.len() == 2);
    assert!(read[1] < 100_000, "{read:?}");
}

#[test]
fn names_that_are_not_given_stay_with_the_registry() {
    let stack = Stack::shared();
    let name = format!("{}/conflict:1", stack.registry());
    let push = |theme: &str| {
        let context = Context::new(&format!("FROM {}\nCOPY theme /\n", stack.base_image())).file("theme", theme);
        stack.builder(stack.buildkit_host()).build(context.path(), ["--push", "-t", &name]).ok();
    };
    push("the engine's");
    stack.docker(["pull", &name]).ok();
    push("the registry's");
    let out = stack.fresh_path("-out");
    let to = format!("type=local,dest={}", text(&out));
    let context = Context::new(&format!("FROM scratch\nCOPY --from={name} /theme /theme\n"));
    for (patterns, expected) in [(["local/*"], "the registry's"), (["*/conflict"], "the engine's")] {
        let rig = Rig::new(stack, &patterns);
        rig.builder().build(context.path(), ["-o", &to]).ok();
        assert_eq!(fs::read_to_string(out.join("theme")).unwrap(), expected);
    }
    // What neither has fails as without Linkspan.
    let rig = Rig::new(stack, &["absent*"]);
    let absent = Context::new(&format!("FROM {}/absent:1\n", stack.registry()));
    let sides = [rig.builder(), stack.builder(&rig.buildkitd.address())];
    let [through, direct] =
        sides.map(|builder| messages(&builder.build(absent.path(), ["-o", "type=cacheonly"]).fails()));
    assert_eq!(through, direct);
}

#[test]
fn the_result_and_its_cache_are_those_of_the_same_image_from_a_registry() {
    let stack = Stack::shared();
    let name = format!("{}/same:1", stack.registry());
    image(stack, &name, "same");
    stack.docker(["push", &name]).ok();
    let context = Context::new(&format!("FROM {name}\nRUN date +%N > /now\nCOPY a /a\n")).file("a", "same");
    let rig = Rig::new(stack, &["*"]);
    let (through, direct) = (rig.builder(), stack.builder(&rig.buildkitd.address()));
    let args = ["--build-arg", "SOURCE_DATE_EPOCH=1", "--provenance=false", "--load"];
    let built = through.build(context.path(), args).args(["-t", "same:engine"]).ok();
    assert!(built.stderr.contains(&comes_from(&name)), "{built}");
    // Every step is found that the other way made.
    let cached = direct.build(context.path(), args).args(["-t", "same:registry"]).ok();
    assert!(cached_steps(&cached) >= 2, "{cached}");
    let digest = |tag: &str| stack.image(&format!("docker.io/library/same:{tag}")).unwrap();
    assert_eq!(digest("engine"), digest("registry"));

    // What is stated about it differs only in where the base came from.
    let attested = ["--provenance=mode=max", "--load"];
    through.build(context.path(), attested).args(["-t", "same:engine-attested"]).ok();
    direct.build(context.path(), attested).args(["-t", "same:registry-attested"]).ok();
    let [ours, theirs] = ["engine-attested", "registry-attested"].map(|tag| {
        let statements = statements(&digest(tag), |digest| stack.document("moby", digest));
        assert_eq!(statements.len(), 1);
        statements[0].clone()
    });
    assert_eq!(ours["subject"][0]["digest"], theirs["subject"][0]["digest"]);
    let material = |statement: &serde_json::Value| statement["predicate"]["materials"][0]["digest"].clone();
    let material = |statement: &serde_json::Value| match material(statement) {
        serde_json::Value::Null => {
            statement["predicate"]["buildDefinition"]["resolvedDependencies"][0]["digest"].clone()
        }
        digest => digest,
    };
    assert!(material(&ours)["sha256"].is_string(), "{ours:#}");
    assert_eq!(material(&ours), material(&theirs), "{ours:#}{theirs:#}");
}

#[test]
fn stages_and_named_contexts_of_the_same_name_come_first() {
    let stack = Stack::shared();
    image(stack, "staged:latest", "the engine's");
    let rig = Rig::new(stack, &["*"]);
    let base = stack.base_image();
    let context = Context::new(&format!(
        "FROM {base} AS staged\nRUN echo the stage > /theme\nFROM scratch\nCOPY --from=staged /theme /a\n\
         COPY --from=other /theme /b\n"
    ))
    .file("folder/theme", "the folder");
    let out = stack.fresh_path("-out");
    let (to, other) =
        (format!("type=local,dest={}", text(&out)), format!("other={}", text(&context.path().join("folder"))));
    let output = rig.builder().build(context.path(), ["-o", &to, "--build-context", &other]).ok();
    let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
    assert_eq!((&*read("a"), &*read("b")), ("the stage\n", "the folder"), "{output}");
    assert!(!output.stderr.contains(&comes_from("staged")), "{output}");
}

#[test]
fn a_platform_that_the_engine_lacks_comes_from_the_registry() {
    let stack = Stack::shared();
    let name = format!("{}/platforms:1", stack.registry());
    let context = Context::new("FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /arch\n");
    let context = context.file("amd64", "amd64").file("arm64", "arm64");
    let both = ["--platform", "linux/amd64,linux/arm64", "--push", "-t", &name];
    stack.builder(stack.buildkit_host()).build(context.path(), both).ok();
    stack.docker(["pull", "--platform", "linux/amd64", &name]).ok();
    let rig = Rig::new(stack, &["*/platforms:*"]);
    let context = Context::new(&format!("FROM {name}\nCOPY a /a\n")).file("a", "");
    let builder = rig.builder();
    for (platforms, from_engine) in [("linux/arm64", false), ("linux/amd64", true), ("linux/amd64,linux/arm64", true)] {
        let out = stack.fresh_path("-out");
        let to = format!("type=local,dest={}", text(&out));
        let output = builder.build(context.path(), ["--platform", platforms, "-o", &to]).ok();
        assert_eq!(output.stderr.contains(&comes_from(&name)), from_engine, "{platforms}: {output}");
        let arch = |folder: &str| fs::read_to_string(out.join(folder).join("arch")).unwrap();
        match platforms.split_once(',') {
            None => assert_eq!(arch(""), platforms.trim_start_matches("linux/")),
            Some(_) => assert_eq!((&*arch("linux_amd64"), &*arch("linux_arm64")), ("amd64", "arm64")),
        }
    }
}

#[test]
fn the_clients_own_policies_are_asked_first() {
    let stack = Stack::shared();
    image(stack, "local/policy:1", "policy");
    let rig = Rig::new(stack, &["local/*"]);
    let builder = rig.builder();
    let build = |context: &Context, policy: &str| {
        let file = context.path().join("policy.json");
        fs::write(&file, policy).unwrap();
        builder.build(context.path(), ["-o", "type=cacheonly"]).env("EXPERIMENTAL_BUILDKIT_SOURCE_POLICY", &file)
    };
    let context = Context::new("FROM local/policy:1\nRUN cat /theme\n");
    let rule = |action: &str, identifier: &str, updates: &str| {
        format!(
            "{{\"rules\": [{{\"action\": \"{action}\", \"selector\": {{\"identifier\": \"{identifier}\"}}{updates}}}]}}"
        )
    };
    let denied = build(&context, &rule("DENY", "docker-image://docker.io/local/policy:1", "")).fails();
    assert!(denied.stderr.contains("denied by policy"), "{denied}");
    // What the client replaces is taken from the engine as what it is replaced by.
    let update = ", \"updates\": {\"identifier\": \"docker-image://docker.io/local/policy:1\"}";
    let converted = Context::new("FROM local/other:1\nRUN cat /theme\n");
    let output = build(&converted, &rule("CONVERT", "docker-image://docker.io/local/other:1", update)).ok();
    assert!(output.stderr.contains(&comes_from("local/policy:1")), "{output}");

    // A policy that the client serves in its session.
    let rego = |allowed: &str| {
        format!(
            "package docker\ndefault allow := false\nallow if input.local\n\
             allow if input.image.repo == \"{allowed}\"\ndecision := {{\"allow\": allow}}\n"
        )
    };
    let output = |allowed: &str| -> Output {
        let context = Context::new("FROM local/policy:1\nRUN cat /theme\n").file("Dockerfile.rego", rego(allowed));
        builder.build(context.path(), ["-o", "type=cacheonly"]).output()
    };
    let (allowed, denied) = (output("local/policy"), output("local/another"));
    assert!(allowed.status.success() && allowed.stderr.contains(&comes_from("local/policy:1")), "{allowed}");
    assert!(!denied.status.success() && denied.stderr.contains("not allowed by policy"), "{denied}");
    assert!(!denied.stderr.contains("comes from docker"), "{denied}");
}

#[test]
fn an_image_that_is_removed_during_a_build_is_still_read() {
    let stack = Stack::shared();
    image(stack, "local/removed:1", "removed");
    let rig = Rig::new(stack, &["local/*"]);
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/file", server.local_addr().unwrap());
    // The layers of the base are read for RUN, which waits for the file.
    let context = Context::new(&format!("FROM local/removed:1\nADD {url} /file\nRUN cat /theme /file > /both\n"));
    let builder = rig.builder();
    let output = std::thread::scope(|scope| {
        let build = scope.spawn(|| builder.build(context.path(), ["--load", "-t", "removed:1"]).ok());
        let mut is_removed = false;
        server.set_nonblocking(true).unwrap();
        while !build.is_finished() {
            let Ok((mut stream, _)) = server.accept() else {
                std::thread::sleep(std::time::Duration::from_millis(20));
                continue;
            };
            stream.set_nonblocking(false).unwrap();
            if !is_removed {
                stack.docker(["image", "rm", "local/removed:1"]).ok();
                is_removed = true;
            }
            let mut lines = BufReader::new((&mut stream).take(1 << 16)).lines();
            let is_head = lines.next().is_some_and(|line| line.is_ok_and(|line| line.starts_with("HEAD")));
            lines.find(|line| line.as_ref().is_ok_and(String::is_empty));
            let head = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n";
            stream.write_all(head.as_bytes()).unwrap();
            if !is_head {
                stream.write_all(b"file\n").unwrap();
            }
        }
        assert!(is_removed);
        build.join().unwrap()
    });
    assert_eq!(stack.run_image("removed:1", &["cat", "/both"]).ok().stdout, "removed\nfile\n", "{output}");
}

#[test]
fn a_namespace_of_containerd_and_a_layout_are_engines_as_well() {
    let stack = Stack::shared();
    let layout = stack.fresh_path("-layout");
    let containerd = stack.containerd_flags("from-engine");
    for engine in [&containerd[..], &["--layout", text(&layout)]] {
        let context = Context::new(&format!("FROM {}\nCOPY a /a\n", stack.base_image())).file("a", "other engines");
        let maker = Linkspan::start(stack, engine, &[stack.buildkit_host()]);
        let direct = ["-o", "type=linkspan,name=docker.io/local/engines:1"];
        stack.builder(&maker.address()).build(context.path(), direct).ok();
        let rig = Rig::of(stack, "buildkitd", engine, &["local/*"]);
        let out = stack.fresh_path("-out");
        let to = format!("type=local,dest={}", text(&out));
        let context =
            Context::new("FROM local/engines:1 AS base\nRUN cat /a > /b\nFROM scratch\nCOPY --from=base /b /b\n");
        let output = rig.builder().build(context.path(), ["-o", &to]).ok();
        assert!(output.stderr.contains("local/engines:1 comes from"), "{output}");
        assert_eq!(fs::read_to_string(out.join("b")).unwrap(), "other engines", "{output}");
    }
    // Nothing stays leased.
    stack.until_released("from-engine");
}

#[test]
fn older_builders_ask_registries_and_say_so() {
    let stack = Stack::shared();
    // The oldest is always there; those between are where `scripts/stack install --old` was run.
    let between = ["buildkitd-0.21.1", "buildkitd-0.26.3"].into_iter().filter(|it| stack.find_program(it).is_some());
    for version in ["buildkitd-0.11.6"].into_iter().chain(between) {
        let rig = Rig::of(stack, version, &stack.docker_flags(), &["*"]);
        let context = Context::new(&format!("FROM {}\nCOPY a /a\n", stack.base_image())).file("a", version);
        let output = rig.builder().build(context.path(), ["-o", "type=cacheonly"]).ok();
        assert!(output.stderr.contains("--from-engine needs a builder of BuildKit 0.27"), "{version}: {output}");
    }
}
