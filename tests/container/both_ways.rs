//! A builder in a container, met through the docker door and on dockerd's own socket.

use std::fmt::Debug;
use std::ops::Deref;

use crate::common::both_ways::{self, Way};
use crate::common::{Builder, Linkspan, Run, Stack, until};

/// The two ways to dockerd, and on each the same builder of buildx's docker-container driver: buildx finds it by its
/// container's name.
pub(crate) struct BothWays<'a> {
    pub(crate) stack: &'a Stack,
    pub(crate) linkspan: Linkspan,
    name: String,
    builders: [Builder<'a>; 2],
}

/// One of the two ways.
pub(crate) struct Side<'a> {
    way: Way<'a>,
    /// dockerd's socket, or the door in front of it.
    pub(crate) host: String,
    /// The builder, and its container.
    pub(crate) builder: &'a Builder<'a>,
    pub(crate) container: String,
}

impl<'a> Deref for Side<'a> {
    type Target = Way<'a>;

    fn deref(&self) -> &Way<'a> {
        &self.way
    }
}

impl<'a> BothWays<'a> {
    /// With a builder called `name`, which runs.
    #[track_caller]
    pub(crate) fn of(stack: &'a Stack, name: &str) -> Self {
        let linkspan = Linkspan::docker_door(stack);
        let through = stack.container_builder(&linkspan.address(), name);
        let direct = stack.container_builder(stack.docker_host(), name);
        for builder in [&through, &direct] {
            builder.buildx(["inspect", "--bootstrap"]).ok();
        }
        Self { stack, linkspan, name: name.to_owned(), builders: [through, direct] }
    }

    pub(crate) fn through(&self) -> Side<'_> {
        self.side(0, Way::through(self.stack), self.linkspan.address())
    }

    pub(crate) fn direct(&self) -> Side<'_> {
        self.side(1, Way::direct(self.stack), self.stack.docker_host().to_owned())
    }

    fn side<'s>(&'s self, index: usize, way: Way<'s>, host: String) -> Side<'s> {
        let container = format!("buildx_buildkit_{}0", self.name);
        Side { way, host, builder: &self.builders[index], container }
    }

    #[track_caller]
    pub(crate) fn compare<T: PartialEq + Debug>(&self, test: impl Fn(&Side<'_>) -> T) -> T {
        both_ways::compare(&self.linkspan, &self.through(), &self.direct(), test)
    }
}

impl Side<'_> {
    /// `docker …` on this side.
    pub(crate) fn docker<'s>(&self, args: impl IntoIterator<Item = &'s str>) -> Run {
        self.stack.docker(args).env("DOCKER_HOST", &self.host)
    }

    /// Execs that dockerd lists for the builder's container: those that run, and those that were never started.
    pub(crate) fn execs(&self) -> Vec<String> {
        let listed = self.stack.docker(["inspect", "-f", "{{json .ExecIDs}}", &self.container]).ok();
        serde_json::from_str::<Option<Vec<String>>>(&listed.stdout).unwrap().unwrap_or_default()
    }

    /// The execs that dockerd has started in the builder's container since it was created.
    pub(crate) fn started(&self) -> usize {
        let filters = ["--filter", "event=exec_start", "--filter", &format!("container={}", self.container)];
        // An event of ours that is later than all that is counted; what follows it is not waited for.
        let end = self.stack.docker(["info", "--format", "{{.SystemTime}}"]).ok().stdout;
        let args = ["events", "--since", "1", "--until", end.trim(), "--format", "{{.Action}}"];
        let events = self.stack.docker(args).args(filters).ok();
        events.lines().iter().filter(|line| line.contains("dial-stdio")).count()
    }
}

/// Waits until no process in the container leads to its builder any more.
#[track_caller]
pub(crate) fn no_tunnels(stack: &Stack, container: &str) {
    until("no process to lead to the builder", || tunnels(stack, container), |count| *count == 0);
}

/// The processes in a container that lead to its builder.
pub(crate) fn tunnels(stack: &Stack, container: &str) -> usize {
    let processes = stack.docker(["exec", container, "ps", "-o", "args"]).ok();
    processes.lines().iter().filter(|line| line.contains("dial-stdio")).count()
}
