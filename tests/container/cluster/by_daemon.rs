//! Daemons whose engine is a cluster.

use std::path::Path;

use linkspan::export_v1::proto::exports_client::ExportsClient;
use linkspan::export_v1::proto::{Exporter, OpenRequest};
use linkspan::net::Address;
use linkspan::running::{First, Probe, probe};
use linkspan::status::Status;
use tonic::transport::Endpoint;

use super::nodes::{Cluster, build, ctr};
use crate::common::{Context, Linkspan, Stack, channel, linkspan, unix};

/// The flags for a cluster as the engine.
fn flags<'a>(stack: &'a Stack, address: &'a str) -> [&'a str; 4] {
    ["--engine", address, "--docker-host", stack.docker_host()]
}

#[test]
fn builds_go_to_every_node() {
    let stack = Stack::shared();
    let cluster = Cluster::start(stack, "built");
    let address = cluster.address();
    let linkspan = Linkspan::start(stack, &flags(stack, &address), &[stack.buildkit_host()]);
    let builder = stack.builder(&linkspan.address());
    let build = |top: &str| {
        let context = Context::new("FROM scratch\nCOPY big /big\nCOPY top /top\n").noise("big", 2 << 20, 31);
        builder.build(context.file("top", top).path(), ["--load", "-t", "cl-built:1"]).ok()
    };
    let output = build("one");
    assert!(output.stderr.contains("importing to cluster") && !output.stderr.contains("sending tarball"), "{output}");
    let first: Vec<_> = cluster.nodes().map(|node| cluster.digest(node, "cl-built:1")).collect();
    let output = build("two");
    for (node, first) in cluster.nodes().zip(first) {
        let contents = cluster.contents(node, "cl-built:1");
        assert!(contents.is_usable && contents.digest.is_some() && contents.digest != first, "{contents:?}");
        assert!(output.stderr.contains(&format!("{node}: ")), "{output}");
    }
    let log = linkspan.log();
    assert!(!log.contains("containerd's diff service unpacks"), "the nodes' files are written by this process: {log}");
    let about = linkspan_doctor(stack, &address);
    let words = format!("nodes {}", cluster.nodes().collect::<Vec<_>>().join(" "));
    assert!(about.split_whitespace().collect::<Vec<_>>().join(" ").contains(&words), "{about}");
    cluster.until_released();
}

/// What `linkspan doctor` says of a cluster.
fn linkspan_doctor(stack: &Stack, address: &str) -> String {
    linkspan(["doctor", "--engine", address]).env("DOCKER_HOST", stack.docker_host()).output().stdout
}

#[test]
fn a_node_that_was_restarted_is_found_again() {
    let stack = Stack::shared();
    let cluster = Cluster::start(stack, "restarted");
    let address = cluster.address();
    let door = stack.fresh_path("-export.sock");
    let daemon = Linkspan::export(stack, &flags(stack, &address), &[], door.clone());
    build(stack, "cl-restarted:1", 32, Some("one"));
    build(stack, "cl-restarted:2", 32, Some("two"));
    let to = unix(&door);
    let copy = |image: &str| {
        linkspan(["copy", &format!("docker-daemon:{image}"), &format!("{to}:")]).env("DOCKER_HOST", stack.docker_host())
    };
    copy("cl-restarted:1").ok();
    stack.docker(["restart", "--timeout", "5", cluster.worker()]).ok();
    cluster.until_up();
    let output = copy("cl-restarted:2").ok();
    assert!(output.stderr.contains("sent 3 blobs"), "{output}{}", daemon.log());
    for node in cluster.nodes() {
        assert!(
            cluster.contents(node, "cl-restarted:1").is_usable && cluster.contents(node, "cl-restarted:2").is_usable
        );
    }

    // One that stopped under the daemon.
    stack.docker(["stop", "--timeout", "5", cluster.worker()]).ok();
    build(stack, "cl-restarted:3", 32, Some("three"));
    let output = copy("cl-restarted:3").fails();
    let words = format!("{address}: its node {} does not run (it is exited)", cluster.worker());
    assert!(output.stderr.contains(&words) && output.stderr.contains("hint: `docker start "), "{output}");
    let names = ctr(stack, cluster.control_plane(), &["images", "ls", "-q"]).ok().stdout;
    assert!(!names.contains("cl-restarted:3"), "{names}");
    stack.docker(["start", cluster.worker()]).ok();
    cluster.until_up();
    copy("cl-restarted:3").ok();
    cluster.until_released();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// What the daemon at `door` says of itself.
fn status(door: &Path) -> Status {
    match runtime().block_on(probe(&Address::Unix(door.to_owned()), First::Http2)) {
        Probe::Linkspan(status) => *status,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_export_that_a_new_node_has_no_part_of_outlives_the_daemon() {
    let stack = Stack::shared();
    let mut cluster = Cluster::start(stack, "outlived");
    let (address, door) = (cluster.address(), stack.fresh_path("-export.sock"));
    let start = || Linkspan::export(stack, &flags(stack, &address), &[], door.clone());
    let mut daemon = start();
    let exporter = Exporter { id: "one".to_owned(), r#type: "image".to_owned(), ..Exporter::default() };
    let request = OpenRequest { exporters: vec![exporter], ..OpenRequest::default() };
    let endpoint = Endpoint::from_static("http://localhost");
    let opened =
        runtime().block_on(async { ExportsClient::new(channel(&door, endpoint).await).open(request).await.unwrap() });
    let opened = opened.into_inner().export.unwrap();
    cluster.join("worker2");
    daemon.kill();
    let daemon = start();
    let found = status(&door).exports;
    assert!(found.iter().any(|export| export.id == opened.id), "{found:?} {}", daemon.log());
}

#[test]
fn nodes_that_join_get_what_is_exported_from_then_on_and_those_that_left_nothing() {
    let stack = Stack::shared();
    let mut cluster = Cluster::start(stack, "changing");
    let address = cluster.address();
    let door = stack.fresh_path("-export.sock");
    let daemon = Linkspan::export(stack, &flags(stack, &address), &[], door.clone());
    build(stack, "cl-changing:1", 34, Some("one"));
    build(stack, "cl-changing:2", 34, Some("two"));
    let to = unix(&door);
    let copy = |image: &str| {
        linkspan(["copy", &format!("docker-daemon:{image}"), &format!("{to}:")]).env("DOCKER_HOST", stack.docker_host())
    };
    copy("cl-changing:1").ok();
    // One that is starting holds up nobody.
    let starting = cluster.begin("starting");
    (0..3).for_each(|_| drop(copy("cl-changing:1").ok()));
    let log = daemon.log();
    assert_eq!(log.matches("a node has not joined yet").count(), 1, "it is tried in the background: {log}");
    stack.docker(["rm", "--force", &starting]).ok();
    // It gets what it lacks, which the others have.
    let joined = cluster.join("worker2");
    let output = copy("cl-changing:1").ok();
    assert!(!output.stderr.contains("sent 0 blobs"), "{output}{}", daemon.log());
    for node in cluster.nodes() {
        assert!(cluster.contents(node, "cl-changing:1").is_usable, "{node}: {}", daemon.log());
    }
    let nodes = || status(&door).engine.nodes.to_vec();
    assert_eq!(nodes(), cluster.nodes().collect::<Vec<_>>());

    let renamed = cluster.rename_last("worker3");
    copy("cl-changing:1").ok();
    assert_eq!(nodes(), cluster.nodes().collect::<Vec<_>>());

    let left = cluster.lose_worker();
    let listed = linkspan(["images", "--to", &to, "--quiet"]).ok();
    assert_eq!(listed.lines().len(), 1, "{listed}");
    copy("cl-changing:2").ok();
    for node in [cluster.control_plane(), &renamed] {
        assert!(cluster.contents(node, "cl-changing:2").is_usable, "{node}: {}", daemon.log());
    }
    assert_eq!(nodes(), [cluster.control_plane(), &renamed]);
    let log = daemon.log();
    for change in [format!("joined=\"{joined}\""), format!("left=\"{left}\"")] {
        assert!(log.contains(&change), "{change}: {log}");
    }
    cluster.until_released();

    // One that was made again under the same name has none of it.
    let again = cluster.join("worker");
    copy("cl-changing:2").ok();
    assert!(cluster.contents(&again, "cl-changing:2").is_usable, "{}", daemon.log());
}

#[test]
fn a_name_that_must_not_move_moves_on_no_node() {
    let stack = Stack::shared();
    let cluster = Cluster::start(stack, "denied");
    let address = cluster.address();
    build(stack, "cl-denied:1", 33, Some("one"));
    build(stack, "cl-denied:2", 33, Some("two"));
    let run = |args: &[&str]| linkspan(args.iter().copied()).env("DOCKER_HOST", stack.docker_host());
    let worker = format!("{address}?nodes={}:cl-taken:1", cluster.worker());
    run(&["copy", "docker-daemon:cl-denied:1", &worker]).ok();
    let before = cluster.digest(cluster.worker(), "cl-taken:1");
    let door = stack.fresh_path("-export.sock");
    let _daemon = Linkspan::export(stack, &flags(stack, &address), &["--deny-tag-move"], door.clone());
    let output = run(&["copy", "docker-daemon:cl-denied:2", &format!("{}:cl-taken:1", unix(&door))]).fails();
    assert!(output.stderr.contains("cl-taken:1"), "{output}");
    assert_eq!(cluster.digest(cluster.control_plane(), "cl-taken:1"), None);
    assert_eq!(cluster.digest(cluster.worker(), "cl-taken:1"), before);
    cluster.until_released();
}
