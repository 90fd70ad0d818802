//! A door of the APIs, and the engine behind it.

use std::path::{Path, PathBuf};

use tonic::transport::{Channel, Endpoint, Uri};

use super::{Linkspan, Run, Stack, linkspan, text, until};

/// A linkspan with a door of the APIs, and nothing else.
pub(crate) struct ApiServer {
    pub(crate) stack: &'static Stack,
    pub(crate) linkspan: Linkspan,
    pub(crate) door: PathBuf,
    engine: Vec<String>,
}

impl ApiServer {
    /// In front of the engine that `engine` chooses; `args` are more flags, for this process only.
    #[track_caller]
    pub(crate) fn start(stack: &'static Stack, engine: &[&str], args: &[&str]) -> Self {
        let door = stack.fresh_path("-export.sock");
        let linkspan = Linkspan::export(stack, engine, args, door.clone());
        Self { stack, linkspan, door, engine: engine.iter().map(|&arg| arg.to_owned()).collect() }
    }

    /// In front of `namespace` of the shared containerd.
    #[track_caller]
    pub(crate) fn containerd(namespace: &str) -> Self {
        Self::containerd_with(namespace, &[])
    }

    #[track_caller]
    pub(crate) fn containerd_with(namespace: &str, args: &[&str]) -> Self {
        let stack = Stack::shared();
        Self::start(stack, &stack.containerd_flags(namespace), args)
    }

    /// In front of the shared dockerd.
    #[track_caller]
    pub(crate) fn docker() -> Self {
        let stack = Stack::shared();
        Self::start(stack, &stack.docker_flags(), &[])
    }

    /// In front of a layout of its own; the folder goes with the stack.
    #[track_caller]
    pub(crate) fn layout() -> (Self, PathBuf) {
        Self::layout_with(&[])
    }

    #[track_caller]
    pub(crate) fn layout_with(args: &[&str]) -> (Self, PathBuf) {
        let stack = Stack::shared();
        let folder = stack.fresh_path("-layout");
        (Self::start(stack, &["--engine", "layout", "--layout", text(&folder)], args), folder)
    }

    /// Another process with a door to the same engine.
    #[track_caller]
    pub(crate) fn beside(&self) -> Self {
        Self::start(self.stack, &self.engine(), &[])
    }

    /// Starts it again after it ended.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        self.restart_with(&[]);
    }

    /// The same with these flags beside those of the engine.
    #[track_caller]
    pub(crate) fn restart_with(&mut self, args: &[&str]) {
        self.linkspan = Linkspan::export(self.stack, &self.engine(), args, self.door.clone());
    }

    /// `linkspan ARGS` on the same engine, in a process of its own.
    pub(crate) fn command(&self, args: &[&str]) -> Run {
        linkspan(args.iter().copied()).args(self.engine())
    }

    /// Waits until no export or hold keeps anything, where no other test can.
    #[track_caller]
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

    fn engine(&self) -> Vec<&str> {
        self.engine.iter().map(String::as_str).collect()
    }
}

/// A connection to the door `door`.
pub(crate) async fn channel(door: &Path, endpoint: Endpoint) -> Channel {
    let door = door.to_owned();
    let connect = move |_: Uri| {
        let door = door.clone();
        async move { tokio::net::UnixStream::connect(door).await.map(hyper_util::rt::TokioIo::new) }
    };
    endpoint.connect_with_connector(tower::service_fn(connect)).await.unwrap()
}
