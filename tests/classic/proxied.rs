//! client -> Linkspan -> proxy -> builder, and Linkspan -> relay -> classic dockerd.

use std::{
    collections::BTreeSet,
    fs,
    sync::{Arc, Mutex},
};

use containerd_client::services::v1::ReadContentRequest;
use prost::Message as _;
use serde_json::Value;

use crate::{
    common::{Builder, Context, Linkspan, Run, Stack, text, until},
    proxy::{Message, Proxy, Verdict, Way},
    relay::Relay,
};

const READ: &str = "/containerd.services.content.v1.Content/Read";

pub(crate) struct Proxied<'a> {
    pub(crate) stack: &'a Stack,
    pub(crate) relay: Relay,
    pub(crate) builder: Proxy,
    /// Ends with this.
    _linkspan: Linkspan,
    pub(crate) client: Builder<'a>,
    /// The same builder without Linkspan.
    pub(crate) direct: Builder<'a>,
    read: Arc<Mutex<BTreeSet<String>>>,
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
        let builder = Proxy::new(builders, builders.buildkit_host());
        let address = relay.address();
        let args = [&["--engine", "docker-classic", "--docker-host", &address], more].concat();
        let linkspan = Linkspan::start(stack, &args, &[&builder.address()]);
        let (client, direct) = (stack.builder(&linkspan.address()), stack.builder(builders.buildkit_host()));
        let proxied = Self { stack, relay, builder, _linkspan: linkspan, client, direct, read: Arc::default() };
        proxied.pass();
        proxied
    }

    /// Lets the builder answer as it does, and notes what is read from it.
    pub(crate) fn pass(&self) {
        self.rule(|_| Verdict::Pass);
    }

    /// The same with `rule` for everything.
    pub(crate) fn rule(&self, mut rule: impl FnMut(&Message<'_>) -> Verdict + Send + 'static) {
        let read = self.read.clone();
        self.builder.rule(move |message| {
            if message.path == READ && message.way == Way::Request {
                let request = ReadContentRequest::decode(message.bytes.clone()).unwrap();
                read.lock().unwrap().insert(request.digest);
            }
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

    pub(crate) fn run(&self, image: &str, command: &[&str]) -> String {
        let args = ["run", "--rm", "--network", "host", "--pull", "never", image];
        self.docker(args).args(command).ok().stdout
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

/// An image of a base, a layer of some megabytes and a small one with `who` in it.
pub(crate) fn application(stack: &Stack, seed: u64, who: &str) -> Context {
    Context::new(&format!("FROM {}\nCOPY big /big\nCOPY who /who\nCMD [\"cat\", \"/who\"]\n", stack.base_image()))
        .noise("big", 5_000_000, seed)
        .file("who", who)
}
