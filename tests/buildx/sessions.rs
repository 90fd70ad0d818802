//! A client's session in which Linkspan handles calls, because the build exports a cache to the engine, beside one that
//! passes as bytes: the client notices no difference.

use std::{collections::BTreeMap, fmt::Debug, fs, path::Path};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    both_ways::{messages, tree},
    common::{Builder, Context, Linkspan, Run, Stack, text, until},
    inputs::with_program,
};

/// A way through one door: with a cache export, which splits the session, or without.
struct Way<'a> {
    stack: &'a Stack,
    builder: &'a Builder<'a>,
    is_split: bool,
}

impl Way<'_> {
    /// `buildx build` of `context`, and the arguments that split its session.
    fn build<'s>(&self, context: &Path, args: impl IntoIterator<Item = &'s str>) -> Run {
        // A step that both ways run would be cached for the second.
        let side = format!("SIDE={}", self.is_split);
        let run = self.builder.build(context, args).args(["--build-arg", &side]);
        if self.is_split { run.args(["--cache-to", &cache(context)]) } else { run }
    }
}

/// A cache of its own for each context.
fn cache(context: &Path) -> String {
    let name = context.file_name().unwrap().to_str().unwrap();
    let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    format!("type=linkspan,ref=sessions/{},mode=max", name.to_lowercase())
}

/// Runs `test` both ways through one door, and wants equal results.
#[track_caller]
fn compare<T: PartialEq + Debug>(stack: &Stack, test: impl Fn(&Way<'_>) -> T) -> T {
    let linkspan = Linkspan::docker(stack);
    let builder = stack.builder(&linkspan.address());
    let way = |is_split| Way { stack, builder: &builder, is_split };
    let (split, bytes) = (test(&way(true)), test(&way(false)));
    assert_eq!(split, bytes, "left: a session that is split; right: one that is not\n{}", linkspan.log());
    split
}

#[test]
fn secrets_contexts_and_files_arrive_and_so_does_what_is_made_of_them() {
    let stack = Stack::shared();
    let dockerfile = format!(
        "FROM {} AS build\nCOPY root /\nARG SIDE\nCOPY --from=folder a /out/a\nCOPY big many /out/\n\
         RUN --mount=type=ssh /usr/bin/ssh-add -l > /out/keys\n\
         RUN --mount=type=secret,id=file wc -c < /run/secrets/file > /out/secret\n\
         RUN --mount=type=secret,id=variable,env=VARIABLE echo \"$VARIABLE\" > /out/variable\n\
         FROM scratch\nCOPY --from=build /out /\n",
        stack.base_image()
    );
    let context = with_program(Context::new(&dockerfile)).noise("secret", 100_000, 1).noise("big", 30 << 20, 2);
    let context = context.files("many", 2_000);
    let key = stack.fresh_path("-key");
    stack.run("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", text(&key)]).ok();
    let ssh = format!("default={}", text(&key));
    let folder = Context::new("").file("a", "from the named context\n");
    let (named, file) =
        (format!("folder={}", text(folder.path())), format!("id=file,src={}/secret", text(context.path())));
    let secrets = ["--secret", &file, "--secret", "id=variable,env=SECRET_VARIABLE"];
    let files = compare(stack, |way| {
        let (local, tar) = (way.stack.fresh_path("-out"), way.stack.fresh_path(".tar"));
        let (to_local, to_tar) = (format!("type=local,dest={}", text(&local)), format!("type=tar,dest={}", text(&tar)));
        let run = way.build(context.path(), secrets).args(["--ssh", &ssh, "--build-context", &named]);
        let run = run.env("SECRET_VARIABLE", "the-variable");
        let output = run.args(["-o", &to_local, "-o", &to_tar, "--progress", "plain"]).ok();
        let unpacked = way.stack.fresh_path("-unpacked");
        fs::create_dir(&unpacked).unwrap();
        Run::new("tar").args(["-xf", text(&tar), "-C", text(&unpacked)]).ok();
        (tree(&local), tree(&unpacked), messages(&output))
    });
    assert_eq!(files.0["variable"], "the-variable\n");
    assert_eq!(files.0["secret"].trim(), "100000");
    assert!(files.0["keys"].contains("ED25519"), "{}", files.0["keys"]);
    assert!(files.0.len() > 2_000);
}

#[test]
fn a_context_from_standard_input_and_an_image_with_attestations() {
    let stack = Stack::shared();
    let context = Context::new("FROM scratch\nARG SIDE\nCOPY a /a\n").file("a", "from standard input");
    let tar = Run::new("tar").args(["--mtime=@0", "-C", text(context.path()), "-cf", "-", "."]).ok().stdout;
    let image = compare(stack, |way| {
        let tag = if way.is_split { "sessions-split:1" } else { "sessions-bytes:1" };
        let run = way.builder.build(Path::new("-"), ["--load", "--provenance", "mode=max", "-t", tag]);
        let run = if way.is_split { run.args(["--cache-to", "type=linkspan,ref=sessions/stdin"]) } else { run };
        run.stdin(tar.clone()).ok();
        let index = way.stack.tagged("moby", tag).unwrap();
        let index = way.stack.document("moby", &index);
        // The other one is the provenance, which contains the moment of the build.
        assert_eq!(index["manifests"].as_array().unwrap().len(), 2, "{index}");
        index["manifests"][0]["digest"].clone()
    });
    assert_ne!(image, Value::Null);
}

#[test]
fn errors_are_the_same() {
    let stack = Stack::shared();
    let base = stack.base_image();
    let cases = [
        (
            "a secret that is missing",
            "RUN --mount=type=secret,id=absent,required=true true",
            "secret absent: not found",
        ),
        ("an agent that is missing", "RUN --mount=type=ssh,required=true true", "ssh"),
        ("a file that is missing", "COPY nothing /", "nothing"),
        ("a step that fails", "RUN exit 7", "exit code: 7"),
    ];
    for (name, step, expected) in cases {
        let context = Context::new(&format!("FROM {base}\nARG SIDE\n{step}\n"));
        let (code, messages) = compare(stack, |way| {
            // Without an output buildx warns at a moment of its own.
            let args = ["--progress", "plain", "-o", "type=cacheonly"];
            let output = way.build(context.path(), args).without_env("SSH_AUTH_SOCK").fails();
            (output.status.code(), messages(&output))
        });
        assert_eq!(code, Some(1), "{name}");
        assert!(messages.iter().any(|line| line.contains(expected)), "{name}: {messages:#?}");
    }
}

#[test]
fn an_interrupted_client_ends_as_it_does_otherwise() {
    let stack = Stack::shared();
    let context = Context::new(&format!("FROM {}\nARG SIDE\nRUN echo begun-$SIDE && sleep 600\n", stack.base_image()));
    let code = compare(stack, |way| {
        let running = way.build(context.path(), ["--progress", "plain"]).spawn();
        let begun = format!("begun-{}\n", way.is_split);
        until("the step to run", || running.stderr(), |output| output.contains(&begun) && output.contains("sleep"));
        running.signal(Signal::INT);
        running.wait().status.code()
    });
    assert_eq!(code, Some(130));
}

#[test]
fn targets_that_share_a_context() {
    let stack = Stack::shared();
    let dockerfile = format!(
        "FROM {} AS build\nARG WHICH=one\nARG SIDE\nCOPY big /big\nRUN echo $WHICH > /which\n\
         FROM scratch\nCOPY --from=build /which /big /\n",
        stack.base_image()
    );
    let file = "variable \"SIDE\" {}\nvariable \"OUT\" {}\nvariable \"CACHE\" {}\n\
        group \"default\" { targets = [\"one\", \"two\", \"three\"] }\n"
        .to_owned()
        + &["one", "two", "three"].map(target).concat();
    let context = Context::new(&dockerfile).file("docker-bake.hcl", file).noise("big", 2 << 20, 5);
    let trees = compare(stack, |way| {
        let out = way.stack.fresh_path("-bake");
        let run = way.builder.buildx(["bake", "--progress", "plain"]).dir(context.path());
        // Or it asks whether targets may write to a folder elsewhere.
        let run = run.env("BUILDX_BAKE_ENTITLEMENTS_FS", "0");
        let cache = if way.is_split { "type=linkspan,ref=sessions/bake-" } else { "" };
        run.env("SIDE", way.is_split.to_string()).env("OUT", &out).env("CACHE", cache).ok();
        tree(&out)
    });
    let which: BTreeMap<_, _> = trees.iter().filter(|(path, _)| path.ends_with("which")).collect();
    assert_eq!(which.values().map(|text| text.trim()).collect::<Vec<_>>(), ["one", "three", "two"]);
}

fn target(name: &str) -> String {
    format!(
        "target \"{name}\" {{\n  args = {{ WHICH = \"{name}\", SIDE = SIDE }}\n  \
         output = [\"type=local,dest=${{OUT}}/{name}\"]\n  cache-to = CACHE == \"\" ? [] : [\"${{CACHE}}{name}\"]\n}}\n"
    )
}
