//! Builds into an engine, with a proxy in front of the builder.

use std::ops::{Deref, DerefMut};

use crate::{
    common::{Context, Run, Running, Stack},
    engine::Engine,
    fault_injection::{Application, ProxiedBuilder, hold_first, is_second_of_layer},
    proxy::{Direction, Message, Verdict},
};

/// client -> Linkspan -> proxy -> builder, and an engine that has one image already.
pub(crate) struct Proxied<'a> {
    pub(crate) engine: Engine<'a>,
    builds: ProxiedBuilder<'a>,
}

impl<'a> Deref for Proxied<'a> {
    type Target = ProxiedBuilder<'a>;

    fn deref(&self) -> &ProxiedBuilder<'a> {
        &self.builds
    }
}

impl DerefMut for Proxied<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.builds
    }
}

impl<'a> Proxied<'a> {
    /// In front of the builder that all tests share.
    #[track_caller]
    pub(crate) fn new(engine: Engine<'a>) -> Self {
        Self::with(engine, Stack::shared(), engine.args())
    }

    /// In front of the builder of `builder`; `args` are the flags of `linkspan serve` for the engine.
    #[track_caller]
    pub(crate) fn with(engine: Engine<'a>, builder: &Stack, args: Vec<String>) -> Self {
        engine.prepare(Stack::shared().base_image());
        let builder = (engine.stack, builder.buildkit_host());
        // The client is not of the engine's stack: nothing that happens there shall trouble it.
        Self { engine, builds: ProxiedBuilder::new(builder, engine.stack, args, Stack::shared()) }
    }

    /// `docker buildx build --load -t TAG`.
    pub(crate) fn build(&self, context: &Context, tag: &str) -> Run {
        self.run(context, ["--load", "-t", tag])
    }

    /// Starts a build and returns when its big layer is half way through.
    #[track_caller]
    pub(crate) fn build_half(&self, context: &Context, tag: &str) -> Running {
        self.builder.rule(hold_first(is_second_of_layer));
        let running = self.build(context, tag).spawn();
        self.builder.stopped();
        assert_eq!(self.engine.leases().len(), 1, "an export is under way, so there is a lease");
        running
    }

    /// Builds to a successful end, and runs the image.
    #[track_caller]
    pub(crate) fn succeeds(&self, application: &Application, tag: &str) {
        let output = self.build(&application.context, tag).ok();
        assert!(!output.stderr.contains("sending tarball"), "this was no direct export: {output}");
        self.runs(application, tag);
    }

    /// That the image of `application` is there and runs.
    #[track_caller]
    pub(crate) fn runs(&self, application: &Application, tag: &str) {
        assert_eq!(self.engine.stdout_of(tag, &["cat", "/who"]), application.who);
    }
}

/// Has the builder say that it is one of those which do not wait for a load, so that the image is read after the build.
pub(crate) fn older(message: &Message<'_>) -> Option<Verdict> {
    const VERSION: &[u8] = b"v0.32.";
    let at = message.bytes.windows(VERSION.len()).position(|bytes| bytes == VERSION);
    let is_info = message.path == "/moby.buildkit.v1.Control/Info" && message.direction == Direction::Response;
    let at = at.filter(|_| is_info)?;
    let mut bytes = message.bytes.to_vec();
    bytes[at..at + VERSION.len()].copy_from_slice(b"v0.31.");
    Some(Verdict::Instead(vec![bytes.into()]))
}
