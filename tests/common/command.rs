//! The program as a command, and the flags that choose an engine of a stack.

use super::{Run, Stack};

/// Variables by which the machine's shell could change what the program does.
pub(super) const ENVIRONMENT: [&str; 11] = [
    "DOCKER_HOST",
    "DOCKER_CONTEXT",
    "DOCKER_TLS",
    "DOCKER_TLS_VERIFY",
    "DOCKER_CERT_PATH",
    "CONTAINERD_ADDRESS",
    "CONTAINERD_NAMESPACE",
    "BUILDKIT_HOST",
    "LINKSPAN_TO",
    "LINKSPAN_LAYOUT",
    "LINKSPAN_OBJECT",
];

/// `linkspan ARGS`, without the variables of the machine's shell.
pub(crate) fn linkspan<'s>(args: impl IntoIterator<Item = &'s str>) -> Run {
    ENVIRONMENT.iter().fold(Run::new(env!("CARGO_BIN_EXE_linkspan")).args(args), |run, name| run.without_env(name))
}

impl Stack {
    /// The flags for its dockerd as the engine.
    pub(crate) fn docker_flags(&self) -> [&str; 4] {
        ["--engine", "docker", "--docker-host", self.docker_host()]
    }

    /// The flags for a namespace of its containerd as the engine.
    #[track_caller]
    pub(crate) fn containerd_flags<'s>(&'s self, namespace: &'s str) -> [&'s str; 6] {
        self.namespaces.claim(namespace);
        ["--engine", "containerd", "--containerd-address", self.containerd_address(), "--namespace", namespace]
    }
}
