//! Builders of buildx.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::{BUILDER_IMAGE, Output, Run, Stack};

/// A buildx builder, with a buildx configuration of its own.
#[derive(Debug)]
pub(crate) struct Builder<'a> {
    stack: &'a Stack,
    config: PathBuf,
    /// What buildx takes for dockerd's socket, as `unix:///…`.
    docker_host: String,
    /// Variables of its client.
    variables: Vec<(String, String)>,
}

impl Stack {
    /// A builder of buildx's remote driver at `address` (`unix:///…` or `tcp://…`).
    #[track_caller]
    pub(crate) fn builder(&self, address: &str) -> Builder<'_> {
        self.builder_with(address, &[])
    }

    /// The same with more flags for its creation.
    #[track_caller]
    pub(crate) fn builder_with(&self, address: &str, flags: &[&str]) -> Builder<'_> {
        let config = self.fresh_path("-buildx");
        let builder =
            Builder { stack: self, config, docker_host: self.docker_host().to_owned(), variables: Vec::new() };
        builder.buildx(["create", "--name", "remote", "--driver", "remote", "--use"]).args(flags).arg(address).ok();
        builder
    }

    /// A builder of buildx's docker-container driver called `name` (a name of its own in this stack), whose client takes
    /// `docker_host` for dockerd's socket. It has no container until it is first used.
    #[track_caller]
    pub(crate) fn container_builder(&self, docker_host: &str, name: &str) -> Builder<'_> {
        self.container_builder_with(docker_host, name, Vec::new())
    }

    /// The same with variables for its client.
    #[track_caller]
    pub(crate) fn container_builder_with(
        &self,
        docker_host: &str,
        name: &str,
        variables: Vec<(String, String)>,
    ) -> Builder<'_> {
        self.make_builder_image();
        let (config, docker_host) = (self.fresh_path("-buildx"), docker_host.to_owned());
        let builder = Builder { stack: self, config, docker_host, variables };
        let image = format!("image={BUILDER_IMAGE},network=host");
        let create = ["create", "--name", name, "--driver", "docker-container", "--use", "--driver-opt", &image];
        builder.buildx(create).args(["--buildkitd-flags", "--oci-worker-net=host"]).ok();
        builder
    }
}

impl Builder<'_> {
    /// A client that leaves the record's provenance out of the metadata file.
    pub(crate) fn without_provenance(mut self) -> Self {
        self.variables.push(("BUILDX_METADATA_PROVENANCE".to_owned(), "disabled".to_owned()));
        self
    }

    /// buildx's configuration folder.
    pub(crate) fn config(&self) -> &Path {
        &self.config
    }

    /// `docker buildx …` with this builder's configuration.
    pub(crate) fn buildx<'s>(&self, args: impl IntoIterator<Item = &'s str>) -> Run {
        let run = self.stack.docker(["buildx"]).args(args);
        let run = run.env("BUILDX_CONFIG", &self.config).env("DOCKER_HOST", &self.docker_host);
        self.variables.iter().fold(run, |run, (name, value)| run.env(name, value))
    }

    /// Removes all that the builder has cached.
    #[track_caller]
    pub(crate) fn prune(&self) {
        self.buildx(["prune", "--all", "--force"]).ok();
    }

    /// `docker buildx build --progress plain … CONTEXT`.
    pub(crate) fn build<'s>(&self, context: &Path, args: impl IntoIterator<Item = &'s str>) -> Run {
        self.buildx(["build", "--progress", "plain"]).args(args).arg(context)
    }
}

/// How many steps of a build came from a cache. Each has a number, and may be shown again.
pub(crate) fn cached_steps(output: &Output) -> usize {
    let cached = output.stderr.lines().filter_map(|line| line.strip_suffix(" CACHED"));
    cached.collect::<HashSet<_>>().len()
}
