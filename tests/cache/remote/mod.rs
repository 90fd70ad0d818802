//! `linkspan cache` through a daemon: what it prints and does, beside the same commands on the engine itself.

pub(crate) mod midway;

use std::fs;
use std::path::Path;

use linkspan::engine::Engine;
use linkspan::engine::select::{Selection, select};
use linkspan::image::Digest;
use serde_json::{Value, json};

use crate::client::{Server, target};
use crate::common::{Output, Run, Stack, linkspan, text, until};
use crate::fixture::{INDEX, MANIFEST, caches, containerd, docker, store};

impl Server {
    /// `linkspan cache ARGS` through the daemon.
    fn through(&self, args: &[&str]) -> Run {
        linkspan(["cache"]).args(args).args(["--to", &self.linkspan.address()])
    }

    /// The same on the engine.
    fn direct(&self, args: &[&str]) -> Run {
        self.command(&[&["cache"][..], args].concat())
    }
}

/// What users see of a command; what was used just now may be a minute old by the next one.
fn seen(output: Output) -> (Option<i32>, String, String) {
    (output.status.code(), output.stdout.replace("1 minute ago", "just now"), output.stderr)
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The files below a folder, but for those of Linkspan's own, and the index without what differs from export to export.
fn content(folder: &Path) -> (Vec<(String, Vec<u8>)>, Value) {
    let mut blobs: Vec<_> = fs::read_dir(folder.join("blobs/sha256"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    blobs.sort();
    blobs.push(("oci-layout".to_owned(), fs::read(folder.join("oci-layout")).unwrap()));
    let mut index = json_of(&fs::read_to_string(folder.join("index.json")).unwrap());
    for entry in index["manifests"].as_array_mut().unwrap() {
        let annotations = entry["annotations"].as_object_mut().unwrap();
        annotations
            .retain(|key, _| !["id", "created", "used"].iter().any(|own| *key == format!("dev.linkspan.cache.{own}")));
    }
    (blobs, index)
}

/// Daemons in front of a layout, a namespace of containerd, and dockerd, with their engines.
async fn servers(namespace: &str) -> Vec<(&'static str, Server, std::sync::Arc<dyn Engine>)> {
    let (layout, folder) = Server::layout();
    let engine = select(&Selection::layout(&folder)).await.unwrap().engine;
    let (server, stack) = (Server::containerd(namespace), Stack::shared());
    let containerd = containerd(stack, namespace).await;
    vec![
        ("layout", layout, engine),
        ("containerd", server, containerd),
        ("docker", Server::docker(), docker(stack).await),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_prints_the_same_as_on_the_engine_itself() {
    for (name, server, engine) in servers("remote-same").await {
        let caches = caches(&*engine);
        // The shared dockerd has caches of other tests.
        let refs = ["app", "other", "third"].map(|word| format!("remote-same/{word}"));
        let [app, other, third] = refs.each_ref().map(String::as_str);
        let (amd, _) = store(&caches, app, "linux/amd64", &["same: one", "same: two"], INDEX).await;
        store(&caches, app, "linux/arm64", &["same: two"], MANIFEST).await;
        store(&caches, other, "linux/amd64", &["same: two", "same: three"], MANIFEST).await;
        store(&caches, third, "", &["same: four"], INDEX).await;
        let listed = server.direct(&["ls", "remote-same/*"]).ok().stdout;
        let row = listed.lines().find(|line| line.contains("linux/arm64")).unwrap();
        let short = row.split_whitespace().next().unwrap();
        // Uses are noted to the hour: these note none but the first time.
        for args in [
            &["ls", "remote-same/*"][..],
            &["ls", "--json", app, other],
            &["ls", "-q", "remote-same/*", "--filter", "ref=*/o*"],
            &["ls", "-q", &amd.id, &short[..6], "unknown"],
            &["ls", "--filter", "until=1h", "remote-same/*"],
            &["ls", "--filter", "since=1h"],
            &["inspect", app, other],
            &["inspect", short],
            &["inspect", &amd.id[..amd.id.len() - 2]],
            &["prune", "--filter", "ref=remote-same/*", "--dry-run"],
            &["prune", "--filter", "ref=remote-same/*", "--filter", "until=1h"],
            &["prune", "--filter", "ref=remote-same/*", "--keep-storage", "0", "--dry-run", "--json"],
            &["prune", "--filter", "ref=remote-same/*", "--keep-storage", "1TB"],
            &["prune"],
            &["rm", "--dry-run", short, other],
            &["rm", "--dry-run", "--json", app],
            &["inspect", "linkspan-cache-"],
            &["export", app, "-"],
            &["export", app, "cache.tar.gz"],
            &["import", "/nowhere/at/all", app],
            &["rm", "-app"],
        ] {
            let (there, here) = (seen(server.through(args).output()), seen(server.direct(args).output()));
            assert_eq!((there.0, &there.1), (here.0, &here.1), "{name}: {args:?}: {} {}", there.2, here.2);
            // Hints repeat the flags of the command.
            let first = |text: &str| text.lines().next().unwrap_or_default().to_owned();
            assert_eq!(first(&there.2), first(&here.2), "{name}: {args:?}");
        }
        // Other tests change what all caches take together in the shared engines.
        if name == "layout" {
            for args in [&["du"][..], &["du", "--json"], &["prune", "--all", "--dry-run"], &["ls"]] {
                assert_eq!(seen(server.through(args).output()), seen(server.direct(args).output()), "{args:?}");
            }
        }
        let du = json_of(&server.through(&["du", "--json"]).ok().stdout);
        let shared = du["versions"].as_array().unwrap().iter().filter(|it| it["ref"] == other).map(|it| &it["shared"]);
        assert_eq!(shared.collect::<Vec<_>>(), [&json!(9)], "{name}: the layer that both caches have");

        let unknown = server.through(&["inspect", "remote-same/none"]).fails();
        let hint = format!("`linkspan cache ls --to {}`", server.linkspan.address());
        assert!(unknown.stderr.contains("no cache `remote-same/none`") && unknown.stderr.contains(&hint), "{unknown}");

        let removed = server.through(&["rm", short, "remote-same/none", other]).fails();
        let lines: Vec<_> =
            removed.stdout.lines().take(2).map(|line| line.splitn(3, ' ').collect::<Vec<_>>()).collect();
        let expected = [format!("{app} (linux/arm64)"), format!("{other} (linux/amd64)")];
        assert_eq!(lines[0], ["Deleted:", short, &expected[0]]);
        assert_eq!((lines[1][0], lines[1][1].len(), lines[1][2]), ("Deleted:", 12, expected[1].as_str()));
        assert_eq!((removed.stdout.contains("for an hour"), removed.status.code()), (name == "layout", Some(1)));
        let left = server.direct(&["ls", "-q", "remote-same/*"]).ok();
        assert_eq!(left.lines().len(), 2, "{left}");
        let pruned = server.through(&["prune", "--filter", "ref=remote-same/*"]).ok().stdout;
        assert!(pruned.contains(&format!(" {app} (linux/amd64), ")), "{name}: {pruned}");
        assert_eq!(server.direct(&["ls", "-q", "remote-same/*"]).ok().stdout, "", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_is_exported_byte_for_byte_and_imported_without_what_is_there() {
    for (name, server, engine) in servers("remote-copies").await {
        let stack = server.stack;
        let caches = caches(&*engine);
        let (app, copy) = ("remote-copies/app", "remote-copies/copy");
        let long = "copies: long ".repeat(200_000);
        store(&caches, app, "linux/amd64", &["copies: one", &long], MANIFEST).await;
        let (newest, _) = store(&caches, app, "linux/arm64", &["copies: two", "copies: one"], INDEX).await;
        let paths = ["here", "there"].map(|word| stack.fresh_path(&format!("-{name}-{word}")));
        let [here, there] = paths.each_ref().map(|path| text(path));
        let plain = server.direct(&["export", app, here]).ok().stdout;
        let through = server.through(&["export", app, there]).ok();
        assert_eq!(through.stdout.replace(there, here), plain, "{name}");
        assert_eq!(content(&paths[0]), content(&paths[1]), "{name}");
        // One part, by its short id; what the folder has is not copied again.
        let id = json_of(&server.through(&["ls", "--json", &newest.id]).ok().stdout)["shortId"].clone();
        let again = json_of(&server.through(&["export", "--json", id.as_str().unwrap(), there]).ok().stdout);
        assert_eq!(again["versions"][0]["copied"], 0, "{name}: {again}");

        // All blobs are there: none is sent. The versions are copies under another ref, with their parts.
        let import = json_of(&server.through(&["import", "--json", there, copy]).ok().stdout);
        let copied = |at: usize| (import["versions"][at]["of"].as_str().unwrap(), &import["versions"][at]["copied"]);
        assert_eq!([copied(0), copied(1)], [("linux/amd64", &json!(0)), ("linux/arm64", &json!(0))], "{name}");
        let of = |reference: &str, keys: &[&str]| -> Vec<Value> {
            let lines = server.direct(&["ls", "--json", reference]).ok().stdout;
            let pick = |line: &str| keys.iter().map(|key| json_of(line)[key].clone()).collect::<Vec<_>>().into();
            lines.lines().map(pick).collect()
        };
        let same = ["part", "of", "mode", "root", "layers", "size"];
        assert_eq!(of(app, &same), of(copy, &same), "{name}");
        assert_eq!(of(copy, &["builder"])[0], json!(["linkspan cache"]), "{name}");

        // The rest of the output is that of the command on the engine: replaced, unchanged, sent.
        let words = |output: Output| output.stdout;
        assert_eq!(
            words(server.through(&["import", there, copy]).ok()),
            words(server.direct(&["import", here, copy]).ok())
        );
        let archive = stack.fresh_path(&format!("-{name}.tar"));
        server.through(&["export", app, text(&archive)]).ok();
        server.direct(&["rm", app, copy]).ok();
        let ours =
            linkspan(["cache", "import", text(&archive), "remote-copies/new", "--to"]).arg(server.linkspan.address());
        let output = ours.ok().stdout;
        let lines: Vec<_> = output.lines().collect();
        assert!(lines[0].starts_with("remote-copies/new (linux/amd64): 2 layers, "), "{name}: {output}");
        assert_eq!(of("remote-copies/new", &["part", "root"]).len(), 2);
        server.direct(&["rm", "remote-copies/new"]).ok();
        server.until_released_but(name);
    }
}

impl Server {
    /// Waits until nothing is held, where no other test holds anything.
    fn until_released_but(&self, engine: &str) {
        if engine != "docker" {
            self.until_released();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_lost_stays_out_of_copies_and_a_cache_of_buildkit_keeps_having_no_parts() {
    let (server, folder) = Server::layout();
    let stack = server.stack;
    let engine = select(&Selection::layout(&folder)).await.unwrap().engine;
    store(&caches(&*engine), "app", "linux/amd64", &["lost", "left"], MANIFEST).await;
    let blob = |folder: &Path, text: &str| folder.join("blobs/sha256").join(Digest::sha256(text.as_bytes()).hex());
    fs::remove_file(blob(&folder, "lost")).unwrap();
    let (here, there) = (stack.fresh_path("-here"), stack.fresh_path("-there"));
    let plain = server.direct(&["export", "app", text(&here)]).ok().stdout;
    assert!(plain.starts_with("app (linux/amd64): 2 layers, 1 missing, 4B copied\n"), "{plain}");
    let through = server.through(&["export", "app", text(&there)]).ok().stdout;
    assert_eq!(through.replace(text(&there), text(&here)), plain);
    assert_eq!(content(&here), content(&there));
    let copies = ["one", "two"].map(|word| format!("copy/{word}"));
    let through = server.through(&["import", "--json", text(&there), &copies[0]]).ok().stdout;
    let plain = server.direct(&["import", "--json", text(&here), &copies[1]]).ok().stdout;
    let [mut through, mut plain] = [through, plain].map(|text| json_of(&text)["versions"][0].clone());
    for version in [&mut through, &mut plain] {
        version.as_object_mut().unwrap().retain(|key, _| !["id", "ref"].contains(&key.as_str()));
    }
    assert_eq!((&through, &through["missingLayers"]), (&plain, &json!(1)));

    // As BuildKit writes it: an entry with a tag, and nothing of ours.
    let theirs = stack.fresh_path("-theirs");
    store(&caches(&*select(&Selection::layout(&theirs)).await.unwrap().engine), "x", "", &["left"], INDEX).await;
    let index = theirs.join("index.json");
    let mut document = json_of(&fs::read_to_string(&index).unwrap());
    document["manifests"][0]["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
    fs::write(&index, document.to_string()).unwrap();
    server.through(&["import", text(&theirs), "buildkit"]).ok();
    let listed = json_of(&server.through(&["ls", "--json", "buildkit"]).ok().stdout);
    assert_eq!((&listed["part"], &listed["of"]), (&json!(""), &json!("")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_daemon_does_not_let_be_written_stays_and_costs_no_bytes() {
    let (server, folder) = Server::layout_with(&["--allow-cache", "team/*"]);
    let stack = server.stack;
    let engine = select(&Selection::layout(&folder)).await.unwrap().engine;
    let caches = caches(&*engine);
    store(&caches, "team/app", "", &["one"], INDEX).await;
    store(&caches, "other", "linux/amd64", &["two"], INDEX).await;
    store(&caches, "other", "linux/arm64", &["three"], INDEX).await;
    let expected = "linkspan: error: the cache ref `other` is not allowed here: expected one of team/*\n\
                    linkspan: hint: choose such a ref, or allow this one with `--allow-cache`\n";
    for dry in [&["--dry-run"][..], &[]] {
        let removed = server.through(&[&["rm", "other", "team/app"][..], dry].concat()).fails();
        let verb = if dry.is_empty() { "Deleted" } else { "Would delete" };
        assert!(
            removed.stdout.starts_with(&format!("{verb}: ")) && removed.stdout.contains(" team/app\n"),
            "{removed}"
        );
        assert!(!removed.stdout.contains("other"), "{removed}");
        assert_eq!((removed.stderr.as_str(), removed.status.code()), (expected, Some(1)));
    }
    store(&caches, "team/app", "", &["one"], INDEX).await;
    for (dry, verb) in [(&["--dry-run"][..], "Would delete"), (&[], "Deleted")] {
        let pruned = server.through(&[&["prune", "--all"][..], dry].concat()).ok();
        assert!(pruned.stdout.starts_with(&format!("{verb}: ")) && pruned.stdout.contains(" team/app, "), "{pruned}");
        assert!(pruned.stderr.contains("note: the daemon lets 2 versions stay"), "{pruned}");
    }
    assert_eq!(caches.versions(None).await.unwrap().len(), 2);
    // Reading is not writing.
    let exported = stack.fresh_path("-exported");
    server.through(&["export", "other", text(&exported)]).ok();
    let refused = server.through(&["import", text(&exported), "other/copy"]).fails();
    assert_eq!(refused.stderr, expected.replace("`other`", "`other/copy`"));
    server.until_released();
    server.through(&["import", text(&exported), "team/copy"]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_reached_or_has_no_such_api_is_named_with_what_to_do() {
    let nobody = linkspan(["cache", "ls", "--to", "unix:///no/such/door.sock"]).fails();
    assert!(nobody.stderr.contains("unix:///no/such/door.sock: No such file or directory"), "{nobody}");
    assert!(nobody.stderr.contains("hint: ") && nobody.stderr.contains("--export-listen"), "{nobody}");
    let remote = linkspan(["cache", "du", "--to", "tcp://192.0.2.1:1"]).fails();
    assert_eq!(remote.status.code(), Some(2));
    assert!(remote.stderr.contains("on another machine") && remote.stderr.contains("--to ssh://"), "{remote}");
    for flags in [["--engine", "docker"], ["--cache-dir", "/x"]] {
        let both = linkspan(["cache", "ls", "--to", "unix:///x.sock"]).args(flags).output();
        assert_eq!(both.status.code(), Some(2), "{both}");
    }
    // containerd is a gRPC server without it.
    let socket = format!("unix://{}", Stack::shared().containerd_address());
    for args in [&["ls"][..], &["du"], &["inspect", "a"], &["rm", "a"], &["prune", "-a"], &["export", "a", "/tmp/x"]] {
        let other = linkspan(["cache"]).args(args).args(["--to", &socket]).fails();
        assert_eq!(other.status.code(), Some(1), "{other}");
        let expected = format!("containerd listens at {socket}, and not Linkspan's exporter API");
        assert!(other.stderr.contains(&expected) && !other.stderr.contains("upgrade"), "{other}");
    }

    // The environment names a daemon unless a flag names an engine.
    let (server, folder) = Server::layout();
    server.client().await.export(vec![target("a", "app", "")], &["one"]).await;
    let listed = linkspan(["cache", "ls", "-q"]).env("LINKSPAN_TO", server.linkspan.address()).ok();
    assert_eq!((listed.lines().len(), listed.stderr.as_str()), (1, ""));
    let named =
        linkspan(["cache", "ls", "-q", "--layout", text(&folder)]).env("LINKSPAN_TO", "unix:///no/such.sock").ok();
    assert_eq!(named.stdout, listed.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_or_too_large_is_refused_as_on_the_engine() {
    let (server, layout) = Server::layout_with(&["--cache-max-bytes", "2KiB"]);
    let stack = server.stack;
    let folder = stack.fresh_path("-broken");
    let source = caches(&*select(&Selection::layout(&folder)).await.unwrap().engine);
    store(&source, "damaged", "", &["one", "two"], MANIFEST).await;
    store(&source, "long", "", &["one", &"x".repeat(4000)], MANIFEST).await;
    let blob = folder.join("blobs/sha256").join(Digest::sha256(b"two").hex());
    fs::remove_file(&blob).unwrap();
    fs::write(&blob, "owt").unwrap();
    let damaged = server.through(&["import", "--tag", "damaged", text(&folder), "copy"]).fails();
    assert!(damaged.stderr.contains(Digest::sha256(b"two").as_str()), "{damaged}");
    let long = ["import", "--tag", "long", text(&folder), "copy"];
    let through = server.through(&long).fails();
    let direct = server.direct(&long).env("LINKSPAN_CACHE_MAX_BYTES", "2KiB").fails();
    assert_eq!(through.stderr, direct.stderr);
    assert!(through.stderr.contains("hint: raise `--cache-max-bytes`"), "{through}");
    assert_eq!(server.through(&["ls", "-q"]).ok().stdout, "");
    server.until_released();

    // A version whose config is lost says why, and the command of the hint works.
    let (version, digests) =
        store(&caches(&*select(&Selection::layout(&layout)).await.unwrap().engine), "app", "", &["one"], INDEX).await;
    let config = &digests[1];
    fs::remove_file(layout.join("blobs/sha256").join(&config["sha256:".len()..])).unwrap();
    for command in [&["inspect", "app"][..], &["export", "app", text(&stack.fresh_path("-none"))]] {
        let (there, here) = (seen(server.through(command).output()), seen(server.direct(command).output()));
        assert_eq!(there, here, "{command:?}");
        assert!(
            there.2.contains(&format!("the version {} of the cache `app` cannot be used", version.id)),
            "{there:?}"
        );
        assert!(there.2.contains(&format!("`linkspan cache rm {}`", version.id)), "{there:?}");
    }
    server.through(&["rm", &version.id]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_classic_store_the_folder_of_caches_is_used_through_a_daemon() {
    let stack = Stack::classic();
    let caches_folder = stack.fresh_path("-cache");
    let engine = ["--engine", "docker-classic", "--docker-host", stack.docker_classic_host()];
    let server = Server::start(stack, &[&engine[..], &["--cache-dir", text(&caches_folder)]].concat(), &[]);
    let folder = stack.fresh_path("-theirs");
    store(&caches(&*select(&Selection::layout(&folder)).await.unwrap().engine), "app", "", &["one"], INDEX).await;
    let imported = server.through(&["import", text(&folder), "copy"]).ok().stdout;
    assert_eq!(imported, "copy: 1 layer, 3B copied\n");
    let listed = server.through(&["ls", "--json"]).ok().stdout;
    assert_eq!(listed, server.direct(&["ls", "--json"]).ok().stdout);
    let (here, there) = (stack.fresh_path("-here"), stack.fresh_path("-there"));
    server.through(&["export", "copy", text(&there)]).ok();
    server.direct(&["export", "copy", text(&here)]).ok();
    assert_eq!(content(&here), content(&there));
    let removed = server.through(&["rm", "copy"]).ok().stdout;
    assert!(removed.contains("The folder keeps these bytes for an hour"), "{removed}");
    let leases = caches_folder.join(".linkspan/leases");
    until("the leases to go", || leases.read_dir().map_or(0, Iterator::count), |leases| *leases == 0);
}
