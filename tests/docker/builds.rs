//! Builds with the engine's own builder, by every way that clients have to it.

use std::fs;

use crate::{
    both_ways::{BothWays, base, tree},
    common::{Context, Stack, text},
};

fn context(stack: &Stack) -> Context {
    let dockerfile = format!(
        "FROM {}\nCOPY . /context\nARG WORD\nRUN --network=host --mount=type=secret,id=s cat /run/secrets/s > /secret\n\
         RUN --network=host echo $WORD && ls /context | wc -l > /count\nCMD [\"cat\", \"/secret\", \"/count\"]\n",
        base(stack)
    );
    Context::new(&dockerfile).files("many", 200).noise("large", 5 << 20, 3)
}

#[test]
fn buildx_with_the_docker_driver() {
    let sides = BothWays::of(Stack::shared());
    let context = context(sides.stack);
    let secret = sides.stack.fresh_path(".secret");
    fs::write(&secret, "whisper\n").unwrap();
    let args = ["--network", "host", "--allow", "network.host", "--build-arg", "SOURCE_DATE_EPOCH=1700000000"];
    let secret = format!("id=s,src={}", text(&secret));
    for front in [&["build"][..], &["buildx", "build"]] {
        let (_, stdout, _) = sides.compare(|side| {
            let (tag, iid) = (side.named("built"), side.stack.fresh_path(".iid"));
            let run = side.docker(front.iter().copied()).args(args).args(["--secret", &secret, "-t", &tag]);
            run.args(["--iidfile", text(&iid)]).arg(context.path()).ok();
            assert!(fs::read_to_string(&iid).unwrap().starts_with("sha256:"));
            side.outcome(&side.run(["--rm", &tag]).ok())
        });
        assert_eq!(stdout, "whisper\n3\n");
    }
    // Results that come back over the session.
    sides.compare(|side| {
        let to = side.stack.fresh_path("-results");
        let run = side.docker(["buildx", "build"]).args(args).args(["--secret", &secret, "-o", text(&to)]);
        run.arg(context.path()).ok();
        tree(&to)
    });
    sides.compare(|side| side.outcome(&side.docker(["buildx", "du", "--filter", "type=none-such"]).output()));
}

#[test]
fn builds_that_fail() {
    let sides = BothWays::of(Stack::shared());
    for (dockerfile, word) in [
        (format!("FROM {}\nRUN --network=host exit 42\n", base(sides.stack)), "exit code: 42"),
        ("FROM scratch\nCOPY not-there /\n".to_owned(), "not-there"),
        ("NONSENSE\n".to_owned(), "NONSENSE"),
    ] {
        let context = Context::new(&dockerfile);
        sides.compare(|side| {
            let output = side.docker(["build", "--network", "host", "--progress", "plain"]).arg(context.path()).fails();
            assert!(output.stderr.contains(word), "{output}");
            let last = output.stderr.lines().rfind(|line| line.starts_with("ERROR: ")).unwrap();
            // References of the builder's own are new in each build.
            let words: Vec<_> = last.split(' ').filter(|word| !word.contains("::")).map(str::to_owned).collect();
            (output.status.code(), words)
        });
    }
}

#[test]
fn the_old_builder() {
    let sides = BothWays::of(Stack::shared());
    let context = Context::new(&format!("FROM {}\nCOPY file /file\nCMD [\"cat\", \"/file\"]\n", base(sides.stack)));
    let context = context.file("file", "by the old builder\n").noise("large", 5 << 20, 4);
    let (_, stdout, _) = sides.compare(|side| {
        let tag = side.named("old");
        side.docker(["build", "-t", &tag]).env("DOCKER_BUILDKIT", "0").arg(context.path()).ok();
        side.outcome(&side.run(["--rm", &tag]).ok())
    });
    assert_eq!(stdout, "by the old builder\n");
    // The context as the request's body, from standard input.
    let dockerfile = format!("FROM {}\nCMD [\"echo\", \"piped\"]\n", base(sides.stack));
    sides.compare(|side| {
        let tag = side.named("piped");
        side.docker(["build", "-t", &tag, "-"]).env("DOCKER_BUILDKIT", "0").stdin(dockerfile.as_str()).ok();
        side.outcome(&side.run(["--rm", &tag]).ok())
    });
}

/// dockerd (from 29.2 on) speaks gRPC on its socket without any upgrade.
#[test]
fn grpc_without_an_upgrade() {
    let sides = BothWays::of(Stack::shared());
    let (_, stdout, _) = sides.compare(|side| {
        let args = ["--addr", &side.host, "debug", "workers", "--format", "{{range .}}{{.ID}}{{end}}"];
        side.outcome(&side.stack.buildctl(args).ok())
    });
    assert!(!stdout.trim().is_empty());
    sides.compare(|side| {
        let context = Context::new("FROM scratch\nCOPY file /\n").file("file", "by buildctl");
        let to = side.stack.fresh_path("-buildctl");
        let local = |name: &str| format!("{name}={}", text(context.path()));
        let (dockerfile, inputs) = (local("dockerfile"), local("context"));
        let output = format!("type=local,dest={}", text(&to));
        let args = ["--addr", &side.host, "build", "--frontend", "dockerfile.v0", "--local", &dockerfile, "--local"];
        side.stack.buildctl(args).args([&inputs, "--output", &output]).ok();
        tree(&to)
    });
}
