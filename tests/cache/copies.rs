//! Copies of caches that end midway, find no room, or leave parts out.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use linkspan::engine::select::{Selection, select};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::client::Server;
use crate::common::{Disk, Run, Stack, linkspan, text, until};
use crate::fixture::{INDEX, MANIFEST, caches, store};
use crate::remote::midway::{large, until_half_way};

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// `linkspan cache ARGS` on the layout `folder`.
fn on(folder: &Path, args: &[&str]) -> Run {
    linkspan(["cache"]).args(args).args(["--layout", text(folder)])
}

async fn layout(folder: &Path) -> std::sync::Arc<linkspan::caches::Caches> {
    caches(&*select(&Selection::layout(folder)).await.unwrap().engine)
}

fn blob(folder: &Path, digest: &str) -> PathBuf {
    folder.join("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap())
}

/// The names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_interrupted_removes_what_it_made_and_says_what_stays() {
    let stack = Stack::shared();
    let source = large(stack, 8).await;
    for end in [Signal::INT, Signal::TERM] {
        let new = stack.fresh_path("-new").join("below/it");
        let exporting = on(&source, &["export", "large", text(&new)]).spawn();
        until_half_way(&new);
        exporting.signal(end);
        let output = exporting.wait();
        assert_eq!(output.status.code(), Some(128 + end.as_raw()), "{output}");
        assert_eq!(output.stderr, "linkspan: error: interrupted; nothing was left behind\n");
        assert!(!new.parent().unwrap().parent().unwrap().exists(), "{output}");
    }

    // An empty folder stays, and is empty.
    let empty = stack.fresh_path("-empty");
    fs::create_dir(&empty).unwrap();
    let exporting = on(&source, &["export", "large", text(&empty)]).spawn();
    until_half_way(&empty);
    exporting.signal(Signal::INT);
    let output = exporting.wait();
    assert!(output.stderr.contains("nothing was left behind"), "{output}");
    assert_eq!(names(&empty), Vec::<String>::new());

    // In a layout that was there, what was copied is used by the next copy.
    let there = stack.fresh_path("-there");
    store(&layout(&there).await, "other", "", &["one"], INDEX).await;
    let exporting = on(&source, &["export", "large", text(&there)]).spawn();
    until("layers to be complete", || names(&there.join("blobs/sha256")).len(), |blobs| *blobs > 5);
    exporting.signal(Signal::INT);
    let output = exporting.wait();
    let expected = format!(
        "interrupted; layers that were copied stay in {} for an hour, unlisted, and the next copy there uses them",
        text(&there)
    );
    assert!(output.stderr.contains(&expected), "{output}");
    assert_eq!(names(&there.join(".linkspan/leases")), Vec::<String>::new());
    let again = json_of(&on(&source, &["export", "--json", "large", text(&there)]).ok().stdout);
    let total = json_of(&on(&source, &["export", "--json", "large", text(&empty)]).ok().stdout);
    let copied = |of: &Value| of["versions"][0]["copied"].as_u64().unwrap();
    assert!(copied(&again) < copied(&total), "{again} {total}");

    // An archive appears whole or not at all.
    let folder = stack.fresh_path("-archives");
    fs::create_dir(&folder).unwrap();
    let exporting = on(&source, &["export", "large", text(&folder.join("x.tar"))]).spawn();
    until_half_way(&folder);
    exporting.signal(Signal::INT);
    let output = exporting.wait();
    assert!(output.stderr.contains("interrupted; nothing was left behind"), "{output}");
    assert_eq!(names(&folder), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_export_leaves_is_used_or_removed_by_the_next_one() {
    let stack = Stack::shared();
    let source = large(stack, 8).await;
    let to = stack.fresh_path("-killed");
    let exporting = on(&source, &["export", "large", text(&to)]).spawn();
    until("layers to be complete", || names_if_any(&to.join("blobs/sha256")).len(), |blobs| *blobs > 2);
    exporting.signal(Signal::KILL);
    exporting.wait();
    let whole = stack.fresh_path("-whole");
    let total = json_of(&on(&source, &["export", "--json", "large", text(&whole)]).ok().stdout);
    let again = json_of(&on(&source, &["export", "--json", "large", text(&to)]).ok().stdout);
    let copied = |of: &Value| of["versions"][0]["copied"].as_u64().unwrap();
    assert!(copied(&again) < copied(&total), "{again} {total}");
    assert_eq!(names(&to.join("blobs/sha256")), names(&whole.join("blobs/sha256")));
    // The collector runs with a change of the index.
    on(&to, &["rm", "large"]).ok();
    for folder in ["leases", "uploads", "ingest"] {
        assert_eq!(names(&to.join(".linkspan").join(folder)), Vec::<String>::new(), "{folder}");
    }

    let folder = stack.fresh_path("-archives");
    fs::create_dir(&folder).unwrap();
    let archive = folder.join("x.tar");
    let exporting = on(&source, &["export", "large", text(&archive)]).spawn();
    until_half_way(&folder);
    // While it is written, another export leaves it alone.
    let left = folder.join(&names(&folder)[0]);
    let old = SystemTime::now() - Duration::from_secs(120);
    exporting.signal(Signal::STOP);
    File::options().write(true).open(&left).unwrap().set_modified(old).unwrap();
    on(&source, &["export", "large", text(&folder.join("y.tar"))]).ok();
    assert!(left.exists());
    exporting.signal(Signal::KILL);
    exporting.wait();
    File::options().write(true).open(&left).unwrap().set_modified(old).unwrap();
    on(&source, &["export", "large", text(&archive)]).ok();
    assert_eq!(names(&folder), ["x.tar", "y.tar"]);
}

fn names_if_any(folder: &Path) -> Vec<String> {
    if folder.is_dir() { names(folder) } else { Vec::new() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_fails_or_is_interrupted_removes_the_layout_that_it_made() {
    let stack = Stack::shared();
    let source = large(stack, 8).await;
    let new = stack.fresh_path("-new");
    let importing = on(&new, &["import", text(&source), "copy"]).spawn();
    until_half_way(&new);
    importing.signal(Signal::INT);
    let output = importing.wait();
    assert_eq!(output.stderr, "linkspan: error: interrupted; nothing was left behind\n");
    assert!(!new.exists());

    let damaged = stack.fresh_path("-damaged");
    let (_, digests) = store(&layout(&damaged).await, "app", "", &["one", "two"], MANIFEST).await;
    fs::remove_file(blob(&damaged, &digests[1])).unwrap();
    fs::write(blob(&damaged, &digests[1]), "owt").unwrap();
    let output = on(&new, &["import", text(&damaged), "copy"]).fails();
    assert!(output.stderr.contains(&digests[1]), "{output}");
    assert!(!new.exists(), "{output}");
    // Neither is left of an export, of which archives are verified as well.
    let output = on(&damaged, &["export", "app", text(&new)]).fails();
    assert!(output.stderr.contains(&digests[1]) && !new.exists(), "{output}");
    let archive = new.with_extension("tar");
    let output = on(&damaged, &["export", "app", text(&archive)]).fails();
    assert!(output.stderr.contains(&digests[1]) && !archive.exists(), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_or_read_only_is_named_with_what_helps() {
    let stack = Stack::shared();
    let source = large(stack, 4).await;
    let disk = Disk::new(64 << 20);
    disk.fill(4 << 20);
    let engine = ["docker image prune", "--layout", "engine", ".linkspan-"];
    for name in ["x.tar", "folder"] {
        let target = disk.root().join(name);
        let output = on(&source, &["export", "large", text(&target)]).fails();
        assert!(output.stderr.contains(text(&target)) && output.stderr.contains("hint: free space"), "{output}");
        assert!(!engine.iter().any(|word| output.stderr.contains(word)), "{output}");
        assert!(!target.exists(), "{output}");
    }
    // Images, too.
    let output = on(&disk.root().join("layout"), &["import", text(&source), "copy"]).fails();
    let expected = format!("the disk of the layout {} is full", text(&disk.root().join("layout")));
    assert!(output.stderr.contains(&expected) && !output.stderr.contains("docker"), "{output}");
    assert_eq!(names(&disk.root()), ["ballast", "lost+found"]);

    // An archive is read in place: neither its disk nor $TMPDIR needs room.
    let archive = disk.root().join("small.tar");
    let small = stack.fresh_path("-small");
    store(&layout(&small).await, "app", "", &["one"], INDEX).await;
    on(&small, &["export", "app", text(&archive)]).ok();
    disk.fill(0);
    on(&stack.fresh_path("-in"), &["import", text(&archive), "app"]).env("TMPDIR", "/no/such/folder").ok();
    let compressed = stack.fresh_path("-large.tar.gz");
    let tar = stack.fresh_path("-large.tar");
    on(&source, &["export", "large", text(&tar)]).ok();
    let packed = Run::new("sh").args(["-c", &format!("gzip -1 -c {} > {}", text(&tar), text(&compressed))]);
    packed.ok();
    let into = stack.fresh_path("-in");
    let absent = disk.root().join("absent");
    let output = on(&into, &["import", text(&compressed), "app"]).env("TMPDIR", &absent).fails();
    assert!(output.stderr.contains("hint: set TMPDIR to a folder that can be written"), "{output}");
    let output = on(&into, &["import", text(&compressed), "app"]).env("TMPDIR", disk.root()).fails();
    assert!(output.stderr.contains(text(&compressed)) && output.stderr.contains(text(&disk.root())), "{output}");
    assert!(output.stderr.contains("hint: set TMPDIR") && output.stderr.contains("read in place"), "{output}");
    disk.clear();

    Run::new("mount").args(["-o", "remount,ro"]).arg(disk.root()).ok();
    for name in ["x.tar", "folder"] {
        let target = disk.root().join(name);
        let output = on(&source, &["export", "large", text(&target)]).fails();
        assert!(output.stderr.contains(text(&target)), "{output}");
        assert!(output.stderr.contains("that you may write"), "{output}");
        assert!(!engine.iter().any(|word| output.stderr.contains(word)), "{output}");
    }
    let output = on(&source, &["export", "large", "folder"]).dir(disk.root()).fails();
    assert!(output.stderr.starts_with("linkspan: error: the folder folder cannot be written: "), "{output}");
    on(&stack.fresh_path("-in"), &["import", text(&archive), "app"]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_has_the_permissions_that_other_files_have_and_is_named_in_errors() {
    let stack = Stack::shared();
    let folder = stack.fresh_path("-app");
    store(&layout(&folder).await, "app", "", &["one"], INDEX).await;
    let archive = stack.fresh_path("-app.tar");
    let export = format!(
        "umask 022; exec {} cache export app {} --layout {}",
        env!("CARGO_BIN_EXE_linkspan"),
        text(&archive),
        text(&folder)
    );
    Run::new("sh").args(["-c", &export]).ok();
    assert_eq!(archive.metadata().unwrap().permissions().mode() & 0o777, 0o644);
    let listed = Run::new("tar").args(["-tf", text(&archive)]).ok();
    assert!(listed.stdout.starts_with("oci-layout\nindex.json\n"), "{listed}");

    fs::write(folder.join("index.json"), r#"{"manifests":[],"manifests":[1]}"#).unwrap();
    let hostile = stack.fresh_path("-hostile.tar");
    Run::new("tar").args(["-cf", text(&hostile), "-C", text(&folder), "oci-layout", "index.json"]).ok();
    let compressed = stack.fresh_path("-hostile.tar.gz");
    Run::new("tar").args(["-czf", text(&compressed), "-C", text(&folder), "oci-layout", "index.json"]).ok();
    for path in [&hostile, &compressed, &folder] {
        let output = on(&stack.fresh_path("-in"), &["import", text(path), "app"]).fails();
        let expected = format!("linkspan: error: {}: `index.json` is invalid: ", text(path));
        assert!(output.stderr.starts_with(&expected), "{output}");
    }
}

/// A daemon in front of a layout, and how to reach it and its engine.
struct Ways {
    server: Server,
    folder: PathBuf,
}

impl Ways {
    fn new() -> Self {
        let (server, folder) = Server::layout();
        Self { server, folder }
    }

    fn each(&self) -> [Vec<String>; 2] {
        let words = |words: [&str; 2]| words.map(str::to_owned).to_vec();
        [words(["--layout", text(&self.folder)]), words(["--to", &self.server.linkspan.address()])]
    }
}

#[test]
fn an_import_from_a_pipe_that_nobody_opens_can_be_interrupted() {
    let stack = Stack::shared();
    let (pipe, into) = (stack.fresh_path("-pipe"), stack.fresh_path("-into"));
    Run::new("mkfifo").args([text(&pipe)]).ok();
    let importing = on(&into, &["import", text(&pipe), "app"]).spawn();
    until("the signal to be caught", || importing.catches(Signal::INT), |caught| *caught);
    importing.signal(Signal::INT);
    let output = importing.wait();
    assert_eq!(output.status.code(), Some(130), "{output}");
    assert!(!into.exists(), "{output}");
}

/// `nohup` starts a command with SIGHUP ignored. `env` does so here, because a shell itself catches SIGINT.
#[test]
fn a_command_that_was_told_to_outlive_its_terminal_does() {
    let stack = Stack::shared();
    for (hangup, is_caught) in [("--ignore-signal=HUP", false), ("--default-signal=HUP", true)] {
        let (pipe, into) = (stack.fresh_path("-pipe"), stack.fresh_path("-into"));
        Run::new("mkfifo").args([text(&pipe)]).ok();
        let import = ["cache", "import", text(&pipe), "app", "--layout", text(&into)];
        let importing = Run::new("env").args([hangup, env!("CARGO_BIN_EXE_linkspan")]).args(import).spawn();
        until("SIGINT to be caught", || importing.catches(Signal::INT), |caught| *caught);
        assert_eq!(importing.catches(Signal::HUP), is_caught, "{hangup}");
        importing.signal(Signal::INT);
        let output = importing.wait();
        assert_eq!(output.status.code(), Some(130), "{hangup}: {output}");
    }
}

#[test]
fn tags_that_somebody_wrote_into_an_index_are_shown_without_effect() {
    let folder = Stack::shared().fresh_path("-tags");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let digest = format!("sha256:{}", "0".repeat(64));
    let entry = |tag: String| {
        let annotations = json!({"org.opencontainers.image.ref.name": tag});
        json!({"mediaType": INDEX, "digest": digest, "size": 1, "annotations": annotations})
    };
    let tags = [format!("a\u{1b}[31m\nlinkspan: error: {}", "z".repeat(5000)), "other".to_owned()];
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": tags.map(entry)});
    fs::write(folder.join("index.json"), index.to_string()).unwrap();
    let into = Stack::shared().fresh_path("-into");
    let output = on(&into, &["import", text(&folder), "app"]).fails();
    assert!(output.stderr.lines().all(|line| line.len() < 1000 && !line.contains('\u{1b}')), "{output}");
    assert_eq!(output.stderr.matches("linkspan: error: ").count(), 1 + output.stderr.matches("\\nlinkspan").count());
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_are_left_out_are_named_and_the_others_are_copied() {
    let ways = Ways::new();
    let stack = ways.server.stack;
    let source = stack.fresh_path("-source");
    let caches = layout(&source).await;
    let (_, lost) = store(&caches, "app", "linux/amd64", &["left out: one"], INDEX).await;
    let (_, damaged) = store(&caches, "app", "linux/arm64", &["left out: two"], INDEX).await;
    store(&caches, "app", "linux/s390x", &["left out: three"], INDEX).await;
    fs::remove_file(blob(&source, &lost[1])).unwrap();
    let layer = blob(&source, &damaged[0]);
    fs::remove_file(&layer).unwrap();
    fs::write(&layer, "left out: owt").unwrap();
    let index = source.join("index.json");
    let mut listed = json_of(&fs::read_to_string(&index).unwrap());
    let entries = listed["manifests"].as_array_mut().unwrap();
    let mut hostile = entries.last().unwrap().clone();
    for (key, value) in [("id", "linkspan-cache-0-0-0"), ("title", "bell \u{7}"), ("part", &"f".repeat(32))] {
        hostile["annotations"][format!("dev.linkspan.cache.{key}")] = value.into();
    }
    entries.push(hostile);
    fs::write(&index, listed.to_string()).unwrap();
    let archive = stack.fresh_path("-source.tar");
    Run::new("tar").args(["-cf", text(&archive), "-C", text(&source), "oci-layout", "index.json", "blobs"]).ok();

    for flags in ways.each() {
        for from in [&source, &archive] {
            let import =
                |args: &[&str]| linkspan(["cache", "import"]).args(args).args([text(from), "copy"]).args(&flags);
            let output = import(&[]).ok();
            assert!(output.stdout.starts_with("copy (linux/s390x): 1 layer, "), "{output}");
            assert_eq!(output.lines().len(), 1, "{output}");
            let warnings: Vec<_> = output.stderr.lines().collect();
            for (of, reason) in [
                ("linux/amd64", lost[1].as_str()),
                ("linux/arm64", &damaged[0]),
                ("bell", "a title of at most 512 bytes without control characters"),
            ] {
                let is_it = |line: &&&str| {
                    line.starts_with(&format!("linkspan: warning: app ({of}")) && line.contains(" was left out: ")
                };
                assert!(warnings.iter().find(is_it).is_some_and(|line| line.contains(reason)), "{of}: {output}");
            }
            assert_eq!(warnings.len(), 3, "{output}");
            let document = json_of(&import(&["--json"]).ok().stdout);
            let left_out: Vec<_> = document["leftOut"].as_array().unwrap().iter().map(|it| &it["of"]).collect();
            assert_eq!(left_out.len(), 3, "{document}");
            assert!(left_out.contains(&&json!("linux/arm64")), "{document}");
        }
        // Out of an engine the same.
        let output = linkspan(["cache", "rm", "copy"]).args(&flags).ok();
        assert!(output.stderr.is_empty(), "{output}");
    }

    // Nothing that can be used is an error.
    let none = stack.fresh_path("-none");
    let (_, digests) = store(&layout(&none).await, "app", "linux/amd64", &["one"], INDEX).await;
    fs::remove_file(blob(&none, &digests[1])).unwrap();
    for flags in ways.each() {
        let output = linkspan(["cache", "import", text(&none), "copy"]).args(&flags).fails();
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stderr.contains(&format!("{} does not hold {}", text(&none), digests[1])), "{output}");
        assert!(!output.stderr.contains("cache rm"), "{output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_beyond_the_limit_of_a_ref_are_named() {
    let ways = Ways::new();
    let stack = ways.server.stack;
    let source = stack.fresh_path("-many");
    let caches = layout(&source).await;
    for at in 0..66 {
        let reference = if at < 33 { "one" } else { "other" };
        store(&caches, reference, &format!("linux/p{at}"), &["many"], INDEX).await;
    }
    let index = source.join("index.json");
    let listed = fs::read_to_string(&index)
        .unwrap()
        .replace(r#""dev.linkspan.cache.ref":"other""#, r#""dev.linkspan.cache.ref":"one""#);
    fs::write(&index, listed).unwrap();
    let more = stack.fresh_path("-more");
    store(&layout(&more).await, "more", "linux/last", &["more"], INDEX).await;
    for (at, flags) in ways.each().iter().enumerate() {
        let reference = format!("copy/{at}");
        let output = linkspan(["cache", "import", "--json", text(&source), &reference]).args(flags).ok();
        let document = json_of(&output.stdout);
        let of = |list: &str| -> Vec<String> {
            document[list].as_array().unwrap().iter().map(|it| it["of"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(
            (of("versions").len(), of("leftOut"), of("dropped").len()),
            (64, vec!["linux/p1".to_owned(), "linux/p0".to_owned()], 0)
        );
        let expected = "was left out: a cache has at most 64 parts, and so many newer ones were taken";
        assert_eq!(output.stderr.lines().filter(|line| line.ends_with(expected)).count(), 2, "{output}");

        let output = linkspan(["cache", "import", text(&more), &reference]).args(flags).ok();
        let expected = format!(
            "linkspan: warning: {reference} (linux/p2) was deleted: a cache has at most 64 parts, and this one was not \
             used for longest\n"
        );
        assert_eq!(output.stderr, expected);
        let listed = linkspan(["cache", "ls", "-q", &reference]).args(flags).ok();
        assert_eq!(listed.lines().len(), 64);
    }
}

#[test]
fn every_command_says_what_listens_where_it_looked_for_the_exporter_api() {
    let stack = Stack::shared();
    let (server, _) = Server::layout();
    let daemon = crate::common::Linkspan::docker_door(stack);
    let others = [
        ("dockerd", stack.docker_host().to_owned()),
        ("containerd", format!("unix://{}", stack.containerd_address())),
        ("buildkitd", stack.buildkit_host().to_owned()),
    ];
    let commands =
        [&["images"][..], &["cache", "ls"], &["cache", "import", "/nowhere", "x"], &["load", "-i", "/dev/null"]];
    for (program, address) in &others {
        for command in commands.into_iter().chain([&["ps"][..]]) {
            let output = linkspan(command.iter().copied()).args(["--to", address]).fails();
            assert_eq!(output.status.code(), Some(1), "{output}");
            let expected =
                format!("linkspan: error: {program} listens at {address}, and not Linkspan's exporter API\n");
            assert!(output.stderr.starts_with(&expected), "{command:?}: {output}");
            assert!(!output.stderr.contains("upgrade"), "{output}");
        }
    }
    for command in commands {
        let output = linkspan(command.iter().copied()).args(["--to", &daemon.address()]).fails();
        let expected = format!("{} is Linkspan's docker door, and not that of the exporter API", daemon.address());
        assert!(output.stderr.contains(&expected), "{command:?}: {output}");
    }
    drop(server);
}
