//! What a client gives to a build: secrets, agents, contexts, however large.

use std::{fs, path::Path};

use crate::{
    both_ways::BothWays,
    common::{Context, Run, Stack, text},
};

#[test]
fn secrets() {
    let stack = Stack::shared();
    let sides = BothWays::of(stack);
    let dockerfile = "FROM base\nARG SIDE\n\
         RUN --mount=type=secret,id=file --mount=type=secret,id=variable,env=VARIABLE \
         echo \"$(wc -c < /run/secrets/file) $VARIABLE $SIDE\" > /seen\n";
    let context = Context::new(&dockerfile.replace("FROM base", &format!("FROM {}", stack.base_image())))
        .noise("secret", 100_000, 1);
    sides.compare(|side| {
        let tag = side.tag("secret");
        let (file, nonce) = (format!("id=file,src={}/secret", text(context.path())), format!("SIDE={}", side.name));
        let args = [
            "--load",
            "-t",
            &tag,
            "--secret",
            &file,
            "--secret",
            "id=variable,env=SECRET_VARIABLE",
            "--build-arg",
            &nonce,
        ];
        let output = side.builder.build(context.path(), args).env("SECRET_VARIABLE", "the-variable").ok();
        side.check_way(&output);
        assert!(!output.stderr.contains("the-variable"), "{output}");
        side.run_image(&tag, &["cat", "/seen"]).replace(side.name, "")
    });
    assert!(!sides.linkspan.log().contains("the-variable"), "a secret is in the log");
}

#[test]
fn a_secret_that_is_missing() {
    let stack = Stack::shared();
    let sides = BothWays::of(stack);
    let context =
        Context::new(&format!("FROM {}\nRUN --mount=type=secret,id=absent,required=true true\n", stack.base_image()));
    let code = sides.compare(|side| {
        let output = side.builder.build(context.path(), ["--load"]).fails();
        assert!(output.stderr.contains("secret absent: not found"), "{output}");
        output.status.code()
    });
    assert_eq!(code, Some(1));
}

#[test]
fn an_ssh_agent() {
    let stack = Stack::shared();
    let sides = BothWays::of(stack);
    let key = stack.fresh_path("-key");
    stack.run("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "the-comment", "-f", text(&key)]).ok();
    let context = with_program(Context::new(&format!(
        "FROM {}\nCOPY root /\nARG SIDE\nRUN --mount=type=ssh /usr/bin/ssh-add -l > /keys; echo $SIDE\n",
        stack.base_image()
    )));
    let keys = sides.compare(|side| {
        let tag = side.tag("ssh");
        let (ssh, nonce) = (format!("default={}", key.display()), format!("SIDE={}", side.name));
        let output =
            side.builder.build(context.path(), ["--load", "-t", &tag, "--ssh", &ssh, "--build-arg", &nonce]).ok();
        side.check_way(&output);
        side.run_image(&tag, &["cat", "/keys"])
    });
    let expected = stack.run("ssh-keygen").args(["-l", "-f", text(&key)]).ok().stdout;
    // The client's agent keeps no comment, the fingerprint is what counts.
    assert_eq!(keys.split(' ').nth(1), expected.split(' ').nth(1), "{keys} {expected}");
}

/// `ssh-add` and the libraries that it needs, below `root`.
pub(crate) fn with_program(context: Context) -> Context {
    let program = "/usr/bin/ssh-add";
    let libraries = Run::new("ldd").arg(program).ok();
    let paths = libraries.stdout.split_whitespace().filter(|word| word.starts_with('/'));
    let context = context.file("root/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n");
    paths.chain([program]).fold(context, |context, path| {
        let target = context.path().join("root").join(&path[1..]);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(path, target).unwrap();
        context
    })
}

#[test]
fn named_contexts() {
    let stack = Stack::shared();
    let sides = BothWays::of(stack);
    let context = Context::new(
        "FROM base\nCOPY --from=folder a /a\nCOPY --from=layout Dockerfile /d\nCOPY --from=image /bin/busybox /b\n",
    );
    let folder = Context::new("").file("a", "from the named context\n");
    let layout = layout_of(stack, &Context::new("FROM scratch\nCOPY Dockerfile /\n"));
    sides.compare(|side| {
        let base = format!("base=docker-image://{}", stack.base_image());
        let image = format!("image=docker-image://{}", stack.base_image());
        let (folder, layout) =
            (format!("folder={}", text(folder.path())), format!("layout=oci-layout://{}:latest", text(&layout)));
        let contexts = [&base, &image, &folder, &layout].map(|one| ["--build-context", one]).concat();
        let digest = side.load(&context, "named", &contexts);
        assert_eq!(side.run_image(&side.tag("named"), &["cat", "/a"]), "from the named context\n");
        digest
    });
}

/// An OCI layout folder, made by the builder itself.
fn layout_of(stack: &Stack, context: &Context) -> std::path::PathBuf {
    let folder = stack.fresh_path("-layout");
    let output = format!("type=oci,tar=false,name=x:latest,dest={}", folder.display());
    stack.builder(stack.buildkit_host()).build(context.path(), ["-o", &output]).ok();
    folder
}

#[test]
fn ten_thousand_files() {
    let sides = BothWays::of(Stack::shared());
    let context = Context::new("FROM scratch\nCOPY many /many\n").files("many", 10_000);
    sides.compare(|side| side.load(&context, "many", &[]));
}

#[test]
fn file_patterns_larger_than_a_header_usually_is() {
    // Every source of a COPY and every line of .dockerignore becomes a header of one request.
    let long = "a-folder-with-a-rather-long-name/".repeat(5);
    let names: Vec<_> = (0..400).map(|n| format!("{long}{n:03}")).collect();
    let ignored: String = (0..1500).map(|n| format!("{long}ignored-{n:04}\n")).collect();
    let dockerfile = format!("FROM scratch\nCOPY {} /all/\n", names.join(" \\\n"));
    assert!(ignored.len() > 256 << 10);
    let context = Context::new(&dockerfile).file(".dockerignore", ignored);
    let context = names.iter().fold(context, |context, name| context.file(name, name));
    let sides = BothWays::of(Stack::shared());
    sides.compare(|side| side.load(&context, "patterns", &[]));
}

#[test]
fn a_context_from_standard_input() {
    let sides = BothWays::of(Stack::shared());
    let context = Context::new("FROM scratch\nCOPY a /a\n").file("a", "from standard input");
    let tar = Run::new("tar").args(["--mtime=@0", "-C", text(context.path()), "-cf", "-", "."]).ok().stdout;
    sides.compare(|side| {
        let tag = side.tag("stdin");
        let output = side.builder.build(Path::new("-"), ["--load", "-t", &tag]).stdin(tar.clone()).ok();
        side.check_way(&output);
        side.digest(&tag)
    });
}

#[test]
fn an_empty_image() {
    let sides = BothWays::of(Stack::shared());
    let context = Context::new("FROM scratch\nLABEL empty=true\n");
    sides.compare(|side| side.load(&context, "empty", &[]));
}
