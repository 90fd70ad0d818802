//! A running stack: `scripts/stack` in a state folder of its own.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use rustix::process::{Pid, Signal, kill_process};

use super::{Run, file_of, until};

/// The daemons of a stack, by the names that `scripts/stack` gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Containerd,
    Dockerd,
    /// A second dockerd, with the classic image store.
    DockerdClassic,
    Buildkitd,
    Registry,
}

impl Part {
    /// What the shared stack runs. The classic dockerd is started by the tests that are about it.
    const USUAL: [Self; 4] = [Self::Containerd, Self::Dockerd, Self::Buildkitd, Self::Registry];

    fn name(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Dockerd => "dockerd",
            Self::DockerdClassic => "dockerd-classic",
            Self::Buildkitd => "buildkitd",
            Self::Registry => "registry",
        }
    }
}

/// Real daemons under one state folder, ended and deleted when this is dropped
/// or when the process that started them is gone, however it ended.
#[derive(Debug)]
pub(crate) struct Stack {
    state: PathBuf,
    parts: Vec<Part>,
    environment: Vec<(String, String)>,
    base: OnceLock<String>,
    builder_image: OnceLock<()>,
    /// Waits for the end of its standard input, then ends the stack.
    warden: Child,
}

/// A buildx builder, with a buildx configuration of its own.
#[derive(Debug)]
pub(crate) struct Builder<'a> {
    stack: &'a Stack,
    config: PathBuf,
    /// What buildx takes for dockerd's socket, as `unix:///…`.
    docker_host: String,
}

/// The image of builders in containers. No registry has it: a pull of the name fails at once, and what the engine holds
/// is used.
pub(crate) const BUILDER_IMAGE: &str = "localhost:1/linkspan/buildkit:test";

impl Stack {
    /// The stack that the tests of this binary share: every part but the classic dockerd, started once.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Stack> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&Part::USUAL))
    }

    /// Another one that they share: a classic dockerd, with a builder and a registry.
    pub(crate) fn classic() -> &'static Self {
        static SHARED: OnceLock<Stack> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&[Part::Containerd, Part::DockerdClassic, Part::Buildkitd, Part::Registry]))
    }

    /// A stack of one's own, for tests that count what is in it or kill its parts.
    ///
    /// # Panics
    /// When it does not start, with the words and the remedy of `scripts/stack`.
    pub(crate) fn start(parts: &[Part]) -> Self {
        Self::start_below(&test_folder(), parts)
    }

    /// The same with its state folder in `parent`, which must have a short path: sockets in it end at 107 bytes.
    pub(crate) fn start_below(parent: &Path, parts: &[Part]) -> Self {
        let state = tempfile::Builder::new().prefix("ls-").tempdir_in(parent).unwrap().keep();
        // The warden comes first, so that a stack that starts half is ended too.
        let warden = Command::new("sh")
            .args(["-c", r#"cat >/dev/null; exec "$0" down --purge --state "$1""#])
            .args([script(), state.clone()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0) // a Ctrl-C at the terminal must not end it
            .spawn()
            .unwrap();
        let mut stack = Self {
            state,
            parts: parts.to_vec(),
            environment: Vec::new(),
            base: OnceLock::new(),
            builder_image: OnceLock::new(),
            warden,
        };
        stack.up();
        stack.environment = stack.read_environment();
        stack
    }

    /// Starts what does not run: all of it at first, later the parts that a test has killed.
    #[track_caller]
    pub(crate) fn up(&self) {
        let names: Vec<_> = self.parts.iter().map(|part| part.name()).collect();
        Run::new(script()).args(["up", "--only", &names.join(","), "--state"]).arg(&self.state).ok();
    }

    fn read_environment(&self) -> Vec<(String, String)> {
        let text = Run::new(script()).args(["env", "--state"]).arg(&self.state).ok().stdout;
        let path = std::env::var("PATH").unwrap();
        let parse = |line: &str| {
            let (name, value) = line.strip_prefix("export ")?.split_once('=')?;
            Some((name.to_owned(), value.trim_matches('"').replace("$PATH", &path)))
        };
        text.lines()
            .map(|line| parse(line).unwrap_or_else(|| panic!("unexpected line of `stack env`: {line}")))
            .collect()
    }

    fn variable(&self, name: &str) -> &str {
        let found = self.environment.iter().find(|(key, _)| key == name);
        &found.unwrap_or_else(|| panic!("`stack env` has no {name}")).1
    }

    /// The folder that holds everything of this stack; tests may put files of their own there.
    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    /// A path below the state folder that nobody else uses, short enough for a socket.
    pub(crate) fn fresh_path(&self, suffix: &str) -> PathBuf {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        self.state.join(format!("t{}{suffix}", NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    /// containerd's socket, a path.
    pub(crate) fn containerd_address(&self) -> &str {
        self.variable("CONTAINERD_ADDRESS")
    }

    /// dockerd's socket, as `unix:///…`.
    pub(crate) fn docker_host(&self) -> &str {
        self.variable("DOCKER_HOST")
    }

    /// The socket of the dockerd with the classic image store, as `unix:///…`.
    pub(crate) fn docker_classic_host(&self) -> &str {
        self.variable("LINKSPAN_DOCKER_CLASSIC_HOST")
    }

    /// buildkitd's socket, as `unix:///…`.
    pub(crate) fn buildkit_host(&self) -> &str {
        self.variable("BUILDKIT_HOST")
    }

    /// The registry, as `HOST:PORT`; it speaks plain HTTP.
    pub(crate) fn registry(&self) -> &str {
        self.variable("LINKSPAN_REGISTRY")
    }

    /// A variable by which `scripts/stack down` knows what belongs to this stack and must end with it,
    /// should the test process be gone before it could do that itself.
    pub(crate) fn mark(&self) -> (&'static str, &Path) {
        ("LINKSPAN_STACK_MEMBER", &self.state)
    }

    /// A client with this stack's environment.
    pub(crate) fn run(&self, program: &str) -> Run {
        let (name, value) = self.mark();
        self.environment.iter().fold(Run::new(program).env(name, value), |run, (name, value)| run.env(name, value))
    }

    pub(crate) fn docker<'s>(&self, args: impl IntoIterator<Item = &'s str>) -> Run {
        self.run("docker").args(args)
    }

    /// `docker …` to the dockerd with the classic image store.
    pub(crate) fn docker_classic<'s>(&self, args: impl IntoIterator<Item = &'s str>) -> Run {
        self.docker(args).env("DOCKER_HOST", self.docker_classic_host())
    }

    pub(crate) fn ctr<'s>(&self, namespace: &str, args: impl IntoIterator<Item = &'s str>) -> Run {
        self.run("ctr").args(["--namespace", namespace]).args(args)
    }

    pub(crate) fn buildctl<'s>(&self, args: impl IntoIterator<Item = &'s str>) -> Run {
        self.run("buildctl").args(args)
    }

    /// A builder of buildx's remote driver at `address` (`unix:///…` or `tcp://…`).
    #[track_caller]
    pub(crate) fn builder(&self, address: &str) -> Builder<'_> {
        let config = self.fresh_path("-buildx");
        let builder = Builder { stack: self, config, docker_host: self.docker_host().to_owned() };
        builder.buildx(["create", "--name", "remote", "--driver", "remote", "--use", address]).ok();
        builder
    }

    /// A builder of buildx's docker-container driver called `name` (a name of its own in this stack), whose client takes
    /// `docker_host` for dockerd's socket. It has no container until it is first used.
    #[track_caller]
    pub(crate) fn container_builder(&self, docker_host: &str, name: &str) -> Builder<'_> {
        self.make_builder_image();
        let (config, docker_host) = (self.fresh_path("-buildx"), docker_host.to_owned());
        let builder = Builder { stack: self, config, docker_host };
        let image = format!("image={BUILDER_IMAGE},network=host");
        let create = ["create", "--name", name, "--driver", "docker-container", "--use", "--driver-opt", &image];
        builder.buildx(create).args(["--buildkitd-flags", "--oci-worker-net=host"]).ok();
        builder
    }

    /// Makes dockerd hold [`BUILDER_IMAGE`]: this machine's buildkitd, buildctl, runc and a shell.
    fn make_builder_image(&self) {
        self.builder_image.get_or_init(|| {
            let root = self.fresh_path("-builder");
            for folder in ["usr/bin", "bin", "tmp", "etc"] {
                fs::create_dir_all(root.join(folder)).unwrap();
            }
            for (from, to) in [
                ("buildkitd", "usr/bin/buildkitd"),
                ("buildctl", "usr/bin/buildctl"),
                ("runc", "usr/bin/buildkit-runc"),
                ("busybox", "bin/busybox"),
            ] {
                fs::copy(self.program(from), root.join(to)).unwrap();
            }
            for applet in ["sh", "cat", "echo", "sleep", "ps", "kill"] {
                std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
            }
            let tar = root.with_extension("tar");
            Run::new("tar").args(["--owner=0", "--group=0", "-C"]).arg(&root).arg("-cf").arg(&tar).arg(".").ok();
            let changes = ["ENTRYPOINT [\"buildkitd\"]", "ENV PATH=/usr/bin:/bin", "VOLUME /var/lib/buildkit"];
            let changes = changes.iter().flat_map(|change| ["--change", change]);
            self.docker(["import"]).args(changes).arg(&tar).arg(BUILDER_IMAGE).ok();
            fs::remove_file(tar).unwrap();
            fs::remove_dir_all(root).unwrap();
        });
    }

    /// The name of a small base image in the registry: busybox as `/bin/sh` and friends,
    /// in a layer that no builder of this stack has seen before it is pulled.
    pub(crate) fn base_image(&self) -> &str {
        self.base.get_or_init(|| {
            let name = format!("{}/base:latest", self.registry());
            let root = self.fresh_path("-base");
            fs::create_dir_all(root.join("bin")).unwrap();
            fs::copy(self.program("busybox"), root.join("bin/busybox")).unwrap();
            for applet in ["sh", "cat", "echo", "ls", "sleep", "test", "wc", "touch", "mkdir", "head", "tee"] {
                std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
            }
            let tar = root.with_extension("tar");
            let arguments = ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner"];
            Run::new("tar").args(arguments).arg("-C").arg(&root).arg("-cf").arg(&tar).arg("bin").ok();
            self.run("crane").args(["append", "--oci-empty-base", "--insecure", "-t", &name, "-f"]).arg(&tar).ok();
            self.run("crane")
                .args(["mutate", "--insecure", &name, "-t", &name, "--set-platform", "linux/amd64"])
                .args(["--env", "PATH=/bin"])
                .ok();
            name
        })
    }

    /// Where a program lies that this stack uses.
    #[track_caller]
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.find_program(name).unwrap_or_else(|| panic!("{name} is not on PATH; hint: scripts/stack install"))
    }

    /// The same for a program that need not be there.
    pub(crate) fn find_program(&self, name: &str) -> Option<PathBuf> {
        std::env::split_paths(self.path()).map(|dir| dir.join(name)).find(|path| path.is_file())
    }

    /// The folders of the programs that this stack uses.
    pub(crate) fn path(&self) -> &str {
        self.variable("PATH")
    }

    /// The process of a part. Its pid file says which it is.
    pub(crate) fn pid(&self, part: Part) -> Pid {
        let file = self.state.join("run").join(part.name()).with_extension("pid");
        let text = fs::read_to_string(&file).unwrap();
        let pid = text.split(' ').next().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
        pid.unwrap_or_else(|| panic!("{} holds no pid: {text}", file.display()))
    }

    /// Kills a part with SIGKILL and waits until it is gone; [`Stack::up`] starts it again.
    pub(crate) fn kill(&self, part: Part) {
        self.end(part, Signal::KILL, || {});
    }

    /// Sends a part a signal that ends it, does what it may wait for, and waits until it is gone.
    pub(crate) fn end(&self, part: Part, signal: Signal, meanwhile: impl FnOnce()) {
        let pid = self.pid(part);
        kill_process(pid, signal).unwrap();
        meanwhile();
        until(part.name(), || alive(pid), |alive| !alive);
    }

    /// The last words of a part, for messages.
    pub(crate) fn log(&self, part: Part) -> String {
        file_of(self.state.join("log").join(part.name()).with_extension("log"))
    }

    /// Ids of the leases in a containerd namespace.
    pub(crate) fn leases(&self, namespace: &str) -> Vec<String> {
        self.ctr(namespace, ["leases", "ls", "-q"]).ok().lines()
    }

    /// References of the ingests that are under way in a containerd namespace.
    pub(crate) fn ingests(&self, namespace: &str) -> Vec<String> {
        let lines = self.ctr(namespace, ["content", "active"]).ok().lines();
        lines[1..].iter().filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect()
    }

    /// Digests of the blobs in a containerd namespace.
    pub(crate) fn blobs(&self, namespace: &str) -> Vec<String> {
        self.ctr(namespace, ["content", "ls", "-q"]).ok().lines()
    }

    /// Snapshots of the default snapshotter in a containerd namespace, as `(name, kind)`.
    pub(crate) fn snapshots(&self, namespace: &str) -> Vec<(String, String)> {
        let lines = self.ctr(namespace, ["snapshots", "ls"]).ok().lines();
        // An active snapshot's key is two words, and the lowest has no parent.
        let pair = |line: &String| {
            let words: Vec<_> = line.split_whitespace().collect();
            (words[0].to_owned(), words[words.len() - 1].to_owned())
        };
        lines[1..].iter().map(pair).collect()
    }

    /// Image records of a containerd namespace, as `(name, digest)`.
    pub(crate) fn images(&self, namespace: &str) -> Vec<(String, String)> {
        let lines = self.ctr(namespace, ["images", "ls"]).ok().lines();
        let pair = |line: &String| {
            let words: Vec<_> = line.split_whitespace().collect();
            (words[0].to_owned(), words[2].to_owned())
        };
        lines[1..].iter().map(pair).collect()
    }

    /// The digest of an image record in dockerd's namespace, if there is one.
    pub(crate) fn image(&self, name: &str) -> Option<String> {
        self.image_of("moby", name)
    }

    /// The digest of an image record in a containerd namespace, if there is one.
    pub(crate) fn image_of(&self, namespace: &str, name: &str) -> Option<String> {
        self.images(namespace).into_iter().find(|(found, _)| found == name).map(|(_, digest)| digest)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        drop(self.warden.stdin.take());
        // A failure to end it must not hide the failure of a test.
        let _ = self.warden.wait();
    }
}

impl Builder<'_> {
    /// buildx's configuration folder.
    pub(crate) fn config(&self) -> &Path {
        &self.config
    }

    /// `docker buildx …` with this builder's configuration.
    pub(crate) fn buildx<'s>(&self, args: impl IntoIterator<Item = &'s str>) -> Run {
        let run = self.stack.docker(["buildx"]).args(args);
        run.env("BUILDX_CONFIG", &self.config).env("DOCKER_HOST", &self.docker_host)
    }

    /// `docker buildx build --progress plain … CONTEXT`.
    pub(crate) fn build<'s>(&self, context: &Path, args: impl IntoIterator<Item = &'s str>) -> Run {
        self.buildx(["build", "--progress", "plain"]).args(args).arg(context)
    }
}

/// Where tests keep what is not small, in folders of their own that they delete.
pub(crate) fn test_folder() -> PathBuf {
    std::env::var_os("LINKSPAN_TEST_DIR").map_or_else(|| "/tmp".into(), PathBuf::from)
}

/// Whether a process runs. A zombie still has a folder in /proc, but no longer a command line.
pub(crate) fn alive(pid: Pid) -> bool {
    fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).is_ok_and(|line| !line.is_empty())
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/stack")
}
