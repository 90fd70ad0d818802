//! The two ways to dockerd.

use std::{fmt::Debug, ops::Deref, os::unix::net::UnixStream, time::Duration};

pub(crate) use crate::common::both_ways::tree;
use crate::common::both_ways::{self, Way};
use crate::common::{Linkspan, Output, Run, Stack};

/// dockerd's own socket, and a door in front of it.
pub(crate) struct BothWays<'a> {
    pub(crate) stack: &'a Stack,
    pub(crate) linkspan: Linkspan,
}

/// One of the two ways, as a test's closure meets it.
pub(crate) struct Side<'a> {
    way: Way<'a>,
    /// `unix:///…`.
    pub(crate) host: String,
}

impl<'a> Deref for Side<'a> {
    type Target = Way<'a>;

    fn deref(&self) -> &Way<'a> {
        &self.way
    }
}

impl<'a> BothWays<'a> {
    #[track_caller]
    pub(crate) fn of(stack: &'a Stack) -> Self {
        Self { stack, linkspan: Linkspan::docker_door(stack) }
    }

    pub(crate) fn through(&self) -> Side<'_> {
        Side { way: Way::through(self.stack), host: self.linkspan.address() }
    }

    pub(crate) fn direct(&self) -> Side<'_> {
        Side { way: Way::direct(self.stack), host: self.stack.docker_host().to_owned() }
    }

    #[track_caller]
    pub(crate) fn compare<T: PartialEq + Debug>(&self, test: impl Fn(&Side<'_>) -> T) -> T {
        both_ways::compare(&self.linkspan, &self.through(), &self.direct(), test)
    }
}

impl Side<'_> {
    /// The same, with other names.
    pub(crate) fn renamed(mut self, name: &'static str) -> Self {
        self.way.name = name;
        self
    }

    pub(crate) fn docker<'s>(&self, args: impl IntoIterator<Item = &'s str>) -> Run {
        self.stack.docker(args).env("DOCKER_HOST", &self.host)
    }

    /// `docker run` with the arguments, in the base image, without a network of its own.
    pub(crate) fn run<'s>(&self, args: impl IntoIterator<Item = &'s str>) -> Run {
        self.docker(["run", "--network", "host"]).args(args)
    }

    /// A name that only this side uses.
    pub(crate) fn named(&self, name: &str) -> String {
        format!("{name}-{}", self.name)
    }

    /// What a command said and how it ended, without what differs between the sides by design.
    pub(crate) fn outcome(&self, output: &Output) -> (Option<i32>, String, String) {
        let clean = |text: &str| text.replace(&self.host, "HOST").replace(&format!("-{}", self.name), "-SIDE");
        (output.status.code(), clean(&output.stdout), clean(&output.stderr))
    }

    /// A connection of one's own. Reading from it fails after a minute instead of hanging.
    #[track_caller]
    pub(crate) fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.host.strip_prefix("unix://").unwrap()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }
}

/// The base image, pulled once for both sides, by name.
#[track_caller]
pub(crate) fn base(stack: &Stack) -> &str {
    let name = stack.base_image();
    stack.docker(["pull", "--quiet", name]).ok();
    name
}

/// Removes a container when dropped, whatever has become of it.
pub(crate) struct Container<'a>(pub(crate) &'a Stack, pub(crate) String);

impl Drop for Container<'_> {
    fn drop(&mut self) {
        self.0.docker(["rm", "--force", &self.1]).output();
    }
}
