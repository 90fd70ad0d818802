//! The way of an image, with a proxy in front of the builder.

use std::path::PathBuf;

use super::proxy::Proxy;
use crate::common::{Builder, Context, Linkspan, Run, Stack};

/// client -> Linkspan -> proxy -> builder.
pub(crate) struct ProxiedBuilder<'a> {
    pub(crate) builder: Proxy,
    pub(crate) linkspan: Linkspan,
    pub(crate) client: Builder<'a>,
    /// Whose folder has Linkspan's sockets and log.
    stack: &'a Stack,
    /// The flags of Linkspan beside its doors.
    args: Vec<String>,
}

impl<'a> ProxiedBuilder<'a> {
    /// In front of the builder at `address`, with the proxy's socket in the folder of `place`: it listens for as long as the test's
    /// process lives. Linkspan belongs to `stack`, and the client to `clients`.
    #[track_caller]
    pub(crate) fn new(
        (place, address): (&Stack, &str),
        stack: &'a Stack,
        args: Vec<String>,
        clients: &'a Stack,
    ) -> Self {
        let builder = Proxy::new(place, address);
        let linkspan = Linkspan::start(stack, &args, &[&builder.address()]);
        let client = clients.builder(&linkspan.address());
        Self { builder, linkspan, client, stack, args }
    }

    /// Starts Linkspan again, on the same sockets, after it was killed.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        let doors: Vec<PathBuf> = self.linkspan.doors().to_vec();
        self.linkspan = Linkspan::start_at(self.stack, &self.args, &[&self.builder.address()], doors);
    }

    /// `docker buildx build ARGS`.
    pub(crate) fn run<'s>(&self, context: &Context, args: impl IntoIterator<Item = &'s str>) -> Run {
        self.client.build(context.path(), args)
    }
}
