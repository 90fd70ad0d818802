//! A running stack: `scripts/stack` in a state folder of its own.

use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{Part, Run, namespaces::Namespaces};

/// Real daemons under one state folder, ended and deleted when this is dropped
/// or when the process that started them is gone, however it ended.
#[derive(Debug)]
pub(crate) struct Stack {
    state: PathBuf,
    parts: Vec<Part>,
    environment: Vec<(String, String)>,
    pub(super) base: OnceLock<String>,
    pub(super) builder_image: OnceLock<()>,
    pub(super) namespaces: Namespaces,
    /// Waits for the end of its standard input, then ends the stack.
    supervisor: Child,
}

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
        // The supervisor comes first, so that a stack that starts half is ended too.
        let supervisor = Command::new("sh")
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
            namespaces: Namespaces::default(),
            supervisor,
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

    pub(super) fn variable(&self, name: &str) -> &str {
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

    #[track_caller]
    pub(crate) fn ctr<'s>(&self, namespace: &str, args: impl IntoIterator<Item = &'s str>) -> Run {
        self.namespaces.claim(namespace);
        self.run("ctr").args(["--namespace", namespace]).args(args)
    }

    pub(crate) fn buildctl<'s>(&self, args: impl IntoIterator<Item = &'s str>) -> Run {
        self.run("buildctl").args(args)
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
}

impl Drop for Stack {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        // A failure to end it must not hide the failure of a test.
        let _ = self.supervisor.wait();
    }
}

/// Where tests keep what is not small, in folders of their own that they delete.
pub(crate) fn test_folder() -> PathBuf {
    std::env::var_os("LINKSPAN_TEST_DIR").map_or_else(|| "/tmp".into(), PathBuf::from)
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/stack")
}
