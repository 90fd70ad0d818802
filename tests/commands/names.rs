//! `rm`, `tag` and what `images` lists: as docker has them, on every engine.

use std::fs;

use serde_json::{Value, json};

use crate::common::{Linkspan, Stack, text};
use crate::fixture::{Image, Layer};
use crate::{archive, image, layout, linkspan, listed, named, on};

#[test]
fn names_are_given_and_removed_on_every_engine() {
    let stack = Stack::shared();
    let folder = tempfile::tempdir().unwrap();
    let layout = ["--engine", "layout", "--layout", text(folder.path())];
    let docker = stack.docker_flags();
    let containerd = stack.containerd_flags("named");
    let image = image("named\n");
    let file = archive(&[(&image, named("docker.io/library/named:1"))]);
    let digest = image.root.digest.as_str();
    for engine in [&layout[..], &docker, &containerd] {
        let run = |args: &[&str]| linkspan(args.iter().copied()).args(engine);
        run(&["load", "-q", text(file.path())]).ok();
        run(&["tag", "named:1", "example.com/named:2"]).ok();
        assert_eq!(run(&["digest", "example.com/named:2"]).ok().stdout.trim(), digest, "{engine:?}");
        let refused = run(&["rm", &digest[7..19]]).fails();
        assert!(refused.stderr.contains("is called") && refused.stderr.contains("named:1"), "{refused}");
        let absent = run(&["rm", "absent:1", "named:1"]).fails();
        assert!(absent.stderr.contains("has no image `absent:1`"), "{absent}");
        let removed = run(&["rm", "named:1", "docker.io/library/named:1", "named:1"]).ok();
        assert_eq!(removed.stdout, "Untagged: named:1\n", "{engine:?}");
        let last = run(&["rm", "example.com/named:2", &digest[7..19], digest]).ok().stdout;
        assert_eq!(last, format!("Untagged: example.com/named:2\nDeleted: {digest}\n"), "{engine:?}");
        run(&["digest", "named:1"]).fails();

        // All names at once, and an image without any.
        run(&["load", "-q", text(file.path())]).ok();
        run(&["tag", digest, "named:3"]).ok();
        run(&["rm", "--force", digest]).ok();
        assert_eq!(run(&["images", "-q", "named"]).ok().stdout, "", "{engine:?}");
        let wrong = run(&["tag", "named:1", &format!("named@{digest}")]).fails();
        assert_eq!(wrong.status.code(), Some(2), "{wrong}");
    }

    // Of docker's images, dockerd hears of it.
    linkspan(["load", "-q", text(file.path())]).args(docker).ok();
    linkspan(["tag", "named:1", "named:again"]).args(docker).ok();
    stack.docker(["image", "inspect", "named:again"]).ok();
    linkspan(["rm", "named:1", "named:again"]).args(docker).ok();
    stack.docker(["image", "inspect", "named:again"]).fails();
}

#[test]
fn only_images_are_given_names() {
    let (stack, folder) = (Stack::shared(), tempfile::tempdir().unwrap());
    let layout = ["--engine", "layout", "--layout", text(folder.path())];
    let containerd = stack.containerd_flags("parts");
    let image = image("in parts\n");
    let file = archive(&[(&image, named("docker.io/library/parts:1"))]);
    for engine in [&layout[..], &containerd] {
        let run = |args: &[&str]| linkspan(args.iter().copied()).args(engine);
        run(&["load", "-q", text(file.path())]).ok();
        for part in [&image.config.digest, &image.layers[0].digest] {
            let refused = run(&["tag", part.as_str(), "part:1"]).fails();
            assert!(refused.stderr.contains("is no image, but a part of one"), "{refused}");
            assert!(refused.stderr.contains("hint: `linkspan images"), "{refused}");
        }
        run(&["tag", image.root.digest.as_str(), "whole:1"]).ok();
        assert_eq!(run(&["images", "--json"]).ok().lines().len(), 2, "{engine:?}");
    }
    // What was held meanwhile is given up.
    assert_eq!(fs::read_dir(folder.path().join(".linkspan/leases")).unwrap().count(), 0);
}

#[test]
fn an_unnamed_image_is_removed_by_its_digest() {
    let (image, folder) = (image("unnamed\n"), tempfile::tempdir().unwrap());
    layout(folder.path(), &[(&image, serde_json::json!({}))]);
    let output = on(&folder, &["rm", &image.root.digest.hex()[..12]]).ok().stdout;
    assert_eq!(output, format!("Deleted: {}\n", image.root.digest));
    assert_eq!(listed(&folder), []);
}

#[test]
fn through_a_daemon_names_are_given_and_not_removed() {
    let (stack, folder) = (Stack::shared(), tempfile::tempdir().unwrap());
    let engine = ["--engine", "layout", "--layout", text(folder.path())];
    let daemon = Linkspan::export(stack, &engine, &["--deny-tag-move"], stack.fresh_path("-names.sock"));
    let (one, other) = (image("one name\n"), image("another name\n"));
    let file = archive(&[(&one, named("docker.io/library/one:1")), (&other, named("docker.io/library/other:1"))]);
    let run = |args: &[&str]| linkspan(args.iter().copied()).args(["--to", &daemon.address()]);
    run(&["load", "-q", text(file.path())]).ok();
    run(&["tag", "one:1", "one:2"]).ok();
    assert_eq!(listed(&folder).len(), 3);
    let moved = run(&["tag", "one:1", "other:1"]).fails();
    assert!(moved.stderr.contains("names must not move here"), "{moved}");
    let refused = run(&["rm", "one:1"]).fails();
    assert!(refused.stderr.contains("does not offer removing images"), "{refused}");
    assert!(refused.stderr.contains("without --to"), "{refused}");
}

#[test]
fn lists_are_filtered_and_formatted_as_docker_does() {
    let stack = Stack::shared();
    let docker = stack.docker_flags();
    let image = image("formatted\n");
    let names = ["docker.io/team/formatted:1", "docker.io/team/formatted:2", "docker.io/library/formatted:1"];
    let file = archive(&names.map(|name| (&image, named(name))));
    linkspan(["load", "-q", text(file.path())]).args(docker).ok();
    let ours = |args: &[&str]| linkspan(args.iter().copied()).args(docker).ok().lines();
    let theirs = |args: &[&str]| stack.docker(args.iter().copied()).ok().lines();
    let format = "{{.Repository}}|{{.Tag}}|{{.ID}}";
    for more in [
        &["team/formatted"][..],
        &["team/formatted:1"],
        &["team/form*"],
        &["formatt?d:*"],
        &["*/formatted"],
        &["--filter", "reference=team/*:2"],
        &["--filter", "reference=team/*:2", "--filter", "reference=formatted"],
        &["--no-trunc", "formatted"],
    ] {
        let args = [&["images", "--format", format], more].concat();
        let (mut ours, mut theirs) = (ours(&args), theirs(&args));
        ours.sort();
        theirs.sort();
        assert_eq!(ours, theirs, "{more:?}");
        assert!(!ours.is_empty(), "{more:?}");
    }
    let table = ours(&["images", "--format", "table {{.Repository}}\t{{.Tag}}", "formatted"]);
    assert_eq!(table, theirs(&["images", "--format", "table {{.Repository}}\t{{.Tag}}", "formatted"]));
    let json: Value = serde_json::from_str(&ours(&["ls", "--format", "json", "formatted"])[0]).unwrap();
    assert_eq!((&json["Repository"], &json["Tag"]), (&"formatted".into(), &"1".into()));
    assert_eq!(ours(&["images", "-a", "-q", "formatted"]).len(), 1);
    assert_eq!(ours(&["images", "-q", "--filter", "dangling=true", "formatted"]).len(), 0);
    for wrong in [["--filter", "nonsense=1"], ["--filter", "dangling"], ["--format", "{{.Nothing}}"]] {
        let output = linkspan(["images"]).args(wrong).fails();
        assert_eq!(output.status.code(), Some(2), "{output}");
    }
}

#[test]
fn labels_and_ages_are_filters_too() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (Image::new(&[Layer::new().file("a", "old").tar()]), image("new\n"));
    layout(folder.path(), &[(&old, named("docker.io/library/old:1")), (&new, named("docker.io/library/new:1"))]);
    let count = |filter: &str| on(&folder, &["images", "-q", "--filter", filter]).ok().lines().len();
    assert_eq!(count("label=no.such.label"), 0);
    assert_eq!(count("reference=o*"), 1);
    assert_eq!(count("dangling=false"), 2);
    let absent = on(&folder, &["images", "--filter", "before=absent:1"]).fails();
    assert!(absent.stderr.contains("has no image `absent:1`"), "{absent}");
}

#[test]
fn the_classic_store_reports_why_and_what_to_use() {
    let host = Stack::classic().docker_classic_host();
    for args in [&["images"][..], &["save", "-o", "/dev/null", "a"], &["rm", "a"], &["tag", "a", "b"]] {
        let engine = ["--engine", "docker-classic", "--docker-host", host];
        let refused = linkspan(args.iter().copied()).args(engine).fails();
        assert!(refused.stderr.contains("docker-classic does not offer"), "{refused}");
        assert!(refused.stderr.contains("`docker save`") && refused.stderr.contains("snapshotter"), "{refused}");
    }
    // What has no name is printed as docker knows it.
    let nameless = image("without a name in the classic store\n");
    let file = archive(&[(&nameless, json!({}))]);
    let load = || linkspan(["load", "-i", text(file.path()), "--engine", "docker-classic", "--docker-host", host]);
    let loaded = load().ok().stdout;
    let id = loaded.trim().strip_prefix("Loaded image ID: ").unwrap();
    assert_eq!(id, nameless.config.digest.to_string());
    Stack::classic().docker_classic(["image", "inspect", id]).ok();
    let loaded: Value = serde_json::from_str(&load().arg("--json").ok().stdout).unwrap();
    assert_eq!((&loaded["id"], &loaded["digest"]), (&json!(id), &json!(nameless.root.digest.to_string())));
    // As a place it is taken with whichever store it has.
    let image = image("into the classic store\n");
    let file = archive(&[(&image, named("docker.io/library/classic-copy:1"))]);
    let from = format!("oci-archive:{}", text(file.path()));
    linkspan(["copy", &from, "docker-daemon:", "--docker-host", host]).ok();
    let back = linkspan(["copy", "docker-daemon:classic-copy:1", "oci:/nowhere", "--docker-host", host]).fails();
    assert!(back.stderr.contains("`docker save`"), "{back}");
}
