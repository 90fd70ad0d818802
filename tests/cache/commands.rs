//! `linkspan cache`, on every engine.

use std::fs;
use std::path::Path;
use std::process::Command;

use linkspan::engine::EngineKind;
use linkspan::engine::select::{Selection, select};
use serde_json::Value;

use crate::common::{self, Part, Run, Stack, text};
use crate::fixture::{INDEX, MANIFEST, caches, containerd, docker, store};

fn linkspan(args: &[&str], engine: &[&str]) -> Run {
    common::linkspan(args.iter().copied()).args(engine)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn caches_are_listed_measured_removed_and_pruned_on_every_engine() {
    // Of its own: all its caches are counted.
    let stack = &Stack::start(&[Part::Containerd, Part::Dockerd]);
    let path = stack.fresh_path("-layout");
    let layout = ["--engine", "layout", "--layout", text(&path)];
    let docker_flags = [
        "--engine",
        "docker",
        "--docker-host",
        stack.docker_host(),
        "--containerd-address",
        stack.containerd_address(),
    ];
    let containerd_flags = stack.containerd_flags("commands");
    let folder = select(&Selection::layout(&path)).await.unwrap().engine;
    let engines = [
        (folder, &layout[..]),
        (docker(stack).await, &docker_flags),
        (containerd(stack, "commands").await, &containerd_flags),
    ];
    for (engine, flags) in engines {
        let caches = caches(&*engine);
        let (app, _) = store(&caches, "team/app", "linux/amd64", &["one", "two"], INDEX).await;
        let (other, _) = store(&caches, "other", "linux/amd64", &["two"], MANIFEST).await;
        let run = |args: &[&str]| linkspan(args, flags);
        let table = run(&["cache", "ls"]).ok().stdout;
        assert!(table.starts_with("ID ") && table.contains("team/app") && table.contains("linux/amd64"), "{table}");
        assert!(table.lines().all(|line| line.len() <= 80), "{table}");
        assert_eq!(run(&["cache", "ls", "-q", "--no-trunc", "team/app"]).ok().stdout.trim(), app.id);
        let begin = &app.id[..app.id.len() - 4];
        let row = table.lines().find(|line| line.contains("team/app")).unwrap();
        let short = row.split_whitespace().next().unwrap();
        for id in [short, &short[..6], &app.id["linkspan-cache-".len()..], &app.id["linkspan-cache-".len()..][..6]] {
            assert_eq!(json(&run(&["cache", "inspect", "--json", id]).ok().stdout)[0]["id"], app.id, "{id}");
        }
        assert_eq!(run(&["cache", "ls", "-q", "--no-trunc", "team/*"]).ok().stdout.trim(), app.id);
        assert_eq!(run(&["cache", "ls", "-q", "--no-trunc", "--filter", "ref=oth*"]).ok().stdout.trim(), other.id);
        assert_eq!(run(&["cache", "ls", "-q", "--filter", "until=1h"]).ok().stdout, "");
        assert_eq!(run(&["cache", "ls", "-q", "--no-trunc", begin, "unknown"]).ok().stdout.trim(), app.id);
        assert_eq!(run(&["cache", "ls", "-q", &other.id, "team/app"]).ok().lines().len(), 2);
        let listed: Vec<_> = run(&["cache", "ls", "--json"]).ok().lines().iter().map(|line| json(line)).collect();
        assert_eq!(listed.len(), 2);
        assert_eq!((&listed[0]["id"], &listed[0]["mode"]), (&other.id.as_str().into(), &"max".into()));
        assert_eq!(listed[1]["shortId"], short);
        // As tables show them, with -q and without.
        assert_eq!(run(&["cache", "ls", "-q", "team/app"]).ok().stdout.trim(), short);
        let whole = run(&["cache", "ls", "--no-trunc", "team/app"]).ok().stdout;
        assert!(whole.lines().nth(1).unwrap().starts_with(&app.id), "{whole}");

        let usage = json(&run(&["cache", "du", "--json"]).ok().stdout);
        let numbers = |at: usize| ["unique", "shared"].map(|key| usage["versions"][at][key].as_u64().unwrap());
        assert_eq!((numbers(0)[1], numbers(1)[1]), (3, 3), "both have the layer `two`: {usage}");
        assert_eq!(usage["total"], numbers(0)[0] + numbers(1)[0] + 3);
        assert!(run(&["cache", "du"]).ok().stdout.contains("Total: "));

        let shown = json(&run(&["cache", "inspect", "team/app"]).ok().stdout);
        assert_eq!((&shown[0]["missingLayers"], shown[0]["layers"].as_array().unwrap().len()), (&0.into(), 2));
        let both = json(&run(&["cache", "inspect", begin, "other", &app.id]).ok().stdout);
        assert_eq!((&both[0]["id"], both.as_array().unwrap().len()), (&app.id.as_str().into(), 2), "each once");
        let unknown = run(&["cache", "inspect", "unknown"]).fails();
        let hint = format!("`linkspan cache ls --engine {}", flags[1]);
        assert!(unknown.stderr.contains("no cache `unknown`") && unknown.stderr.contains(&hint), "{unknown}");
        let ambiguous = run(&["cache", "inspect", "linkspan-cache-"]).fails();
        assert!(ambiguous.stderr.contains("no cache"), "too short: {ambiguous}");

        let dry = run(&["cache", "prune", "--filter", "ref=team/*", "--dry-run"]).ok().stdout;
        assert!(dry.starts_with("Would delete: ") && dry.contains(" team/app (linux/amd64), "), "{dry}");
        assert_eq!(run(&["cache", "prune", "--filter", "until=1h"]).ok().stdout, "Total reclaimed space: 0B\n");
        assert_eq!(run(&["cache", "prune"]).fails().status.code(), Some(2), "nothing says what");
        assert_eq!(run(&["cache", "ls", "-q"]).ok().lines().len(), 2);
        let commas = run(&["cache", "prune", "--filter", "ref=a,b"]).fails();
        assert!(commas.stderr.contains("repeat --filter"), "{commas}");
        let dry = run(&["cache", "rm", "--dry-run", "other"]).ok().stdout;
        let short = listed[0]["shortId"].as_str().unwrap();
        assert_eq!(dry, format!("Would delete: {short} other (linux/amd64)\n"));
        let dry = json(&run(&["cache", "rm", "--dry-run", "--json", "other"]).ok().stdout);
        assert_eq!(dry, serde_json::json!({"versions": [other.id], "dryRun": true}));
        assert_eq!(run(&["cache", "ls", "-q"]).ok().lines().len(), 2, "dry runs remove nothing");
        let removed = run(&["cache", "rm", "unknown", &other.id[..other.id.len() - 3], "other"]).fails();
        assert_eq!(removed.status.code(), Some(1));
        assert!(removed.stdout.starts_with(&format!("Deleted: {short} other (linux/amd64)\n")), "{removed}");
        assert_eq!(removed.stdout.contains("for an hour"), flags[1] == "layout", "{removed}");
        assert!(removed.stderr.contains("no cache `unknown`"), "{removed}");
        assert_eq!(run(&["cache", "ls", "-q", "--no-trunc"]).ok().stdout.trim(), app.id);
        run(&["cache", "prune", "--keep-storage", "10kB"]).ok();
        assert_eq!(run(&["cache", "ls", "-q", "--no-trunc"]).ok().stdout.trim(), app.id, "it is shorter than that");
        run(&["cache", "prune", "--keep-storage", "0.01MB"]).ok();
        assert_eq!(run(&["cache", "ls", "-q", "--no-trunc"]).ok().stdout.trim(), app.id);
        let whole = json(&run(&["cache", "du", "--json"]).ok().stdout)["total"].clone();
        let dry = run(&["cache", "prune", "--all", "--dry-run"]).ok().stdout;
        let amount =
            dry.split_once("Would reclaim: up to ").unwrap().1.strip_suffix("; what images have of it stays\n");
        assert_eq!(json(&run(&["cache", "prune", "--all", "--dry-run", "--json"]).ok().stdout)["bytes"], whole);
        let pruned = run(&["cache", "prune", "--all"]).ok().stdout;
        let total = if flags[1] == "layout" { "To be reclaimed" } else { "Total reclaimed space" };
        let total = format!("\n{total}: up to {}; what images have of it stays\n", amount.unwrap());
        assert!(pruned.contains(&total), "{total} in {pruned}");
        assert_eq!(run(&["cache", "ls", "-q"]).ok().stdout, "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_is_exported_and_imported() {
    let stack = Stack::shared();
    let flags = stack.containerd_flags("copies");
    let caches = caches(&*containerd(stack, "copies").await);
    store(&caches, "app:main", "linux/amd64", &["one", "two"], MANIFEST).await;
    store(&caches, "app:main", "linux/arm64", &["two", "three"], MANIFEST).await;
    let folder = stack.fresh_path("-exported");
    let run = |args: &[&str]| linkspan(args, &flags);
    let output = run(&["cache", "export", "app:main", text(&folder)]).ok().stdout;
    assert!(output.contains("app:main (linux/arm64): 2 layers, 5B copied"), "{output}");
    let from = |tag: &str| format!("--cache-from type=local,src={},tag={tag}", text(&folder));
    let (newest, other) = (from("app:main   # linux/arm64"), from("app:main-linux-amd64   # linux/amd64"));
    assert!(output.contains(&newest) && output.contains(&other), "{output}");
    let archive = stack.fresh_path("-exported.tar");
    run(&["cache", "export", "app:main", text(&archive)]).ok();
    run(&["cache", "rm", "app:main"]).ok();
    run(&["cache", "import", text(&archive), "from-tar"]).ok();
    assert_eq!(caches.versions(None).await.unwrap().len(), 2);
    run(&["cache", "rm", "from-tar"]).ok();
    run(&["cache", "import", text(&folder), "again"]).ok();
    let versions = caches.versions(None).await.unwrap();
    let shown: Vec<_> = versions.iter().map(|it| (it.reference.as_str(), it.title.as_str(), it.layers)).collect();
    assert_eq!(shown, [("again", "linux/arm64", 2), ("again", "linux/amd64", 2)]);
    let missing = run(&["cache", "import", text(Path::new("/nowhere/at/all")), "x"]).fails();
    assert!(missing.stderr.contains("/nowhere/at/all: no such folder or file"), "{missing}");
    let none = run(&["cache", "import", "--tag", "zzz", text(&folder), "x"]).fails();
    assert!(none.stderr.contains("no build cache `zzz`") && none.stderr.contains("it has app:main"), "{none}");
    let plain = stack.fresh_path("-plain");
    fs::create_dir(&plain).unwrap();
    fs::write(plain.join("file"), "x").unwrap();
    for folder in [text(&plain), text(plain.parent().unwrap())] {
        let refused = run(&["cache", "import", folder, "x"]).fails();
        assert!(refused.stderr.contains(&format!("`{folder}` is no OCI image layout")), "{refused}");
        assert!(refused.stderr.contains("expected what `linkspan cache export` writes"), "{refused}");
        assert!(!refused.stderr.contains("new folder"), "{refused}");
    }
    // What is there already is replaced, and that is said.
    let replaced = run(&["cache", "import", text(&folder), "again"]).ok().stdout;
    assert_eq!(replaced, "again (linux/amd64): 2 layers, 0B copied\nagain (linux/arm64): 2 layers, 0B copied\n");
    let (changed, _) = store(&caches, "changed", "linux/arm64", &["two", "four"], MANIFEST).await;
    let one = run(&["cache", "export", "--json", "changed", text(&folder)]).ok().stdout;
    assert_eq!(json(&one)["tags"], serde_json::json!([{"of": "linux/arm64", "tag": "changed"}]));
    let unnamed = run(&["cache", "import", text(&folder), "again"]).fails();
    let expected = format!("`{}` has 2 build caches, and none was named", text(&folder));
    assert!(unnamed.stderr.contains(&expected), "{unnamed}");
    let versions = caches.versions(Some(&"again".parse().unwrap())).await.unwrap();
    let import = ["cache", "import", "--tag", "changed", text(&folder), "again"];
    let output = json(&run(&[&import[..], &["--json"]].concat()).ok().stdout);
    assert_eq!(output["versions"][0]["replaced"], versions.iter().find(|it| it.part == changed.part).unwrap().id);
    run(&["cache", "rm", "changed"]).ok();
    let import = ["cache", "import", "--tag", "app:main", text(&folder), "again"];
    let output = run(&import).ok().stdout;
    // The engine may have collected the layer that only the replaced version had.
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines[0], "again (linux/amd64): 2 layers, 0B copied", "that is the same");
    assert!(lines[1].ends_with(" copied, in place of what the ref had of this part"), "{output}");
    let versions = caches.versions(None).await.unwrap();
    // Only one part, by its id.
    let one = versions.iter().find(|version| version.title == "linux/amd64").unwrap();
    let (one, alone) = (&one.id, stack.fresh_path("-alone"));
    let output = run(&["cache", "export", &one[..one.len() - 2], text(&alone)]).ok().stdout;
    assert!(output.contains("tag=again   # linux/amd64") && !output.contains("arm64"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_or_an_archive_that_no_cache_can_have_is_refused() {
    let stack = Stack::shared();
    let path = stack.fresh_path("-refused");
    store(&caches(&*select(&Selection::layout(&path)).await.unwrap().engine), "app", "", &["one"], INDEX).await;
    let run = |args: &[&str]| linkspan(args, &["--layout", text(&path)]);
    for name in ["-", "c.tar.gz", "c.tgz"] {
        let refused = run(&["cache", "export", "app", name]).fails();
        assert_eq!(refused.status.code(), Some(2), "{refused}");
        assert!(refused.stderr.contains("ends in `.tar`"), "{refused}");
    }
    let archive = stack.fresh_path("-whole.tar");
    run(&["cache", "export", "app", text(&archive)]).ok();
    let bytes = fs::read(&archive).unwrap();
    for (content, expected) in [
        (&bytes[..520], "may be truncated: export the cache again"),
        (&bytes[..bytes.len() - 1200], "may be truncated: export the cache again"),
        (b"text", "linkspan cache export"),
    ] {
        fs::write(&archive, content).unwrap();
        let refused = run(&["cache", "import", text(&archive), "app"]).fails();
        assert!(refused.stderr.contains(expected) && !refused.stderr.contains("image"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_archive_is_imported_whole_or_not_at_all() {
    let stack = Stack::shared();
    let path = stack.fresh_path("-packed");
    let open = async || select(&Selection::layout(&path)).await;
    let (version, _) = store(&caches(&*open().await.unwrap().engine), "app", "", &["one", "two"], INDEX).await;
    let run = |args: &[&str]| linkspan(args, &["--layout", text(&path)]);
    let archive = stack.fresh_path("-packed.tar");
    run(&["cache", "export", "app", text(&archive)]).ok();
    for (program, end) in [("gzip", "gz"), ("zstd", "zst"), ("xz", "xz"), ("bzip2", "bz2")] {
        let packed = format!("{}.{end}", text(&archive));
        let bytes = Command::new(program).args(["-c", text(&archive)]).output().unwrap();
        assert!(bytes.status.success(), "{program}: {bytes:?}");
        fs::write(&packed, &bytes.stdout).unwrap();
        run(&["cache", "import", &packed, program]).ok();
        let caches = caches(&*open().await.unwrap().engine);
        let found = caches.versions(Some(&program.parse().unwrap())).await.unwrap();
        assert_eq!(found.iter().map(|it| &it.root).collect::<Vec<_>>(), [&version.root], "{program}");

        fs::write(&packed, &bytes.stdout[..bytes.stdout.len() / 2]).unwrap();
        let refused = run(&["cache", "import", &packed, "half"]).fails();
        assert!(refused.stderr.contains(&packed), "{refused}");
        assert!(caches.versions(Some(&"half".parse().unwrap())).await.unwrap().is_empty(), "{program}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_cut_to_the_width_of_a_terminal_and_nowhere_else() {
    let stack = Stack::shared();
    let path = stack.fresh_path("-wide");
    let reference = "github.com/acme/shop/api:feature-login-with-a-long-name";
    let layout = select(&Selection::layout(&path)).await.unwrap().engine;
    store(&caches(&*layout), reference, "linux/amd64,linux/arm64", &["one"], INDEX).await;
    let flags = ["--layout", text(&path)];
    let on_terminal = |args: &[&str]| {
        let command = [&[env!("CARGO_BIN_EXE_linkspan")], args, &flags].concat().join(" ");
        let script = format!("stty cols 80 rows 24; exec {command}");
        Run::new("script").args(["-qec", &script, "/dev/null"]).env("SHELL", "/bin/sh").ok().stdout
    };
    for command in ["ls", "du"] {
        let seen = on_terminal(&["cache", command]);
        assert!(seen.lines().all(|line| line.trim_end().chars().count() <= 80), "{seen}");
        assert!(seen.contains("github.com/acme/") && seen.contains('…') && !seen.contains(reference), "{seen}");
        let whole = on_terminal(&["cache", command, "--no-trunc"]);
        let piped = linkspan(&["cache", command], &flags).ok().stdout;
        for text in [whole, piped] {
            assert!(text.contains(reference) && text.contains("linux/amd64,linux/arm64"), "{text}");
        }
    }
    assert!(on_terminal(&["cache", "ls", "--json"]).contains(reference));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_classic_store_caches_are_in_a_folder() {
    let stack = Stack::classic();
    let folder = stack.fresh_path("-cache");
    let selection = Selection {
        kind: Some(EngineKind::DockerClassic),
        docker_host: Some(stack.docker_classic_host().parse().unwrap()),
        cache_dir: Some(folder.clone()),
        ..Selection::default()
    };
    let caches = caches(&*select(&selection).await.unwrap().engine);
    let (version, _) = store(&caches, "app", "", &["one"], INDEX).await;
    assert!(folder.join("index.json").is_file());
    let flags =
        ["--engine", "docker-classic", "--docker-host", stack.docker_classic_host(), "--cache-dir", text(&folder)];
    assert_eq!(linkspan(&["cache", "ls", "-q", "--no-trunc"], &flags).ok().stdout.trim(), version.id);
    linkspan(&["cache", "rm", "app"], &flags).ok();
    assert!(caches.versions(None).await.unwrap().is_empty());
}

#[test]
fn an_import_that_fails_leaves_nothing() {
    let stack = Stack::start(&[Part::Containerd, Part::Dockerd]);
    let folder = stack.fresh_path("-broken");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let layout = select(&Selection::layout(&folder)).await.unwrap().engine;
        store(&caches(&*layout), "app", "", &["one", "two"], MANIFEST).await;
    });
    // The last layer to be read is not what its name says.
    let blob = folder.join("blobs/sha256").join(linkspan::image::Digest::sha256(b"two").hex());
    std::fs::remove_file(&blob).unwrap();
    std::fs::write(&blob, "owt").unwrap();
    let flags = stack.docker_flags();
    let output = linkspan(&["cache", "import", text(&folder), "app"], &flags).fails();
    assert_eq!((stack.leases("moby"), stack.ingests("moby")), (Vec::new(), Vec::new()), "{output}");
}
