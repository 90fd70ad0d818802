//! A door of the exporter API, and the engine behind it.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::client::Client;
use crate::common::{Linkspan, Run, Stack, until};

/// A linkspan with a door of the API.
pub(crate) struct Server {
    pub(crate) stack: &'static Stack,
    pub(crate) linkspan: Linkspan,
    pub(crate) door: PathBuf,
    engine: Vec<String>,
}

impl Server {
    /// Into `namespace` of the shared containerd.
    pub(crate) fn containerd(namespace: &str) -> Self {
        Self::containerd_with(namespace, &[])
    }

    /// Into `namespace` of the containerd at this path.
    pub(crate) fn containerd_at(address: &str, namespace: &str) -> Self {
        let engine = ["--engine", "containerd", "--containerd-address", address, "--namespace", namespace];
        Self::start(Stack::shared(), &engine, &[])
    }

    pub(crate) fn containerd_with(namespace: &str, args: &[&str]) -> Self {
        let stack = Stack::shared();
        let address = stack.containerd_address();
        Self::start(stack, &["--engine", "containerd", "--containerd-address", address, "--namespace", namespace], args)
    }

    /// Into a layout of its own; the folder goes with the stack.
    pub(crate) fn layout() -> (Self, PathBuf) {
        Self::layout_with(&[])
    }

    pub(crate) fn layout_with(args: &[&str]) -> (Self, PathBuf) {
        let stack = Stack::shared();
        let folder = stack.fresh_path("-layout");
        let server = Self::start(stack, &["--engine", "layout", "--layout", folder.to_str().unwrap()], args);
        (server, folder)
    }

    /// Into the shared dockerd.
    pub(crate) fn docker() -> Self {
        let stack = Stack::shared();
        Self::start(stack, &["--engine", "docker", "--docker-host", stack.docker_host()], &[])
    }

    /// One for each engine that clients can send blobs to, called as it: a test of the API alone holds on all of them.
    /// `namespace` is that of containerd; a layout is empty, and the shared dockerd is not.
    pub(crate) fn each(namespace: &str) -> [(&'static str, Self); 3] {
        [("layout", Self::layout().0), ("containerd", Self::containerd(namespace)), ("docker", Self::docker())]
    }

    /// Another process with a door to the same engine.
    pub(crate) fn beside(&self) -> Self {
        let engine: Vec<_> = self.engine.iter().map(String::as_str).collect();
        Self::start(self.stack, &engine, &[])
    }

    /// Waits until no export holds anything, where no other test can.
    pub(crate) fn until_released(&self) {
        let flag = |name: &str| self.engine.iter().skip_while(|arg| *arg != name).nth(1);
        if let Some(namespace) = flag("--namespace") {
            until("the leases to go", || self.stack.leases(namespace), Vec::is_empty);
        }
        if let Some(layout) = flag("--layout") {
            let leases = Path::new(layout).join(".linkspan/leases");
            until("the leases to go", || leases.read_dir().map_or(0, Iterator::count), |leases| *leases == 0);
        }
    }

    fn start(stack: &'static Stack, engine: &[&str], args: &[&str]) -> Self {
        let door = stack.fresh_path("-export.sock");
        let linkspan = Linkspan::export(stack, engine, args, door.clone());
        Self { stack, linkspan, door, engine: engine.iter().map(|&arg| arg.to_owned()).collect() }
    }

    /// Starts it again after it ended.
    pub(crate) fn restart(&mut self) {
        self.restart_with(&[]);
    }

    pub(crate) fn restart_with(&mut self, args: &[&str]) {
        let engine: Vec<_> = self.engine.iter().map(String::as_str).collect();
        self.linkspan = Linkspan::export(self.stack, &engine, args, self.door.clone());
    }

    /// What `linkspan ps` shows of its exports.
    pub(crate) fn ps(&self) -> Vec<Value> {
        let run = Run::new(env!("CARGO_BIN_EXE_linkspan")).args(["ps", "--json", "--to", &self.linkspan.address()]);
        run.ok().stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(&self.door).await
    }
}
