//! A containerd of a test's own, to be configured and stopped without disturbing others.

use std::fs;
use std::process::ExitStatus;

use rustix::process::Signal;

use crate::common::{Running, Stack, until};

/// A containerd that nobody else uses. Should its test fail, it ends with the stack.
pub(crate) struct Containerd {
    running: Running,
    socket: String,
}

impl Containerd {
    /// With these lines at the end of its configuration.
    pub(crate) fn start(configuration: &str) -> Self {
        let stack = Stack::shared();
        let folder = stack.fresh_path("-own");
        let path = |name: &str| folder.join(name);
        let socket = path("c.sock").into_os_string().into_string().unwrap();
        fs::create_dir(&folder).unwrap();
        let text = format!(
            "version = 3\nroot = {:?}\nstate = {:?}\nimports = []\n\
             disabled_plugins = [\"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\", \
             \"io.containerd.grpc.v1.cri\", \"io.containerd.nri.v1.nri\"]\n\
             [grpc]\naddress = {socket:?}\n[ttrpc]\naddress = {:?}\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\npath = {:?}\n{configuration}",
            path("root"),
            path("state"),
            path("t.sock"),
            path("opt"),
        );
        fs::write(path("containerd.toml"), text).unwrap();
        let running = stack.run("containerd").arg("--config").arg(path("containerd.toml")).spawn();
        let version = || stack.run("ctr").args(["--address", &socket, "version"]).output().status;
        until("containerd", version, ExitStatus::success);
        Self { running, socket }
    }

    /// Its socket, a path.
    pub(crate) fn address(&self) -> &str {
        &self.socket
    }

    /// It takes calls and does not respond.
    pub(crate) fn freeze(&self) {
        self.running.signal(Signal::STOP);
    }

    /// It responds again.
    pub(crate) fn thaw(&self) {
        self.running.signal(Signal::CONT);
    }

    /// Waits for its end.
    pub(crate) fn end(self) {
        self.running.signal(Signal::TERM);
        self.running.wait();
    }
}
