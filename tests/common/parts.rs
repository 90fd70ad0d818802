//! The daemons of a stack, and their processes.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

use super::{Stack, file_of, until};

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
    pub(super) const USUAL: [Self; 4] = [Self::Containerd, Self::Dockerd, Self::Buildkitd, Self::Registry];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Dockerd => "dockerd",
            Self::DockerdClassic => "dockerd-classic",
            Self::Buildkitd => "buildkitd",
            Self::Registry => "registry",
        }
    }
}

impl Stack {
    /// The process of a part. Its pid file says which it is.
    pub(crate) fn pid(&self, part: Part) -> Pid {
        let file = self.state().join("run").join(part.name()).with_extension("pid");
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
        file_of(self.state().join("log").join(part.name()).with_extension("log"))
    }
}

/// Whether a process runs. A zombie still has a folder in /proc, but no longer a command line.
pub(crate) fn alive(pid: Pid) -> bool {
    fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).is_ok_and(|line| !line.is_empty())
}
