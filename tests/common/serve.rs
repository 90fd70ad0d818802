//! The program under test, as users start it.

use std::{
    ffi::OsStr,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
};

use rustix::process::{Pid, Signal, kill_process};

use super::command::ENVIRONMENT;
use super::{Stack, file_of, until};

/// A running `linkspan serve`, killed when dropped. Its log is shown when a test fails.
#[derive(Debug)]
pub(crate) struct Linkspan {
    child: Child,
    log: PathBuf,
    doors: Vec<PathBuf>,
}

impl Linkspan {
    /// A buildkit door for the stack's builder, exporting into its dockerd.
    #[track_caller]
    pub(crate) fn docker(stack: &Stack) -> Self {
        Self::start(stack, &stack.docker_flags(), &[stack.buildkit_host()])
    }

    /// A buildkit door for the stack's builder, exporting into a namespace of its containerd.
    #[track_caller]
    pub(crate) fn containerd(stack: &Stack, namespace: &str) -> Self {
        Self::start(stack, &stack.containerd_flags(namespace), &[stack.buildkit_host()])
    }

    /// A door of the exporter API at `door`; `engine` and `args` are flags.
    #[track_caller]
    pub(crate) fn export(stack: &Stack, engine: &[&str], args: &[&str], door: PathBuf) -> Self {
        let listen = unix(&door);
        let args = [engine, &["--export-listen", &listen], args].concat();
        Self::start_at(stack, &args, &[], vec![door])
    }

    /// A registry door at a free port of the loopback address, or where `args`, which are flags, say. Returns its `HOST:PORT`, too.
    #[track_caller]
    pub(crate) fn registry(stack: &Stack, args: &[&str]) -> (Self, String) {
        Self::registry_with(stack, args, &[])
    }

    /// The same with variables.
    #[track_caller]
    pub(crate) fn registry_with(stack: &Stack, args: &[&str], variables: &[(String, String)]) -> (Self, String) {
        let usual: &[&str] = match args.contains(&"--registry-listen") {
            true => &["--log-level", "debug"],
            false => &["--log-level", "debug", "--registry-listen", "tcp://127.0.0.1:0"],
        };
        let args = [args, usual].concat();
        let mut linkspan = Self::spawn(stack, &args, &[], Vec::new(), variables);
        let look = || (linkspan.child.try_wait().unwrap(), registry_address(&linkspan.log()));
        let (ended, address) =
            until("linkspan to listen", look, |(ended, address)| ended.is_some() || address.is_some());
        let address = address.unwrap_or_else(|| panic!("linkspan ended with {ended:?}:\n{}", linkspan.log()));
        (linkspan, address)
    }

    /// A docker door for the stack's dockerd, and the builders in its containers.
    #[track_caller]
    pub(crate) fn docker_door(stack: &Stack) -> Self {
        Self::docker_door_at(stack, stack.docker_host(), stack.fresh_path("-docker.sock"), &["--log-level", "debug"])
    }

    /// The same for a dockerd at `docker_host`, listening at `door`; `args` are more flags.
    #[track_caller]
    pub(crate) fn docker_door_at(stack: &Stack, docker_host: &str, door: PathBuf, args: &[&str]) -> Self {
        let listen = unix(&door);
        let engine = ["--engine", "docker", "--docker-host", docker_host, "--docker-listen", &listen];
        Self::start_at(stack, &[&engine[..], args].concat(), &[], vec![door])
    }

    /// `linkspan serve ARGS` with a door for each of `builders`, once all of them accept.
    ///
    /// # Panics
    /// When it ends instead, with its log.
    #[track_caller]
    pub(crate) fn start(stack: &Stack, args: &[impl AsRef<OsStr>], builders: &[&str]) -> Self {
        let doors = builders.iter().map(|_| stack.fresh_path(".sock")).collect();
        Self::start_at(stack, args, builders, doors)
    }

    /// The same with chosen sockets, for a restart.
    #[track_caller]
    pub(crate) fn start_at(stack: &Stack, args: &[impl AsRef<OsStr>], builders: &[&str], doors: Vec<PathBuf>) -> Self {
        Self::start_with(stack, args, builders, doors, &[])
    }

    /// The same with variables.
    #[track_caller]
    pub(crate) fn start_with(
        stack: &Stack,
        args: &[impl AsRef<OsStr>],
        builders: &[&str],
        doors: Vec<PathBuf>,
        variables: &[(String, String)],
    ) -> Self {
        let mut linkspan = Self::spawn(stack, args, builders, doors, variables);
        linkspan.wait();
        linkspan
    }

    /// The same without waiting for its doors: where log lines are JSON, they have another form.
    #[track_caller]
    pub(crate) fn spawned(
        stack: &Stack,
        args: &[impl AsRef<OsStr>],
        builders: &[&str],
        doors: Vec<PathBuf>,
        variables: &[(String, String)],
    ) -> Self {
        Self::spawn(stack, args, builders, doors, variables)
    }

    #[track_caller]
    fn spawn(
        stack: &Stack,
        args: &[impl AsRef<OsStr>],
        builders: &[&str],
        doors: Vec<PathBuf>,
        variables: &[(String, String)],
    ) -> Self {
        let log = stack.fresh_path("-linkspan.log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_linkspan"));
        command.arg("serve").args(args);
        for (builder, door) in builders.iter().zip(&doors) {
            command.args(["--builder", builder, "--buildkit-listen", &unix(door)]);
        }
        // Only the test's own flags count, not what the machine's shell happens to export.
        for name in ENVIRONMENT {
            command.env_remove(name);
        }
        let (name, value) = stack.mark();
        command.env(name, value).envs(variables.iter().map(|(name, value)| (name, value)));
        let file = File::create(&log).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        Self { child: command.spawn().unwrap(), log, doors }
    }

    /// Waits until its log has all doors as open. They can be connected to before that.
    #[track_caller]
    fn wait(&mut self) {
        for door in &self.doors {
            // A registry door says more behind its address.
            let line = format!("listening on {}", unix(door));
            let is_open = |log: &str| ["\n", " ("].iter().any(|end| log.contains(&format!("{line}{end}")));
            let ready = || (self.child.try_wait().unwrap(), is_open(&file_of(&self.log)));
            let (ended, _) = until("linkspan to listen", ready, |(ended, open)| ended.is_some() || *open);
            assert!(ended.is_none(), "linkspan ended with {ended:?}:\n{}", self.log());
        }
    }

    /// Where its first door listens, as `unix:///…`.
    pub(crate) fn address(&self) -> String {
        unix(&self.doors[0])
    }

    /// The sockets of its doors.
    pub(crate) fn doors(&self) -> &[PathBuf] {
        &self.doors
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// The most memory that it has had (proc(5), `VmHWM`).
    #[track_caller]
    pub(crate) fn peak_bytes(&self) -> u64 {
        let status = file_of(Path::new(&format!("/proc/{}/status", self.pid().as_raw_nonzero())));
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    pub(crate) fn log(&self) -> String {
        file_of(&self.log)
    }

    /// SIGKILL, as a crash.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, then its exit status.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        kill_process(self.pid(), Signal::TERM).unwrap();
        until("linkspan to end after SIGTERM", || self.child.try_wait().unwrap(), Option::is_some).unwrap()
    }
}

impl Drop for Linkspan {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- linkspan's log\n{}", self.log());
        }
    }
}

/// Where a registry door says that it listens.
fn registry_address(log: &str) -> Option<String> {
    let (_, rest) = log.split_once("registry door listening on tcp://")?;
    rest.split_once([' ', '\n']).map(|(address, _)| address.to_owned())
}

/// The address of a socket.
pub(crate) fn unix(path: &Path) -> String {
    format!("unix://{}", path.display())
}
