//! Containers that look like the nodes of kind and k3d.

use std::collections::BTreeSet;
use std::fs;
use std::sync::OnceLock;

use serde_json::Value;

use crate::common::{Context, Output, Run, Stack, full_name, linkspan, until};

/// The image of nodes. No registry has it.
const NODE_IMAGE: &str = "localhost:1/linkspan/node:test";

/// Where the files of snapshots are in a node.
const SNAPSHOTS: &str = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots";

/// What a node is called behind the name of its cluster, and its role.
const ROLES: [(&str, &str); 2] = [("control-plane", "control-plane"), ("worker", "worker")];

/// A cluster in the stack that tests share. Its containers are removed with it.
#[derive(Debug)]
pub(super) struct Cluster<'s> {
    pub(super) stack: &'s Stack,
    pub(super) name: &'s str,
    nodes: Vec<String>,
}

/// Makes dockerd hold [`NODE_IMAGE`]: this machine's containerd, ctr, runc and a shell.
fn make_image(stack: &Stack) {
    static MADE: OnceLock<()> = OnceLock::new();
    MADE.get_or_init(|| {
        let root = stack.fresh_path("-node");
        for folder in ["usr/bin", "bin", "etc/containerd", "tmp", "run", "var"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        for program in ["containerd", "ctr", "containerd-shim-runc-v2", "runc"] {
            fs::copy(stack.program(program), root.join("usr/bin").join(program)).unwrap();
        }
        fs::copy(stack.program("busybox"), root.join("bin/busybox")).unwrap();
        // What kind's nodes have, too: the C library, and a folder for other programs.
        for folder in ["lib64", "lib/x86_64-linux-gnu", "usr/local/bin"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        let libraries = Run::new("ldd").arg(env!("CARGO_BIN_EXE_linkspan")).ok().stdout;
        for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
            fs::copy(library, root.join(library.trim_start_matches('/'))).unwrap();
        }
        for applet in ["sh", "sleep", "ln", "mkdir", "ls", "rm", "find", "stat"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        let config = "version = 3\ndisabled_plugins = [\"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\", \
                      \"io.containerd.grpc.v1.cri\", \"io.containerd.nri.v1.nri\"]\n";
        fs::write(root.join("etc/containerd/config.toml"), config).unwrap();
        let tar = root.with_extension("tar");
        Run::new("tar").args(["--owner=0", "--group=0", "-C"]).arg(&root).arg("-cf").arg(&tar).arg(".").ok();
        let changes = ["ENTRYPOINT [\"containerd\"]", "ENV PATH=/usr/bin:/bin"];
        let changes = changes.iter().flat_map(|change| ["--change", change]);
        stack.docker(["import"]).args(changes).arg(&tar).arg(NODE_IMAGE).ok();
        fs::remove_file(tar).unwrap();
        fs::remove_dir_all(root).unwrap();
    });
}

/// Starts a container of [`NODE_IMAGE`] as kind starts its nodes; `args` come before the image, `command` behind it.
pub(super) fn start(stack: &Stack, node: &str, args: &[&str], command: &[&str]) {
    make_image(stack);
    let usual =
        ["run", "-d", "--name", node, "--privileged", "--network", "none", "--pull", "never", "--tmpfs", "/run"];
    stack.docker(usual).args(args).arg(NODE_IMAGE).args(command).ok();
}

impl<'s> Cluster<'s> {
    /// A control plane and a worker.
    pub(super) fn start(stack: &'s Stack, name: &'s str) -> Self {
        Self::start_with(stack, name, &["--volume", "/var"])
    }

    /// The same with other flags for the worker.
    pub(super) fn start_with(stack: &'s Stack, name: &'s str, worker: &[&str]) -> Self {
        let node = |(suffix, role): (&str, &str)| {
            let (node, cluster) = (format!("{name}-{suffix}"), format!("io.x-k8s.kind.cluster={name}"));
            let role = format!("io.x-k8s.kind.role={role}");
            let args = if suffix == "worker" { worker } else { &["--volume", "/var"] };
            start(stack, &node, &[&["--label", &cluster, "--label", &role], args].concat(), &[]);
            node
        };
        let nodes = ROLES.map(node).into();
        let cluster = Self { stack, name, nodes };
        cluster.until_up();
        cluster
    }

    /// One more worker, under another name.
    pub(super) fn join(&mut self, suffix: &str) -> String {
        let node = format!("{}-{suffix}", self.name);
        let cluster = format!("io.x-k8s.kind.cluster={}", self.name);
        let labels = ["--label", &cluster, "--label", "io.x-k8s.kind.role=worker", "--volume", "/var"];
        start(self.stack, &node, &labels, &[]);
        self.nodes.push(node.clone());
        self.until_up();
        node
    }

    /// A worker that runs, and has no containerd yet.
    pub(super) fn begin(&mut self, suffix: &str) -> String {
        let node = format!("{}-{suffix}", self.name);
        let cluster = format!("io.x-k8s.kind.cluster={}", self.name);
        let labels = ["--label", &cluster, "--label", "io.x-k8s.kind.role=worker", "--entrypoint", "sleep"];
        start(self.stack, &node, &labels, &["900"]);
        node
    }

    /// Gives the node that joined last another name.
    pub(super) fn rename_last(&mut self, suffix: &str) -> String {
        let (old, new) = (self.nodes.pop().unwrap(), format!("{}-{suffix}", self.name));
        self.stack.docker(["rename", &old, &new]).ok();
        self.nodes.push(new.clone());
        new
    }

    /// Removes the worker.
    pub(super) fn lose_worker(&mut self) -> String {
        let node = self.nodes.remove(1);
        self.stack.docker(["rm", "--force", "--volumes", &node]).ok();
        node
    }

    /// Waits until the containerd of each node responds.
    pub(super) fn until_up(&self) {
        for node in self.nodes() {
            until("containerd in a node", || ctr(self.stack, node, &["version"]).output(), |it| it.status.success());
        }
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().map(String::as_str)
    }

    pub(super) fn control_plane(&self) -> &str {
        &self.nodes[0]
    }

    pub(super) fn worker(&self) -> &str {
        &self.nodes[1]
    }

    pub(super) fn address(&self) -> String {
        format!("kind://{}", self.name)
    }

    /// `linkspan load IMAGE --to kind://CLUSTER --json`.
    pub(super) fn load(&self, image: &str) -> Run {
        load(self.stack, image, &self.address())
    }

    /// What `kind load docker-image` does.
    pub(super) fn kind_load(&self, image: &str) {
        let archive = self.stack.fresh_path("-saved.tar");
        self.stack.docker(["save", image, "-o"]).arg(&archive).ok();
        let bytes = fs::read(&archive).unwrap();
        for node in self.nodes() {
            let import =
                ["exec", "-i", node, "ctr", "-n", "k8s.io", "images", "import", "--all-platforms", "--digests", "-"];
            self.stack.docker(import).stdin(bytes.clone()).ok();
        }
        fs::remove_file(archive).unwrap();
    }

    /// What a node has of an image: its digest, its state, the blobs and the snapshots of the node.
    pub(super) fn contents(&self, node: &str, image: &str) -> Contents {
        let lines = |args: &[&str]| ctr(self.stack, node, args).ok().lines();
        let name = full_name(image);
        let digest = lines(&["images", "ls"]).iter().find_map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            (words[0] == name).then(|| words[2].to_owned())
        });
        let checked = lines(&["images", "check"]).into_iter().find(|line| line.starts_with(&format!("{name} ")));
        let is_usable = checked.is_some_and(|line| line.contains("complete") && line.ends_with("true"));
        let set = |args: &[&str]| lines(args).into_iter().collect::<BTreeSet<_>>();
        let attributes = "%f %u:%g %s %Y %n";
        let find = ["exec", node, "find", SNAPSHOTS, "-type", "f", "-exec", "stat", "-c", attributes, "{}", "+"];
        let files = self.stack.docker(find).ok().lines();
        // Each snapshot has a number, which depends on the order.
        let file = |line: &String| {
            let (attributes, path) = line.split_once(SNAPSHOTS).unwrap();
            format!("{attributes}{}", path.split_once("/fs/").unwrap().1)
        };
        let files = files.iter().filter(|line| line.contains("/fs/")).map(file).collect();
        let snapshots = lines(&["snapshots", "ls"]);
        let snapshots =
            snapshots[1..].iter().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        Contents { digest, is_usable, blobs: set(&["content", "ls", "-q"]), snapshots, files }
    }

    /// The digest that `image` has on a node.
    pub(super) fn digest(&self, node: &str, image: &str) -> Option<String> {
        self.contents(node, image).digest
    }

    /// Waits until no lease is left on any node.
    #[track_caller]
    pub(super) fn until_released(&self) {
        for node in self.nodes() {
            let leases = || ctr(self.stack, node, &["leases", "ls", "-q"]).ok().lines();
            until("the leases of a node to go", leases, Vec::is_empty);
        }
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        // The stack's end removes what this does not.
        let _ = self.stack.docker(["rm", "--force", "--volumes"]).args(&self.nodes).output();
    }
}

/// `ctr -n k8s.io ARGS` in a node.
pub(super) fn ctr(stack: &Stack, node: &str, args: &[&str]) -> Run {
    stack.docker(["exec", node, "ctr", "-n", "k8s.io"]).args(args)
}

/// `linkspan load IMAGE --to CLUSTER --json`.
pub(super) fn load(stack: &Stack, image: &str, cluster: &str) -> Run {
    linkspan(["load", image, "--to", cluster, "--json"]).env("DOCKER_HOST", stack.docker_host())
}

/// What a node has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) digest: Option<String>,
    /// Whether `ctr images check` says that the image is complete and unpacked.
    pub(super) is_usable: bool,
    pub(super) blobs: BTreeSet<String>,
    pub(super) snapshots: BTreeSet<String>,
    /// The files of all snapshots, with their attributes.
    pub(super) files: BTreeSet<String>,
}

/// How many blobs and bytes each node was sent, by the JSON of `linkspan load`, in the order of the nodes' names.
#[track_caller]
pub(super) fn sent(output: &Output) -> Vec<(u64, u64)> {
    let report: Value = serde_json::from_str(&output.stdout).unwrap();
    let nodes = report["nodes"].as_array().unwrap_or_else(|| panic!("no nodes in {output}"));
    nodes.iter().map(|node| (node["sentBlobs"].as_u64().unwrap(), node["sentBytes"].as_u64().unwrap())).collect()
}

/// Builds an image in dockerd as `docker load` brings it: a large layer `big` of `seed`, and above it `top`.
#[track_caller]
pub(super) fn build(stack: &Stack, tag: &str, seed: u64, top: Option<&str>) {
    let dockerfile =
        if top.is_some() { "FROM scratch\nCOPY big /big\nCOPY top /top\n" } else { "FROM scratch\nCOPY big /big\n" };
    let context = Context::new(dockerfile).noise("big", 2 << 20, seed).file("top", top.unwrap_or_default());
    let builder = stack.builder(stack.buildkit_host());
    builder.build(context.path(), ["--load", "--provenance=false", "-t", tag]).ok();
}
