//! A builder in a container, met through the docker door and on dockerd's own socket.

use std::fmt::Debug;

use crate::common::{Builder, Linkspan, Output, Run, Stack, until};

/// The two ways to dockerd, and on each the same builder of buildx's docker-container driver: buildx finds it by its
/// container's name.
pub(crate) struct Sides<'a> {
    pub(crate) stack: &'a Stack,
    pub(crate) linkspan: Linkspan,
    name: String,
    builders: [Builder<'a>; 2],
}

/// One of the two ways.
pub(crate) struct Side<'a> {
    pub(crate) stack: &'a Stack,
    /// dockerd's socket, or the door in front of it.
    pub(crate) host: String,
    /// `through` or `direct`.
    pub(crate) name: &'static str,
    /// The builder, and its container.
    pub(crate) builder: &'a Builder<'a>,
    pub(crate) container: String,
}

impl<'a> Sides<'a> {
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
        self.side(0, "through", self.linkspan.address())
    }

    pub(crate) fn direct(&self) -> Side<'_> {
        self.side(1, "direct", self.stack.docker_host().to_owned())
    }

    fn side(&self, index: usize, name: &'static str, host: String) -> Side<'_> {
        let container = format!("buildx_buildkit_{}0", self.name);
        Side { stack: self.stack, host, name, builder: &self.builders[index], container }
    }

    /// Runs `test` on both sides and wants equal results. Through Linkspan first: what the engine holds then has not
    /// come by the tar path.
    #[track_caller]
    pub(crate) fn compare<T: PartialEq + Debug>(&self, test: impl Fn(&Side<'_>) -> T) -> T {
        let through = test(&self.through());
        let direct = test(&self.direct());
        assert_eq!(through, direct, "left: through Linkspan; right: without it\n{}", self.linkspan.log());
        through
    }
}

impl Side<'_> {
    /// `docker …` on this side.
    pub(crate) fn docker<'s>(&self, args: impl IntoIterator<Item = &'s str>) -> Run {
        self.stack.docker(args).env("DOCKER_HOST", &self.host)
    }

    /// A name that only this side uses.
    pub(crate) fn tag(&self, name: &str) -> String {
        format!("{name}-{}:1", self.name)
    }

    /// A direct export sends no tar; without Linkspan there is one, which shows that this can fail.
    #[track_caller]
    pub(crate) fn check_way(&self, output: &Output) {
        let tar = output.stderr.contains("sending tarball");
        assert_eq!(tar, self.name == "direct", "{}: {output}", self.name);
    }

    /// The digest of the image record that Docker knows as `tag`.
    #[track_caller]
    pub(crate) fn digest(&self, tag: &str) -> String {
        let name = format!("docker.io/library/{tag}");
        self.stack.image(&name).unwrap_or_else(|| panic!("no record {name} among {:?}", self.stack.images("moby")))
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
