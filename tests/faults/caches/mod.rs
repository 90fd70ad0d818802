//! Build caches: faults while a build writes one, or reads one.

mod engines;
mod kills;
mod losses;

use serde_json::Value;

use crate::{
    common::{Output, Part, Run, Running, cached_steps, linkspan, until},
    engine::Engine,
    fault_injection::{Application, hold_first, is_first_of_layer, is_second_of_layer},
    proxied::Proxied,
    proxy::{Proxy, Verdict},
};

/// What a stack of a test has: its builder is emptied.
const PARTS: [Part; 3] = [Part::Containerd, Part::Dockerd, Part::Buildkitd];

/// How many steps of an [`Application`] can come from a cache.
const STEPS: usize = 2;

/// The flags of a build that writes the cache.
const WRITE: [&str; 4] = ["--cache-to", "type=linkspan,ref=faults,mode=max", "-o", "type=cacheonly"];

/// client -> Linkspan -> proxy -> builder, and between Linkspan and containerd another proxy.
struct Caching<'a> {
    proxied: Proxied<'a>,
    containerd: Proxy,
}

impl<'a> Caching<'a> {
    /// With the builder of the engine's stack.
    #[track_caller]
    fn new(engine: Engine<'a>) -> Self {
        Self::with(engine, &[])
    }

    /// The same with more flags for `linkspan serve`.
    #[track_caller]
    fn with(engine: Engine<'a>, args: &[&str]) -> Self {
        let containerd = Proxy::new(engine.stack, engine.stack.containerd_address());
        let engine_args = engine.args_behind(engine.stack.docker_host(), containerd.path().to_str().unwrap());
        let args = engine_args.into_iter().chain(args.iter().map(|arg| (*arg).to_owned())).collect();
        Self { proxied: Proxied::with(engine, engine.stack, args), containerd }
    }

    fn engine(&self) -> Engine<'a> {
        self.proxied.engine
    }

    /// A build that writes the cache.
    fn write(&self, application: &Application) -> Run {
        self.proxied.run(&application.context, WRITE)
    }

    /// A build that has nothing but the cache.
    fn read(&self, application: &Application) -> Run {
        // A build that failed may have left what BuildKit does not give back, such as the base, but none of its steps.
        let prune = || {
            let stack = self.engine().stack;
            stack.buildctl(["prune", "--all"]).ok();
            stack.buildctl(["du"]).ok().stdout
        };
        until("the builder to have nothing left", prune, |left| left.contains("Reclaimable:\t0B"));
        self.proxied.run(&application.context, ["--cache-from", "type=linkspan,ref=faults", "-o", "type=cacheonly"])
    }

    /// Starts a build that writes the cache, and returns when a layer is half way through.
    #[track_caller]
    fn write_half(&self, application: &Application) -> Running {
        let builder = &self.proxied.builder;
        builder.rule(hold_first(is_second_of_layer));
        let running = self.write(application).spawn();
        builder.stopped();
        builder.rule(|_| Verdict::Pass);
        running
    }

    /// Starts a build that reads the cache, and returns when the engine has sent the first bytes of a layer, which Linkspan
    /// does not get yet.
    #[track_caller]
    fn read_half(&self, application: &Application) -> Running {
        let run = self.read(application);
        self.containerd.rule(hold_first(is_first_of_layer));
        let running = run.spawn();
        self.containerd.stopped();
        self.containerd.rule(|_| Verdict::Pass);
        running
    }

    /// `linkspan cache …`, on the engine itself.
    fn cache(&self, args: &[&str]) -> Run {
        linkspan(["cache"]).args(args).args(self.engine().args())
    }

    /// The ids of the versions, sorted.
    fn versions(&self) -> Vec<String> {
        let mut ids = self.cache(&["ls", "--quiet", "--no-trunc"]).ok().lines();
        ids.sort();
        ids
    }

    /// The layers of the versions, with their sizes.
    fn layers(&self) -> Vec<(String, u64)> {
        let shown = self.shown();
        let layers = shown.iter().flat_map(|version| version["layers"].as_array().unwrap());
        layers.map(|layer| (digest(layer), layer["size"].as_u64().unwrap())).collect()
    }

    fn shown(&self) -> Vec<Value> {
        let ids = self.versions();
        if ids.is_empty() {
            return Vec::new();
        }
        let args = [&["inspect"][..], &ids.iter().map(String::as_str).collect::<Vec<_>>()].concat();
        serde_json::from_str(&self.cache(&args).ok().stdout).unwrap()
    }

    /// What must be true at any time when no build is under way: every version that is listed is whole, and there is neither a
    /// lease nor an ingest of ours besides.
    #[track_caller]
    fn is_sound(&self) -> Vec<String> {
        let (engine, ids) = (self.engine(), self.versions());
        let leases = || {
            let mut leases = engine.leases();
            leases.sort();
            leases
        };
        until("the leases of other than complete versions to go", leases, |leases| *leases == ids);
        until("our ingests to go", || engine.stack.linkspan_ingests(engine.namespace), Vec::is_empty);
        let blobs: Vec<_> = self
            .shown()
            .iter()
            .flat_map(|version| {
                assert_eq!(version["missingLayers"], 0, "{version}");
                let layers = version["layers"].as_array().unwrap().iter();
                layers.chain([&version["root"], &version["config"]]).map(digest).collect::<Vec<_>>()
            })
            .collect();
        engine.files_are_whole(&blobs);
        ids
    }
}

fn digest(described: &Value) -> String {
    described["digest"].as_str().unwrap().to_owned()
}

/// A build that must succeed, and has `steps` from the cache.
#[track_caller]
fn succeeds(output: &Output, steps: usize) {
    assert!(output.status.success(), "{output}");
    assert_eq!(cached_steps(output), steps, "{output}");
}
