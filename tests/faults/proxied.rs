//! The way of an image, with a proxy in front of the builder.

use std::path::PathBuf;

use containerd_client::services::v1::ReadContentResponse;
use prost::Message as _;

use crate::{
    common::{Builder, Context, Linkspan, Run, Running, Stack},
    engine::Engine,
    proxy::{Message, Proxy, Verdict, Way},
};

const READ: &str = "/containerd.services.content.v1.Content/Read";

/// client -> Linkspan -> proxy -> builder, and an engine that has one image already.
pub(crate) struct Proxied<'a> {
    pub(crate) engine: Engine<'a>,
    pub(crate) builder: Proxy,
    pub(crate) linkspan: Linkspan,
    client: Builder<'a>,
    args: Vec<String>,
}

impl<'a> Proxied<'a> {
    /// In front of the builder that all tests share.
    #[track_caller]
    pub(crate) fn new(engine: Engine<'a>) -> Self {
        Self::with(engine, Stack::shared(), engine.args())
    }

    /// In front of the builder of `builder`, and with what `linkspan serve` is told about the engine.
    #[track_caller]
    pub(crate) fn with(engine: Engine<'a>, builder: &Stack, args: Vec<String>) -> Self {
        engine.prepare(Stack::shared().base_image());
        let builder = Proxy::new(engine.stack, builder.buildkit_host());
        let linkspan = Linkspan::start(engine.stack, &args, &[&builder.address()]);
        // Not of the engine's stack: nothing that happens there shall trouble the client itself.
        let client = Stack::shared().builder(&linkspan.address());
        Self { engine, builder, linkspan, client, args }
    }

    /// Starts Linkspan again, on the same sockets, after it was killed.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        let doors: Vec<PathBuf> = self.linkspan.doors().to_vec();
        self.linkspan = Linkspan::start_at(self.engine.stack, &self.args, &[&self.builder.address()], doors);
    }

    /// `docker buildx build --load -t TAG`.
    pub(crate) fn build(&self, context: &Context, tag: &str) -> Run {
        self.run(context, ["--load", "-t", tag])
    }

    /// `docker buildx build ARGS`.
    pub(crate) fn run<'s>(&self, context: &Context, args: impl IntoIterator<Item = &'s str>) -> Run {
        self.client.build(context.path(), args)
    }

    /// Starts a build and returns when its big layer is half way through.
    #[track_caller]
    pub(crate) fn build_half(&self, context: &Context, tag: &str) -> Running {
        let mut met = false;
        self.builder.rule(move |message| {
            let meets = !met && is_second_of_layer(message);
            met |= meets;
            if meets { Verdict::Hold } else { Verdict::Pass }
        });
        let running = self.build(context, tag).spawn();
        self.builder.stopped();
        assert_eq!(self.engine.leases().len(), 1, "an export is under way, so there is a lease");
        running
    }

    /// Builds to a successful end, and lets the image say who it is.
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

/// An image that no other test has: a base, a layer of several messages, and a small one.
pub(crate) struct Application {
    pub(crate) context: Context,
    pub(crate) who: String,
}

impl Application {
    /// The same for the same `name`.
    pub(crate) fn new(name: &str) -> Self {
        Self::sized(name, 3_500_000)
    }

    /// With a big layer of `size` bytes.
    pub(crate) fn sized(name: &str, size: usize) -> Self {
        let base = Stack::shared().base_image();
        let who = format!("application {name}\n");
        let seed = name.bytes().fold(1, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
        let context = Context::new(&format!("FROM {base}\nCOPY big /big\nCOPY who /who\n"))
            .noise("big", size, seed)
            .file("who", &who);
        Self { context, who }
    }
}

/// Whether `message` carries the first bytes of a big layer from the builder.
pub(crate) fn is_first_of_layer(message: &Message<'_>) -> bool {
    is_read(message, 0) && message.bytes.len() > 100_000
}

/// Whether it carries the next ones. Only big layers need more than one message.
pub(crate) fn is_second_of_layer(message: &Message<'_>) -> bool {
    is_read(message, 1)
}

/// Whether it carries a document with `words` in it.
pub(crate) fn is_document(message: &Message<'_>, words: &str) -> bool {
    let data = if is_read(message, 0) { data(message) } else { Vec::new() };
    data.starts_with(b"{") && String::from_utf8(data).unwrap().contains(words)
}

fn is_read(message: &Message<'_>, index: usize) -> bool {
    message.path == READ && message.way == Way::Response && message.index == index
}

fn data(message: &Message<'_>) -> Vec<u8> {
    ReadContentResponse::decode(message.bytes.clone()).unwrap().data
}

/// The same message, of which one byte differs.
pub(crate) fn flipped(message: &Message<'_>) -> Verdict {
    let mut read = ReadContentResponse::decode(message.bytes.clone()).unwrap();
    let middle = read.data.len() / 2;
    read.data[middle] ^= 1;
    Verdict::Instead(vec![read.encode_to_vec().into()])
}

/// The same message twice.
pub(crate) fn doubled(message: &Message<'_>) -> Verdict {
    Verdict::Instead(vec![message.bytes.clone(), message.bytes.clone()])
}

/// Has the builder say that it is one of those which do not wait for a load, so that the image is read after the build.
pub(crate) fn older(message: &Message<'_>) -> Option<Verdict> {
    const VERSION: &[u8] = b"v0.32.";
    let at = message.bytes.windows(VERSION.len()).position(|bytes| bytes == VERSION);
    let is_info = message.path == "/moby.buildkit.v1.Control/Info" && message.way == Way::Response;
    let at = at.filter(|_| is_info)?;
    let mut bytes = message.bytes.to_vec();
    bytes[at..at + VERSION.len()].copy_from_slice(b"v0.31.");
    Some(Verdict::Instead(vec![bytes.into()]))
}
