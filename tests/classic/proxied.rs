//! client -> Linkspan -> proxy -> builder, and Linkspan -> relay -> classic dockerd.

use std::{
    collections::BTreeSet,
    fs,
    ops::Deref,
    sync::{Arc, Mutex},
};

use serde_json::Value;

use crate::{
    common::{Builder, Context, Run, Stack, text, until},
    fault_injection::{self, ProxiedBuilder, read_digest},
    proxy::{Message, Verdict},
    relay::Relay,
};

pub(crate) struct Proxied<'a> {
    pub(crate) stack: &'a Stack,
    pub(crate) relay: Relay,
    builds: ProxiedBuilder<'a>,
    /// The same builder without Linkspan.
    pub(crate) direct: Builder<'a>,
    read: Arc<Mutex<BTreeSet<String>>>,
}

impl<'a> Deref for Proxied<'a> {
    type Target = ProxiedBuilder<'a>;

    fn deref(&self) -> &ProxiedBuilder<'a> {
        &self.builds
    }
}

impl<'a> Proxied<'a> {
    #[track_caller]
    pub(crate) fn new(stack: &'a Stack) -> Self {
        Self::with(stack, &[])
    }

    /// With more arguments for `linkspan serve`.
    #[track_caller]
    pub(crate) fn with(stack: &'a Stack, more: &[&str]) -> Self {
        Self::between(stack, stack, more)
    }

    /// With the builder of one stack and the dockerd of another.
    #[track_caller]
    pub(crate) fn between(builders: &Stack, stack: &'a Stack, more: &[&str]) -> Self {
        let relay = Relay::new(builders, stack);
        let engine = ["--engine", "docker-classic", "--docker-host", &relay.address()].map(str::to_owned);
        let args = engine.into_iter().chain(more.iter().map(|&arg| arg.to_owned())).collect();
        let builds = ProxiedBuilder::new((builders, builders.buildkit_host()), stack, args, stack);
        let direct = stack.builder(builders.buildkit_host());
        let proxied = Self { stack, relay, builds, direct, read: Arc::default() };
        proxied.pass();
        proxied
    }

    /// Passes what the builder sends, and notes what is read from it.
    pub(crate) fn pass(&self) {
        self.rule(|_| Verdict::Pass);
    }

    /// The same with `rule` for everything.
    pub(crate) fn rule(&self, mut rule: impl FnMut(&Message<'_>) -> Verdict + Send + 'static) {
        let read = self.read.clone();
        self.builder.rule(move |message| {
            read.lock().unwrap().extend(read_digest(message));
            rule(message)
        });
    }

    /// Digests of what was read from the builder since the last call.
    pub(crate) fn take_read(&self) -> BTreeSet<String> {
        std::mem::take(&mut *self.read.lock().unwrap())
    }

    /// `docker buildx build -o type=linkspan,name=NAMES`.
    pub(crate) fn export(&self, context: &Context, names: &str) -> Run {
        let output = format!("type=linkspan,\"name={names}\"");
        self.client.build(context.path(), ["-o", &output])
    }

    /// A client of the classic dockerd.
    pub(crate) fn docker<'s>(&self, args: impl IntoIterator<Item = &'s str>) -> Run {
        self.stack.docker_classic(args)
    }

    /// What dockerd knows of an image, as far as the image itself says it.
    #[track_caller]
    pub(crate) fn inspect(&self, image: &str) -> Value {
        let output = self.docker(["image", "inspect", image]).ok().stdout;
        let images: Value = serde_json::from_str(&output).unwrap();
        let mut found = images[0].clone();
        for key in ["RepoTags", "RepoDigests", "Metadata", "Identity", "GraphDriver"] {
            found.as_object_mut().unwrap().remove(key);
        }
        found
    }

    pub(crate) fn id(&self, image: &str) -> String {
        self.inspect(image)["Id"].as_str().unwrap().to_owned()
    }

    /// What a container of the image prints.
    pub(crate) fn run_image(&self, image: &str, command: &[&str]) -> String {
        self.stack.run_classic_image(image, command).ok().stdout
    }

    /// That an image of this name does not exist.
    #[track_caller]
    pub(crate) fn lacks(&self, image: &str) {
        self.docker(["image", "inspect", image]).fails();
    }

    /// dockerd holds nothing of a load that did not become an image.
    #[track_caller]
    pub(crate) fn nothing_is_left(&self) {
        let folder = self.stack.state().join("classic/tmp");
        let names = || -> Vec<_> {
            fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        until("dockerd to delete what it received", names, Vec::is_empty);
    }

    /// The digests of an image's layers in the builder, the lowest first.
    #[track_caller]
    pub(crate) fn blobs(&self, context: &Context) -> Vec<String> {
        let layout = self.stack.fresh_path("-layout");
        let output = format!("type=oci,tar=false,dest={}", text(&layout));
        self.direct.build(context.path(), ["-o", &output]).ok();
        let document = |digest: &str| -> Value {
            let path = layout.join("blobs").join(digest.replace(':', "/"));
            serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
        };
        let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
        let manifest = document(index["manifests"][0]["digest"].as_str().unwrap());
        let layers = manifest["layers"].as_array().unwrap();
        layers.iter().map(|layer| layer["digest"].as_str().unwrap().to_owned()).collect()
    }
}

/// An image with a layer of some megabytes and a small one with `who` in it.
pub(crate) fn application(stack: &Stack, seed: u64, who: &str) -> Context {
    fault_injection::application(stack, 5_000_000, seed, who)
}
