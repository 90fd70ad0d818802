//! Nodes that cannot be used, and containers that only look like nodes.

use std::time::Duration;

use super::nodes::{Cluster, build, ctr, load, start};
use crate::common::{Stack, full_name, linkspan, text, until, until_every};

#[test]
fn a_stopped_node_is_named_and_nothing_is_visible_on_the_others() {
    let stack = Stack::shared();
    let cluster = Cluster::start(stack, "stopped");
    build(stack, "cl-stopped:1", 21, Some("one"));
    stack.docker(["stop", "--timeout", "5", cluster.worker()]).ok();
    let output = cluster.load("cl-stopped:1").fails();
    assert!(output.stderr.contains("kind://stopped: its node stopped-worker does not run (it is exited)"), "{output}");
    assert!(output.stderr.contains("hint: `docker start stopped-worker`"), "{output}");
    assert_eq!(ctr(stack, cluster.control_plane(), &["images", "ls", "-q"]).ok().stdout, "");
    assert_eq!(ctr(stack, cluster.control_plane(), &["leases", "ls", "-q"]).ok().stdout, "");
    // All of them are named at once.
    stack.docker(["stop", "--timeout", "5", cluster.control_plane()]).ok();
    let output = cluster.load("cl-stopped:1").fails();
    let all = "2 of its nodes do not run: stopped-control-plane (exited), stopped-worker (exited)";
    let both = "hint: `docker start stopped-control-plane stopped-worker` let them run";
    assert!(output.stderr.contains(all) && output.stderr.contains(both), "{output}");
    stack.docker(["start", cluster.control_plane()]).ok();
    let version = || ctr(stack, cluster.control_plane(), &["version"]).output();
    until("containerd in the control plane", version, |it| it.status.success());
    // The others can be named.
    let others = format!("kind://stopped?nodes={}", cluster.control_plane());
    load(stack, "cl-stopped:1", &others).ok();
    assert!(cluster.contents(cluster.control_plane(), "cl-stopped:1").is_usable);
}

#[test]
fn a_node_whose_disk_is_full_is_named_and_nothing_is_visible_on_the_others() {
    let stack = Stack::shared();
    let cluster = Cluster::start_with(stack, "full", &["--tmpfs", "/var:size=3m"]);
    build(stack, "cl-full:1", 22, Some("one"));
    let output = cluster.load("cl-full:1").fails();
    assert!(output.stderr.contains("node full-worker: the engine's disk is full"), "{output}");
    assert!(output.stderr.contains("`docker exec full-worker crictl rmi --prune`"), "{output}");
    assert_eq!(ctr(stack, cluster.control_plane(), &["images", "ls", "-q"]).ok().stdout, "");
    cluster.until_released();
    let other = format!("kind://full?nodes={}", cluster.control_plane());
    load(stack, "cl-full:1", &other).ok();
}

#[test]
fn a_node_that_dies_while_names_are_set_is_named_and_the_others_lose_theirs() {
    const NAMES: usize = 2000;
    let stack = Stack::shared();
    let cluster = Cluster::start(stack, "dying");
    build(stack, "cl-dying:1", 25, Some("one"));
    let archive = stack.fresh_path("-saved.tar");
    stack.docker(["save", "cl-dying:1", "-o", text(&archive)]).ok();
    let names = (0..NAMES).flat_map(|n| ["-t".to_owned(), format!("cl-dying:{n}")]);
    let load = linkspan(["load", "-i", text(&archive), "--to", &cluster.address()]).args(names);
    let load = load.env("DOCKER_HOST", stack.docker_host()).spawn();
    // A node's first process is containerd.
    let process = |node: &str| stack.docker(["inspect", "-f", "{{.State.Pid}}", node]).ok().stdout.trim().to_owned();
    let worker = rustix::process::Pid::from_raw(process(cluster.worker()).parse().unwrap()).unwrap();
    // By the node's own socket, which is quicker than a process in it.
    let socket = format!("/proc/{}/root/run/containerd/containerd.sock", process(cluster.control_plane()));
    let names = || {
        let listed = stack.run("ctr").env("CONTAINERD_ADDRESS", &socket).args(["-n", "k8s.io", "images", "ls", "-q"]);
        listed.ok().lines().len()
    };
    until_every(Duration::from_millis(5), "names on the control plane", names, |count| *count > NAMES / 10);
    // It sets no more names, however long docker takes.
    rustix::process::kill_process(worker, rustix::process::Signal::STOP).unwrap();
    stack.docker(["kill", cluster.worker()]).ok();
    let output = load.wait();
    assert!(!output.status.success(), "{output}");
    assert!(output.stderr.contains("node dying-worker: containerd does not respond"), "{output}");
    assert_eq!(names(), 0);
    let leases = || ctr(stack, cluster.control_plane(), &["leases", "ls", "-q"]).ok().lines();
    until("the leases of the control plane to go", leases, Vec::is_empty);
    // Where it may still have some, that was said.
    stack.docker(["start", cluster.worker()]).ok();
    cluster.until_up();
    let left = ctr(stack, cluster.worker(), &["images", "ls", "-q"]).ok().lines().len();
    assert!(left == 0 || output.stderr.contains("names of the image may be left on dying-worker\n"), "{left} {output}");
    cluster.load("cl-dying:1").ok();
}

#[test]
fn an_export_that_is_interrupted_while_names_are_set_leaves_none_and_says_where_it_may() {
    const NAMES: usize = 2000;
    let stack = Stack::shared();
    let cluster = Cluster::start(stack, "interrupted");
    build(stack, "cl-interrupted:1", 26, Some("one"));
    let archive = stack.fresh_path("-saved.tar");
    stack.docker(["save", "cl-interrupted:1", "-o", text(&archive)]).ok();
    let names = (0..NAMES).flat_map(|n| ["-t".to_owned(), format!("cl-interrupted:{n}")]);
    let load = linkspan(["load", "-i", text(&archive), "--to", &cluster.address()]).args(names);
    let load = load.env("DOCKER_HOST", stack.docker_host()).spawn();
    let process = |node: &str| stack.docker(["inspect", "-f", "{{.State.Pid}}", node]).ok().stdout.trim().to_owned();
    let worker = rustix::process::Pid::from_raw(process(cluster.worker()).parse().unwrap()).unwrap();
    let socket = format!("/proc/{}/root/run/containerd/containerd.sock", process(cluster.control_plane()));
    let names = || {
        let listed = stack.run("ctr").env("CONTAINERD_ADDRESS", &socket).args(["-n", "k8s.io", "images", "ls", "-q"]);
        listed.ok().lines().len()
    };
    until_every(Duration::from_millis(5), "names on the control plane", names, |count| *count > NAMES / 10);
    // It runs, and responds to nothing.
    rustix::process::kill_process(worker, rustix::process::Signal::STOP).unwrap();
    load.signal(rustix::process::Signal::INT);
    let output = load.wait();
    assert_eq!(output.status.code(), Some(130), "{output}");
    assert_eq!(names(), 0, "{output}");
    let left = format!("interrupted; names of the image may be left on {}; ", cluster.worker());
    assert!(output.stderr.contains(&left), "{output}");
    rustix::process::kill_process(worker, rustix::process::Signal::CONT).unwrap();
    // The next one needs nothing of what was left, and its end releases that.
    cluster.load("cl-interrupted:1").ok();
    let leases = || ctr(stack, cluster.worker(), &["leases", "ls", "-q"]).ok().lines();
    until("the lease of the worker to go", leases, |leases| leases.iter().all(|lease| lease.ends_with("-kept")));
}

#[test]
fn unknown_clusters_and_nodes_are_answered_with_those_that_there_are() {
    let stack = Stack::shared();
    let cluster = Cluster::start(stack, "known");
    // Whoever starts a container chooses its labels.
    let label = "io.x-k8s.kind.cluster=evil\u{1b}[31m\"},{\n";
    let role = "io.x-k8s.kind.role=worker";
    start(stack, "hostile", &["--label", label, "--label", role, "--entrypoint", "sleep"], &["900"]);
    let refused = |address: &str| load(stack, "cl-none:1", address).fails();
    let output = refused("kind://nonesuch");
    assert!(
        output.stderr.contains("kind://nonesuch: docker at ") && output.stderr.contains("has no nodes"),
        "{output}"
    );
    assert!(output.stderr.contains("kind://known"), "{output}");
    assert!(output.stderr.contains("evil\\u{1b}[31m") && !output.stderr.contains('\u{1b}'), "{output}");
    let output = refused("k3d://dev");
    assert!(output.stderr.contains("hint: it has ") && output.stderr.contains("kind://known"), "{output}");
    let output = refused("kind://known?nodes=known-worker2");
    for words in ["it has no node `known-worker2`", "hint: its nodes are known-control-plane, known-worker"] {
        assert!(output.stderr.contains(words), "{output}");
    }
    for address in ["kind://Evil", "kind://a?nodes=../b", "kind://evil\u{1b}[31m"] {
        let output = refused(address);
        assert!(output.status.code() == Some(2), "{output}");
    }
    // A load balancer has the cluster's label and no containerd.
    let labels = ["--label", "io.x-k8s.kind.cluster=known", "--label", "io.x-k8s.kind.role=external-load-balancer"];
    start(stack, "known-external-load-balancer", &[&labels[..], &["--entrypoint", "sleep"]].concat(), &["900"]);
    // What others put beside the nodes has another role, or none.
    start(stack, "known-registry", &[&labels[..2], &["--entrypoint", "sleep"]].concat(), &["900"]);
    build(stack, "cl-known:1", 23, Some("one"));
    cluster.load("cl-known:1").ok();
    stack.docker(["rm", "--force", "known-external-load-balancer", "known-registry", "hostile"]).ok();
}

#[test]
fn a_container_that_poses_as_a_node_leads_nowhere_else() {
    let stack = Stack::shared();
    let labels = ["--label", "io.x-k8s.kind.cluster=posing", "--label", "io.x-k8s.kind.role=worker"];
    let host = stack.containerd_address();
    // The paths of this machine's containerd, by links that are to be followed in the node.
    let links = format!(
        "mkdir -p /run/containerd && ln -s {host} /run/containerd/containerd.sock && \
         ln -s /proc/1/root{host} /run/magic && exec sleep 900"
    );
    start(stack, "posing-worker", &[&labels[..], &["--entrypoint", "sh"]].concat(), &["-c", &links]);
    build(stack, "cl-posing:1", 24, Some("one"));
    let output = load(stack, "cl-posing:1", "kind://posing").fails();
    assert!(
        output.stderr.contains("node posing-worker: containerd does not respond at docker-container://"),
        "{output}"
    );
    assert_eq!(stack.image_of("k8s.io", &full_name("cl-posing:1")), None);
    let magic = "ln -sf ../magic /run/containerd/containerd.sock";
    stack.docker(["exec", "posing-worker", "sh", "-c", magic]).ok();
    let output = load(stack, "cl-posing:1", "kind://posing").fails();
    assert!(output.stderr.contains("node posing-worker: containerd does not respond"), "{output}");
    assert_eq!(stack.image_of("k8s.io", &full_name("cl-posing:1")), None);
    stack.docker(["rm", "--force", "posing-worker"]).ok();
}
