//! The two ways to dockerd: its own socket, and a door in front of it.

use std::{os::unix::net::UnixStream, time::Duration};

pub(crate) use crate::common::both_ways::tree;
use crate::common::{Linkspan, Output, Run, Stack, both_ways};

pub(crate) type BothWays<'a> = both_ways::BothWays<'a, Docker>;
pub(crate) type Side<'a> = both_ways::Side<'a, Docker>;

/// A client of dockerd.
#[derive(Debug, Clone)]
pub(crate) struct Docker {
    /// `unix:///…`.
    pub(crate) host: String,
}

impl<'a> BothWays<'a> {
    #[track_caller]
    pub(crate) fn of(stack: &'a Stack) -> Self {
        Self::new(stack, Linkspan::docker_door(stack), stack.docker_host(), |host| Docker { host: host.to_owned() })
    }
}

impl Side<'_> {
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

    /// What a command printed and how it ended, without what differs between the sides by design.
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
