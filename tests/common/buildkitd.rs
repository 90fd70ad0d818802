//! Builders beside the stack's own one: a second one, or one of another version.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use super::{Stack, file_of, until};

/// A running buildkitd with a state of its own, killed when dropped. Its log is shown when a test fails.
#[derive(Debug)]
pub(crate) struct Buildkitd {
    child: Child,
    root: PathBuf,
}

impl Buildkitd {
    /// Starts `program`, a buildkitd that `scripts/stack install` installs, and waits until it responds.
    ///
    /// # Panics
    /// When it is not installed, or ends instead, with its log.
    #[track_caller]
    pub(crate) fn start(stack: &Stack, program: &str) -> Self {
        Self::start_with(stack, program, "")
    }

    /// The same with `more` in its configuration.
    #[track_caller]
    pub(crate) fn start_with(stack: &Stack, program: &str, more: &str) -> Self {
        let root = stack.fresh_path("-bk");
        fs::create_dir(&root).unwrap();
        let config = root.join("buildkitd.toml");
        fs::write(&config, configuration(&root) + more).unwrap();
        let log = File::create(root.join("log")).unwrap();
        let mut command = Command::new(stack.program(program));
        let (name, value) = stack.mark();
        command.arg("--config").arg(config).env("PATH", stack.path()).env(name, value);
        for signal in ["TRACES", "METRICS", "LOGS"] {
            command.env(format!("OTEL_{signal}_EXPORTER"), "none");
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut buildkitd = Self { child: command.spawn().unwrap(), root };
        let address = buildkitd.address();
        let ready = || {
            let workers = stack.buildctl(["--addr", &address, "debug", "workers"]).output();
            (buildkitd.child.try_wait().unwrap(), workers.status.success())
        };
        let (ended, _) = until("a builder to respond", ready, |(ended, is_ready)| ended.is_some() || *is_ready);
        assert!(ended.is_none(), "{program} ended with {ended:?}:\n{}", buildkitd.log());
        buildkitd
    }

    /// Its socket, as `unix:///…`.
    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.root.join("sock").display())
    }

    fn log(&self) -> String {
        file_of(self.root.join("log"))
    }
}

impl Drop for Buildkitd {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- log of the builder in {}\n{}", self.root.display(), self.log());
        }
    }
}

/// The stack's own (`scripts/lib/daemons.sh`). Versions leave out what they do not know.
fn configuration(root: &Path) -> String {
    let root = root.display();
    format!(
        "root = \"{root}/state\"\n\
         insecure-entitlements = [\"network.host\"]\n\
         provenanceEnvDir = \"{root}/provenance.d\"\n\
         [grpc]\n  address = [\"unix://{root}/sock\"]\n\
         [otel]\n  socketPath = \"{root}/otel.sock\"\n\
         [worker.oci]\n  enabled = true\n  snapshotter = \"overlayfs\"\n  networkMode = \"host\"\n\
         [worker.containerd]\n  enabled = false\n"
    )
}
