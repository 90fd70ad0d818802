//! `linkspan cache`, on every engine.

use std::path::Path;

use linkspan::engine::EngineKind;
use linkspan::engine::select::{Selection, select};
use serde_json::Value;

use crate::common::{Part, Run, Stack, text};
use crate::fixture::{INDEX, MANIFEST, caches, containerd, docker, store};

fn linkspan(args: &[&str], engine: &[&str]) -> Run {
    let run = Run::new(env!("CARGO_BIN_EXE_linkspan")).args(args.iter().copied()).args(engine.iter().copied());
    ["DOCKER_HOST", "CONTAINERD_ADDRESS", "CONTAINERD_NAMESPACE"].iter().fold(run, |run, name| run.without_env(name))
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
    let containerd_flags =
        ["--engine", "containerd", "--containerd-address", stack.containerd_address(), "--namespace", "commands"];
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
        assert!(table.starts_with("REF") && table.contains("team/app") && table.contains("linux/amd64"), "{table}");
        assert_eq!(run(&["cache", "ls", "-q", "team/app"]).ok().stdout.trim(), app.id);
        let listed: Vec<_> = run(&["cache", "ls", "--json"]).ok().lines().iter().map(|line| json(line)).collect();
        assert_eq!(listed.len(), 2);
        assert_eq!((&listed[0]["id"], &listed[0]["mode"]), (&other.id.as_str().into(), &"max".into()));

        let usage = json(&run(&["cache", "du", "--json"]).ok().stdout);
        let numbers = |at: usize| ["unique", "shared"].map(|key| usage["versions"][at][key].as_u64().unwrap());
        assert_eq!((numbers(0)[1], numbers(1)[1]), (3, 3), "both have the layer `two`: {usage}");
        assert_eq!(usage["total"], numbers(0)[0] + numbers(1)[0] + 3);
        assert!(run(&["cache", "du"]).ok().stdout.contains("Total: "));

        let shown = json(&run(&["cache", "inspect", "team/app"]).ok().stdout);
        assert_eq!((&shown[0]["missingLayers"], shown[0]["layers"].as_array().unwrap().len()), (&0.into(), 2));
        let unknown = run(&["cache", "inspect", "unknown"]).fails();
        assert!(unknown.stderr.contains("no cache `unknown`") && unknown.stderr.contains("cache ls"), "{unknown}");

        let dry = run(&["cache", "prune", "--filter", "ref=team/*", "--dry-run"]).ok().stdout;
        assert!(dry.contains("Would delete: team/app (linux/amd64)"), "{dry}");
        assert_eq!(run(&["cache", "prune", "--filter", "until=1h"]).ok().stdout, "Total reclaimed space: 0B\n");
        assert_eq!(run(&["cache", "prune"]).fails().status.code(), Some(2), "nothing says what");
        assert_eq!(run(&["cache", "ls", "-q"]).ok().lines().len(), 2);
        run(&["cache", "rm", "other", "unknown"]).fails();
        run(&["cache", "rm", "other"]).ok();
        assert_eq!(run(&["cache", "ls", "-q"]).ok().stdout.trim(), app.id);
        run(&["cache", "prune", "--keep-storage", "10kB"]).ok();
        assert_eq!(run(&["cache", "ls", "-q"]).ok().stdout.trim(), app.id, "it is shorter than that");
        run(&["cache", "prune", "--all"]).ok();
        assert_eq!(run(&["cache", "ls", "-q"]).ok().stdout, "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_is_exported_and_imported() {
    let stack = Stack::shared();
    let flags = ["--engine", "containerd", "--containerd-address", stack.containerd_address(), "--namespace", "copies"];
    let caches = caches(&*containerd(stack, "copies").await);
    store(&caches, "app:main", "linux/amd64", &["one", "two"], MANIFEST).await;
    store(&caches, "app:main", "linux/arm64", &["two", "three"], MANIFEST).await;
    let folder = stack.fresh_path("-exported");
    let run = |args: &[&str]| linkspan(args, &flags);
    let said = run(&["cache", "export", "app:main", text(&folder)]).ok().stdout;
    assert!(said.contains("app:main (linux/arm64): 2 layers, 5B copied"), "{said}");
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
    assert!(missing.stderr.contains("/nowhere/at/all"), "{missing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_classic_store_caches_are_in_a_folder() {
    let stack = Stack::classic();
    let folder = stack.fresh_path("-cache");
    let selection = Selection {
        kind: Some(EngineKind::DockerClassic),
        docker_host: Some(stack.docker_classic_host().to_owned()),
        cache_dir: Some(folder.clone()),
        ..Selection::default()
    };
    let caches = caches(&*select(&selection).await.unwrap().engine);
    let (version, _) = store(&caches, "app", "", &["one"], INDEX).await;
    assert!(folder.join("index.json").is_file());
    let flags =
        ["--engine", "docker-classic", "--docker-host", stack.docker_classic_host(), "--cache-dir", text(&folder)];
    assert_eq!(linkspan(&["cache", "ls", "-q"], &flags).ok().stdout.trim(), version.id);
    linkspan(&["cache", "rm", "app"], &flags).ok();
    assert!(caches.versions(None).await.unwrap().is_empty());
}
