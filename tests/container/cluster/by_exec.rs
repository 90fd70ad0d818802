//! Loads by users who may use docker and are not root: through a process in each node.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::nodes::{Cluster, build, sent};
use crate::common::{Run, Stack, text, until};

/// Somebody of the group of dockerd's socket.
struct User<'s> {
    stack: &'s Stack,
    program: PathBuf,
    group: u32,
}

impl<'s> User<'s> {
    fn of(stack: &'s Stack) -> Self {
        let socket = stack.docker_host().strip_prefix("unix://").unwrap();
        // Folders of tests are their user's own.
        for folder in Path::new(socket).ancestors().skip(1) {
            let mode = fs::metadata(folder).unwrap().mode();
            if mode & 0o001 == 0 {
                fs::set_permissions(folder, fs::Permissions::from_mode(mode | 0o011)).unwrap();
            }
        }
        let metadata = fs::metadata(socket).unwrap();
        assert_eq!(metadata.mode() & 0o060, 0o060, "the group may use dockerd's socket");
        let program = stack.fresh_path("-linkspan");
        let built = env!("CARGO_BIN_EXE_linkspan");
        fs::hard_link(built, &program).or_else(|_| fs::copy(built, &program).map(drop)).unwrap();
        Self { stack, program, group: metadata.gid() }
    }

    /// `linkspan load -i ARCHIVE --to CLUSTER --json`, of an image that docker has.
    fn load(&self, image: &str, cluster: &str) -> Run {
        let archive = self.stack.fresh_path("-saved.tar");
        self.stack.docker(["save", image, "-o", text(&archive)]).ok();
        fs::set_permissions(&archive, fs::Permissions::from_mode(0o644)).unwrap();
        let ids = ["--reuid=65534".to_owned(), format!("--regid={}", self.group), "--clear-groups".to_owned()];
        let load = Run::new("setpriv").args(ids).arg(&self.program);
        load.args(["load", "-i", text(&archive), "--to", cluster, "--json"])
            .env("DOCKER_HOST", self.stack.docker_host())
    }
}

/// The copies of the program in a node.
fn copies(stack: &Stack, node: &str) -> Vec<String> {
    stack.docker(["exec", node, "ls", "-A", "/usr/local/bin"]).ok().lines()
}

#[test]
fn who_is_not_root_loads_by_a_program_in_each_node() {
    let stack = Stack::shared();
    let (cluster, user) = (Cluster::start(stack, "execs"), User::of(stack));
    build(stack, "cl-execs:1", 41, Some("one"));
    build(stack, "cl-execs:2", 41, Some("two"));
    // What an earlier build left there, and what is none of ours.
    let old = ["/usr/local/bin/linkspan-0.0.0-abc", "/usr/local/bin/.linkspan-0.0.0-abc.part", "/usr/local/bin/other"];
    stack.docker(["exec", cluster.worker(), "busybox", "touch", "-d", "2001-01-01 00:00"]).args(old).ok();
    // Incomplete copies: of a process that is gone is what cannot be seen from here and is older than a copy may take.
    let part = |process: &str| format!("/usr/local/bin/.linkspan-0.0.0-abc.{process}.1f.part");
    let (broken_off, elsewhere) = (part("aaaaaaaaaaaa-1-1"), part("bbbbbbbbbbbb-1-1"));
    let hour_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    let hour_ago = hour_ago.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let touch = |args: &[&str]| stack.docker(["exec", cluster.worker(), "busybox", "touch"]).args(args).ok();
    touch(&["-d", &format!("@{hour_ago}"), &broken_off]);
    touch(&[&elsewhere]);
    let output = user.load("cl-execs:1", &cluster.address()).ok();
    let found = copies(stack, cluster.worker());
    let is_there = |path: &str| found.iter().any(|name| path.ends_with(name.as_str()));
    assert!(!is_there(&broken_off) && is_there(&elsewhere), "{found:?}");
    stack.docker(["exec", cluster.worker(), "rm", &elsewhere]).ok();
    assert_eq!(sent(&output).iter().map(|(blobs, _)| *blobs).collect::<Vec<_>>(), [4, 4], "{output}");
    let output = user.load("cl-execs:2", &cluster.address()).ok();
    assert!(sent(&output).iter().all(|(blobs, bytes)| *blobs == 3 && *bytes < 10_000), "{output}");
    for node in cluster.nodes() {
        assert!(cluster.contents(node, "cl-execs:1").is_usable && cluster.contents(node, "cl-execs:2").is_usable);
        let ours = || copies(stack, node).into_iter().filter(|name| name != "other").collect::<Vec<_>>();
        let copies = until("former copies to go", ours, |copies| copies.len() == 1);
        assert!(copies[0].starts_with("linkspan-") && !copies[0].ends_with("abc"), "{copies:?}");
    }
    assert!(copies(stack, cluster.worker()).contains(&"other".to_owned()));
    cluster.until_released();
    // As root it is the same store.
    let output = cluster.load("cl-execs:2").ok();
    assert_eq!(sent(&output), [(0, 0), (0, 0)], "{output}");
}

#[test]
fn a_program_that_does_not_run_in_a_node_is_reported() {
    let stack = Stack::shared();
    let (cluster, user) = (Cluster::start(stack, "foreign"), User::of(stack));
    build(stack, "cl-foreign:1", 42, Some("one"));
    stack.docker(["exec", cluster.worker(), "rm", "/lib64/ld-linux-x86-64.so.2"]).ok();
    let output = user.load("cl-foreign:1", &cluster.address()).fails();
    let words = ["node foreign-worker: containerd does not respond", "use one that is linked statically"];
    assert!(words.iter().all(|words| output.stderr.contains(words)), "{output}");
    assert!(!output.stderr.contains("docker logs"), "{output}");
    assert_eq!(cluster.digest(cluster.control_plane(), "cl-foreign:1"), None);
}

#[test]
fn a_node_without_its_containerds_socket_is_reported_in_one_piece() {
    let stack = Stack::shared();
    let (cluster, user) = (Cluster::start(stack, "socketless"), User::of(stack));
    build(stack, "cl-socketless:1", 43, Some("one"));
    let socket = "/run/containerd/containerd.sock";
    stack.docker(["exec", cluster.worker(), "busybox", "mv", socket, "/run/containerd/moved"]).ok();
    let output = user.load("cl-socketless:1", &cluster.address()).fails();
    let words = [
        "node socketless-worker: containerd does not respond at ",
        ": No such file or directory (os error 2)\n",
        "hint: the node runs, and its containerd does not: `docker logs socketless-worker`",
    ];
    assert!(words.iter().all(|words| output.stderr.contains(words)), "{output}");
    assert!(!output.stderr.contains("linkspan serve") && output.stderr.matches("error:").count() == 1, "{output}");
}
