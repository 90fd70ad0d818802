//! A builder in a container, met through the docker door and on dockerd's own socket.

use crate::common::{Builder, Linkspan, Run, Stack, both_ways, until};

pub(crate) type BothWays<'a> = both_ways::BothWays<'a, Client<'a>>;
pub(crate) type Side<'a> = both_ways::Side<'a, Client<'a>>;

/// A client of dockerd that uses a builder of buildx's docker-container driver, which buildx finds by its container's name: it is
/// the same one both ways.
#[derive(Debug)]
pub(crate) struct Client<'a> {
    /// dockerd's socket, or the door in front of it.
    pub(crate) host: String,
    /// The builder, and its container.
    pub(crate) builder: Builder<'a>,
    pub(crate) container: String,
}

impl<'a> BothWays<'a> {
    /// With a builder called `name`, which runs.
    #[track_caller]
    pub(crate) fn of(stack: &'a Stack, name: &str) -> Self {
        let client = |host: &str| Client {
            host: host.to_owned(),
            builder: stack.container_builder(host, name),
            container: format!("buildx_buildkit_{name}0"),
        };
        let sides = Self::new(stack, Linkspan::docker_door(stack), stack.docker_host(), client);
        for side in [sides.through(), sides.direct()] {
            side.builder.buildx(["inspect", "--bootstrap"]).ok();
        }
        sides
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

    /// What time it is for dockerd.
    pub(crate) fn now(&self) -> String {
        self.stack.docker(["info", "--format", "{{.SystemTime}}"]).ok().stdout.trim().to_owned()
    }

    /// The execs that dockerd has started in the builder's container since then. It keeps few events, of all its containers.
    pub(crate) fn started_since(&self, since: &str) -> usize {
        let filters = ["--filter", "event=exec_start", "--filter", &format!("container={}", self.container)];
        // An event of ours that is later than all that is counted; what follows it is not waited for.
        let end = self.now();
        let args = ["events", "--since", since, "--until", &end, "--format", "{{.Action}}"];
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
