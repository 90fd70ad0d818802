//! `linkspan load` and `copy` to clusters.

use std::collections::BTreeSet;
use std::thread;

use serde_json::Value;

use super::nodes::{Cluster, build, ctr, load, sent, start};
use crate::common::{Stack, full_name, linkspan, until};

#[test]
fn every_node_gets_what_kind_load_brings_and_later_only_what_is_new() {
    let stack = Stack::shared();
    let (cluster, reference) = (Cluster::start(stack, "usual"), Cluster::start(stack, "reference"));
    build(stack, "cl-usual:1", 11, Some("one"));
    let output = cluster.load("cl-usual:1").ok();
    let first = sent(&output);
    assert_eq!(first.len(), 2, "{output}");
    // Manifest, config and two layers.
    assert!(first.iter().all(|(blobs, bytes)| *blobs == 4 && *bytes > 2 << 20), "{output}");
    let report: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(report["sentBytes"].as_u64(), Some(first[0].1), "the source was read once: {output}");

    reference.kind_load("cl-usual:1");
    for (node, other) in cluster.nodes().zip(reference.nodes()) {
        let (ours, theirs) = (cluster.contents(node, "cl-usual:1"), reference.contents(other, "cl-usual:1"));
        assert!(ours.is_usable && ours.digest.is_some(), "{ours:?}");
        assert_eq!(ours.digest, theirs.digest);
        assert_eq!((&ours.snapshots, &ours.files), (&theirs.snapshots, &theirs.files));
        assert_eq!(ours.files.len(), 2, "{ours:?}");
        // The import also stores the archive's own index.
        assert!(ours.blobs.is_subset(&theirs.blobs), "{ours:?}\n{theirs:?}");
    }

    build(stack, "cl-usual:2", 11, Some("two"));
    let output = cluster.load("cl-usual:2").ok();
    assert!(sent(&output).iter().all(|(blobs, bytes)| *blobs == 3 && *bytes < 10_000), "{output}");
    let output = cluster.load("cl-usual:2").ok();
    assert_eq!(sent(&output), [(0, 0), (0, 0)], "{output}");
    for node in cluster.nodes() {
        assert!(cluster.contents(node, "cl-usual:2").is_usable);
    }
    cluster.until_released();
}

#[test]
fn a_node_that_lacks_more_is_sent_more() {
    let stack = Stack::shared();
    let cluster = Cluster::start(stack, "uneven");
    build(stack, "cl-base:1", 12, None);
    build(stack, "cl-uneven:1", 12, Some("top"));
    let worker = format!("{}?nodes={}", cluster.address(), cluster.worker());
    let output = load(stack, "cl-base:1", &worker).ok();
    assert_eq!(sent(&output).len(), 1, "{output}");
    assert_eq!(cluster.digest(cluster.control_plane(), "cl-base:1"), None);

    let output = cluster.load("cl-uneven:1").ok();
    let sent = sent(&output);
    assert_eq!(sent.iter().map(|(blobs, _)| *blobs).collect::<Vec<_>>(), [4, 3], "{output}");
    assert!(sent[0].1 > 2 << 20 && sent[1].1 < 10_000, "{output}");
    for node in cluster.nodes() {
        assert!(cluster.contents(node, "cl-uneven:1").is_usable);
    }
}

#[test]
fn loads_at_the_same_time_do_not_disturb_each_other() {
    let stack = Stack::shared();
    let cluster = Cluster::start(stack, "busy");
    build(stack, "cl-busy:1", 13, Some("one"));
    build(stack, "cl-busy:2", 13, Some("two"));
    thread::scope(|scope| {
        for image in ["cl-busy:1", "cl-busy:2", "cl-busy:1"] {
            let cluster = &cluster;
            scope.spawn(move || cluster.load(image).ok());
        }
    });
    for node in cluster.nodes() {
        for image in ["cl-busy:1", "cl-busy:2"] {
            assert!(cluster.contents(node, image).is_usable, "{image} on {node}");
        }
    }
    cluster.until_released();
}

#[test]
fn images_are_copied_listed_named_and_removed() {
    let stack = Stack::shared();
    let cluster = Cluster::start(stack, "kept");
    build(stack, "cl-kept:1", 14, Some("one"));
    let (docker, address) = (stack.docker_host(), cluster.address());
    let run = |args: &[&str]| linkspan(args.iter().copied()).env("DOCKER_HOST", docker);
    // Nothing is loaded where one is absent.
    let output = run(&["load", "cl-kept:1", "cl-absent:1", "--to", &address]).fails();
    assert!(output.stderr.contains("docker at") && output.stderr.contains("has no image `cl-absent:1`"), "{output}");
    assert_eq!(cluster.digest(cluster.worker(), "cl-kept:1"), None);
    let named = format!("{address}:cl-renamed:1");
    let output = run(&["copy", "docker-daemon:cl-kept:1", &named]).ok();
    for node in cluster.nodes() {
        assert!(cluster.contents(node, "cl-renamed:1").is_usable, "{output}");
        assert!(output.stderr.contains(&format!("{node}: sent 4 blobs")), "{output}");
    }

    // Where the variable names the cluster, unless a flag names an engine.
    let by_variable = |args: &[&str]| run(args).env("LINKSPAN_TO", &address);
    let output = by_variable(&["load", "cl-kept:1", "--json"]).ok();
    assert_eq!(sent(&output), [(0, 0), (0, 0)], "{output}");
    let output = by_variable(&["images", "--json"]).ok();
    assert!(output.lines().len() == 2 && output.stdout.contains("\"onNodes\":2"), "{output}");
    by_variable(&["inspect", "cl-kept:1"]).ok();
    assert_eq!(by_variable(&["rm", "cl-kept:1"]).ok().stdout.matches("Untagged").count(), 1);
    by_variable(&["inspect", "cl-kept:1"]).fails();
    by_variable(&["inspect", "cl-kept:1", "--engine", "docker"]).ok();
    let output = run(&["images"]).env("LINKSPAN_TO", "kind://Kept").fails();
    assert!(output.status.code() == Some(2) && output.stderr.contains("LINKSPAN_TO: `kind://Kept`"), "{output}");

    // An archive on standard input, and back into one.
    let saved = stack.fresh_path("-saved.tar");
    run(&["save", "cl-renamed:1", "-o", saved.to_str().unwrap(), "--engine", &address]).ok();
    run(&["load", "-i", saved.to_str().unwrap(), "-t", "cl-other:1", "--to", &address]).ok();
    let listed = run(&["images", "--engine", &address, "--json"]).ok().lines();
    assert_eq!(listed.len(), 2, "{listed:?}");
    run(&["tag", "cl-other:1", "cl-third:1", "--engine", &address]).ok();
    run(&["rm", "cl-other:1", "cl-renamed:1", "--engine", &address]).ok();
    run(&["rm", "cl-other:1", "--engine", &address]).fails();
    for node in cluster.nodes() {
        let names = ctr(stack, node, &["images", "ls", "-q"]).ok().lines();
        assert_eq!(names, [full_name("cl-third:1")]);
        assert!(cluster.contents(node, "cl-third:1").is_usable);
    }
}

#[test]
fn nodes_that_differ_are_listed_with_what_there_is_and_a_name_goes_on_all() {
    let stack = Stack::shared();
    let cluster = Cluster::start(stack, "differ");
    build(stack, "cl-one:1", 16, Some("one"));
    build(stack, "cl-two:1", 17, Some("two"));
    let (docker, address) = (stack.docker_host(), cluster.address());
    let on = |node: &str| format!("{address}?nodes={node}:cl-differ:1");
    // The docker that has the nodes can be named beside them.
    let run = |args: &[&str]| linkspan(args.iter().copied()).args(["--docker-host", docker]);
    run(&["copy", "docker-daemon:cl-one:1", &on(cluster.control_plane())]).ok();
    run(&["copy", "docker-daemon:cl-two:1", &on(cluster.worker())]).ok();
    let listed = run(&["images", "--to", &address, "--json"]).ok();
    let rows: Vec<Value> = listed.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let digests: BTreeSet<_> = rows.iter().map(|row| row["digest"].as_str().unwrap().to_owned()).collect();
    let there: BTreeSet<_> = cluster.nodes().filter_map(|node| cluster.digest(node, "cl-differ:1")).collect();
    assert_eq!((rows.len(), digests), (2, there), "{listed}");
    for row in &rows {
        assert!(row["size"].as_u64() > Some(2 << 20), "{row}");
        assert_eq!((row["onNodes"].as_u64(), row["nodes"].as_u64()), (Some(1), Some(2)), "{row}");
    }
    let table = run(&["images", "--to", &address]).ok();
    for node in cluster.nodes() {
        assert_eq!(table.stderr.matches(&format!("is on 1 of 2 nodes: {node}\n")).count(), 1, "{table}");
    }
    // Whoever takes one of them is told, and no name is set that would be another image on some nodes.
    let saved = stack.fresh_path("-saved.tar");
    let archive = format!("oci-archive:{}", saved.display());
    let from = format!("{address}:cl-differ:1");
    for command in [
        &["digest", "cl-differ:1", "--to", &address][..],
        &["inspect", "cl-differ:1", "--to", &address],
        &["save", "cl-differ:1", "-o", saved.to_str().unwrap(), "--to", &address],
        &["copy", &from, &archive],
    ] {
        let output = run(command).ok();
        let words = "note: cl-differ:1 is another image on some nodes: sha256:";
        assert_eq!(output.stderr.matches(words).count(), 1, "{command:?}: {output}");
        assert!(output.stderr.contains(&format!(" on {}; this is sha256:", cluster.worker())), "{output}");
    }
    let refused = run(&["tag", "cl-differ:1", "cl-tagged:1", "--to", &address]).fails();
    assert!(refused.stderr.contains("cl-differ:1 is another image on some nodes"), "{refused}");
    let one = format!("{address}?nodes={}", cluster.worker());
    let output = run(&["inspect", "cl-differ:1", "--to", &one]).ok();
    assert!(!output.stderr.contains("another image"), "{output}");
    let digest = cluster.digest(cluster.worker(), "cl-differ:1").unwrap();
    let one = run(&["digest", &digest, "--to", &address]).ok();
    assert!(!one.stderr.contains("note"), "{one}");
    let removed = run(&["rm", "cl-differ:1", "--to", &address]).ok();
    assert_eq!(removed.stdout.matches("Untagged: cl-differ:1").count(), 1, "{removed}");
    for node in cluster.nodes() {
        assert_eq!(cluster.digest(node, "cl-differ:1"), None, "{removed}");
    }
}

#[test]
fn what_cannot_be_loaded_is_answered_with_what_can() {
    let stack = Stack::shared();
    let cluster = Cluster::start(stack, "hints");
    let address = cluster.address();
    let folder = tempfile::tempdir().unwrap();
    let load = |args: &[&str]| {
        linkspan(["load", "--to", &address])
            .args(args.iter().copied())
            .dir(folder.path())
            .env("DOCKER_HOST", stack.docker_host())
    };
    let absent = load(&["nosuch:1", "--docker-host", stack.docker_host()]).fails();
    let hint = format!("hint: `linkspan images --docker-host {}` lists the images of docker", stack.docker_host());
    assert!(absent.stderr.contains("has no image `nosuch:1`") && absent.stderr.contains(&hint), "{absent}");
    // After -i there are only files.
    let file = load(&["-i", "nosuch.tar"]).fails();
    assert!(file.stderr.contains("nosuch.tar: cannot be opened: No such file"), "{file}");
    // A folder is often called like the image that it is the context of.
    build(stack, "cl-hints", 18, Some("one"));
    std::fs::create_dir(folder.path().join("cl-hints")).unwrap();
    build(stack, "cl-hints:2", 18, Some("two"));
    let both = load(&["cl-hints", "cl-hints:2"]).ok();
    assert_eq!(both.stdout, "Loaded image: cl-hints:latest\nLoaded image: cl-hints:2\n");
    for (node, image) in cluster.nodes().flat_map(|node| [(node, "cl-hints:latest"), (node, "cl-hints:2")]) {
        assert!(cluster.contents(node, image).is_usable, "{image} on {node}: {both}");
    }
    let second = load(&["cl-hints", "nosuch:2"]).fails();
    assert!(second.stderr.contains("none is called `nosuch:2`"), "{second}");
    let caches = linkspan(["cache", "ls", "--to", &address]).env("DOCKER_HOST", stack.docker_host()).fails();
    assert!(
        caches.stderr.contains("cluster does not offer") && caches.stderr.contains("hint: the nodes of a cluster"),
        "{caches}"
    );
    stack.docker(["pause", cluster.worker()]).ok();
    let paused = load(&["cl-hints:latest"]).fails();
    stack.docker(["unpause", cluster.worker()]).ok();
    assert!(
        paused.stderr.contains("(it is paused)") && paused.stderr.contains("`docker unpause hints-worker`"),
        "{paused}"
    );
}

#[test]
fn k3d_has_its_socket_elsewhere() {
    let stack = Stack::shared();
    let labels = ["--label", "app=k3d", "--label", "k3d.cluster=k3", "--label", "k3d.role=server", "--volume", "/var"];
    let socket = "/run/k3s/containerd/containerd.sock";
    let command =
        ["--address", socket, "--state", "/run/k3s/containerd", "--root", "/var/lib/rancher/k3s/agent/containerd"];
    start(stack, "k3d-k3-server-0", &labels, &command);
    let balancer = ["--label", "app=k3d", "--label", "k3d.cluster=k3", "--label", "k3d.role=loadbalancer"];
    start(stack, "k3d-k3-serverlb", &[&balancer[..], &["--entrypoint", "sleep"]].concat(), &["900"]);
    let ctr = |args: &[&str]| {
        let usual = ["exec", "k3d-k3-server-0", "ctr", "--address", socket, "-n", "k8s.io"];
        stack.docker(usual).args(args)
    };
    until("containerd in a node", || ctr(&["version"]).output(), |it| it.status.success());
    build(stack, "cl-k3d:1", 15, Some("one"));
    let output = load(stack, "cl-k3d:1", "k3d://k3").ok();
    assert_eq!(sent(&output).len(), 1, "{output}");
    let checked = ctr(&["images", "check"]).ok().stdout;
    assert!(
        checked.contains("cl-k3d:1") && checked.contains("complete (3/3)") && checked.contains("true"),
        "{checked}"
    );
    stack.docker(["rm", "--force", "--volumes", "k3d-k3-server-0", "k3d-k3-serverlb"]).ok();
}
