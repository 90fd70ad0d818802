//! Caches that somebody who may write to the engine's store has made to mislead or to wear out whoever reads them.

use std::fs;
use std::sync::Arc;

use linkspan::engine::Engine;
use linkspan::engine::caches::{CacheContent, CacheDocument, NewVersion};
use linkspan::image::cache::CACHE_CONFIG;
use linkspan::image::{Descriptor, Digest};
use serde_json::{Value, json};

use crate::builds::{ONCE, build};
use crate::common::{Builder, Buildkitd, Context, Linkspan, Output, Stack, cached_steps, linkspan, text};
use crate::fixture::{INDEX, MANIFEST, docker, document, origin};

/// A hundred thousand, ten times as many as there may be.
const COUNTLESS: usize = 100_000;

/// What a real build has exported, to be changed.
struct Original {
    config: Value,
    layers: Vec<Descriptor>,
}

/// A cache as it is stored.
struct Planted {
    config: CacheDocument,
    root: CacheDocument,
    layers: Vec<Descriptor>,
}

impl Original {
    /// The cache with this config and these layers.
    fn with(&self, config: &Value, layers: Vec<Descriptor>) -> Planted {
        let config = document(CACHE_CONFIG, config.to_string().into_bytes());
        let root = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config.descriptor, "layers": layers});
        Planted { config, root: document(MANIFEST, root.to_string().into_bytes()), layers }
    }

    /// The layer that is no other one's parent.
    fn top(&self) -> Digest {
        let layers = self.config["layers"].as_array().unwrap();
        // A parent that is the first layer is left out.
        let parents: Vec<_> = layers.iter().map(|layer| layer["parent"].as_i64().unwrap_or(0)).collect();
        let top = (0..layers.len()).find(|at| !parents.contains(&(*at as i64))).unwrap();
        layers[top]["blob"].as_str().unwrap().parse().unwrap()
    }

    fn with_config(&self, change: impl FnOnce(&mut Value)) -> Planted {
        let mut config = self.config.clone();
        change(&mut config);
        self.with(&config, self.layers.clone())
    }
}

/// A builder of its own, which is emptied, behind a Linkspan.
struct Rig {
    stack: &'static Stack,
    engine: Arc<dyn Engine>,
    linkspan: Linkspan,
    builder: Builder<'static>,
    context: Context,
    /// A cache that is as it should be, of this rig's own build.
    original: String,
    buildkitd: Buildkitd,
}

impl Rig {
    async fn new(seed: u64) -> Self {
        let stack = Stack::shared();
        let buildkitd = Buildkitd::start(stack, "buildkitd");
        let flags = stack.docker_flags();
        let linkspan = Linkspan::start(stack, &flags, &[&buildkitd.address()]);
        let dockerfile = format!("FROM {}\nCOPY noise /noise\n{ONCE}", stack.base_image());
        Self {
            stack,
            engine: docker(stack).await,
            builder: stack.builder(&linkspan.address()),
            linkspan,
            context: Context::new(&dockerfile).noise("noise", 1 << 20, seed),
            original: format!("original/{seed}"),
            buildkitd,
        }
    }

    fn content(&self, digest: &str) -> Value {
        self.stack.document("moby", digest)
    }

    /// Exports a cache that is as it should be.
    fn original(&self) -> Original {
        let to = format!("type=linkspan,mode=max,ref={}", self.original);
        let (_, results) = build(&self.builder, &self.context, &["--cache-to", &to, "-o", "type=cacheonly"]);
        let root = self.content(results[0]["digest"].as_str().unwrap());
        let layers = serde_json::from_value(root["layers"].clone()).unwrap();
        Original { config: self.content(root["config"]["digest"].as_str().unwrap()), layers }
    }

    /// Stores a cache below all checks, as the engine does with what it is given. Its layers belong to another cache as well.
    async fn plant(&self, reference: &str, planted: Planted) {
        let Planted { config, root, layers } = planted;
        let new = NewVersion { reference: reference.to_owned(), ..NewVersion::default() };
        let pending = self.engine.caches().unwrap().begin(&new, &origin()).await.unwrap();
        let absent = layers.iter().map(|layer| layer.digest.clone()).collect();
        pending.commit(&CacheContent { config, root, layers, absent }).await.unwrap();
    }

    /// What a builder without a cache of its own makes of it.
    fn import(&self, reference: &str) -> Output {
        self.builder.prune();
        let from = format!("type=linkspan,ref={reference}");
        self.builder.build(self.context.path(), ["--cache-from", &from, "-o", "type=cacheonly"]).ok()
    }

    fn cache(&self, args: &[&str]) -> Output {
        linkspan(["cache"]).args(args).args(self.stack.docker_flags()).output()
    }

    /// Replaces the bytes of a blob in the engine's store.
    fn falsify(&self, digest: &Digest, bytes: impl FnOnce(Vec<u8>) -> Vec<u8>) {
        let file = self.stack.blob_file(digest.as_str());
        let new = bytes(fs::read(&file).unwrap());
        // The store writes its blobs read-only, and others may have the file open.
        fs::remove_file(&file).unwrap();
        fs::write(&file, new).unwrap();
    }
}

/// A cache that is stored, how many of the two steps come from it, and what is said about it: to the user of the build, and by
/// `cache inspect`.
struct Case {
    name: &'static str,
    planted: Planted,
    cached: usize,
    build: &'static str,
    inspect: &'static str,
}

fn cases(original: &Original) -> Vec<Case> {
    let blobs = |count: usize| (0..count).map(|at| Digest::sha256(at.to_string().as_bytes()));
    let countless = |count| blobs(count).map(|digest| Descriptor::new("l", digest, 1)).collect::<Vec<_>>();
    let larger = |layer: &Descriptor| Descriptor { size: layer.size + 1, ..layer.clone() };
    let smaller = |layer: &Descriptor| Descriptor { size: layer.size - 1, ..layer.clone() };
    let (config, layers) = (&original.config, &original.layers);
    vec![
        Case {
            name: "a record is an input of itself",
            planted: original.with_config(|config| {
                let last = config["records"].as_array().unwrap().len() - 1;
                config["records"][0]["inputs"] = json!([[{"link": last}]]);
                config["records"][last]["inputs"] = json!([[{"link": 0}]]);
            }),
            cached: 0,
            build: "invalid looping record",
            inspect: "is an input of itself",
        },
        Case {
            name: "layers are each other's parents",
            planted: original.with_config(|config| {
                let count = config["layers"].as_array().unwrap().len();
                (0..count).for_each(|at| config["layers"][at]["parent"] = json!((at + 1) % count));
            }),
            cached: 0,
            build: "invalid looping layer",
            inspect: "its own parent",
        },
        Case {
            name: "countless layers in the root",
            planted: original.with(config, countless(COUNTLESS)),
            cached: 0,
            build: "bytes, more than the 4194304 that are read",
            inspect: "bytes, more than the 4194304 that are read",
        },
        Case {
            name: "too many layers in a root that is short enough",
            planted: original.with(config, countless(10_001)),
            cached: 0,
            build: "has 10001 layers, more than 10000; hint: export it again",
            inspect: "has 10001 layers, more than 10000",
        },
        Case {
            name: "countless layers in the config",
            planted: original.with_config(|config| {
                let more = blobs(COUNTLESS).map(|digest| json!({"blob": digest, "parent": -1}));
                config["layers"].as_array_mut().unwrap().extend(more);
            }),
            cached: 2,
            build: "",
            inspect: "layers, more than 10000",
        },
        Case {
            name: "a result of a layer that is not there",
            planted: original.with_config(|config| {
                for record in config["records"].as_array_mut().unwrap() {
                    record["layers"] = json!([{"layer": 7_000}]);
                }
            }),
            cached: 0,
            build: "invalid layer index 7000",
            inspect: "has the layer 7000",
        },
        Case {
            name: "layers that are longer than they are",
            planted: original.with(config, layers.iter().map(larger).collect()),
            cached: 0,
            build: "3 layers, 3 of them lost",
            inspect: "",
        },
        Case {
            name: "layers that are shorter than they are",
            planted: original.with(config, layers.iter().map(smaller).collect()),
            cached: 0,
            build: "3 layers, 3 of them lost",
            inspect: "",
        },
        Case {
            name: "a config without the layers of the root",
            planted: original.with_config(|config| {
                let count = config["layers"].as_array().unwrap().len();
                let other: Vec<_> = blobs(count).map(|digest| json!({"blob": digest, "parent": -1})).collect();
                config["layers"] = other.into();
            }),
            cached: 0,
            build: "",
            inspect: "",
        },
        Case {
            name: "two configs",
            planted: {
                let Planted { config, layers, .. } = original.with_config(|_| {});
                let entries = [&config.descriptor, &config.descriptor].into_iter().chain(&layers).collect::<Vec<_>>();
                let root = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
                Planted { root: document(INDEX, root.to_string().into_bytes()), config, layers }
            },
            cached: 0,
            build: "expected one config of type",
            inspect: "expected one config of type",
        },
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_contradict_themselves_or_never_end_cost_a_build_its_cache_and_nothing_else() {
    let rig = Rig::new(51).await;
    let original = rig.original();
    let cases = cases(&original);
    let names: Vec<_> = (0..cases.len()).map(|at| format!("hostile/{at}")).collect();
    for (reference, case) in names.iter().zip(cases) {
        let Case { name, planted, cached, build, inspect } = case;
        rig.plant(reference, planted).await;
        let output = rig.import(reference);
        assert_eq!(cached_steps(&output), cached, "{name}: {output}");
        assert!(output.stderr.contains(build), "{name}: {output}");

        let shown = rig.cache(&["inspect", reference]);
        assert_eq!(shown.status.code(), Some(i32::from(!inspect.is_empty())), "{name}: {shown}");
        assert!(shown.stderr.contains(inspect), "{name}: {shown}");
    }
    // One that is as it should be among them; and all of them together. Of keys with one id BuildKit asks only the cache that named
    // it first (`solver/combinedcache.go`, `Query`), which may be one that has no results: how many steps are cached is left open.
    assert_eq!(cached_steps(&rig.import(&rig.original)), 2);
    rig.import(&[std::slice::from_ref(&rig.original), &names[..]].concat().join(";"));
    let listed = rig.cache(&["ls"]);
    assert!(names.iter().all(|name| listed.stdout.contains(name)) && listed.status.success(), "{listed}");
    let usage = rig.cache(&["du", "--json"]);
    assert!(names.iter().all(|name| usage.stdout.contains(name)) && usage.status.success(), "{usage}");
    let removed = rig.cache(&[&["rm"], &names.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat());
    assert!(removed.status.success(), "{removed}");
    let peak = rig.linkspan.peak_bytes();
    // One of the configs has 11 MiB.
    assert!(peak <= 96 << 20, "{peak} bytes at most were resident");
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_that_do_not_match_their_digests_are_made_anew() {
    let rig = Rig::new(52).await;
    let original = rig.original();
    // Blobs of the test's own, which no other cache or image has.
    let planted = original.with_config(|config| config["own"] = json!("falsified"));
    let (config, root) = (planted.config.descriptor.clone(), planted.root.descriptor.clone());
    rig.plant("falsified/app", planted).await;
    assert_eq!(cached_steps(&rig.import("falsified/app")), 2);
    // Of a layer that others lie on, BuildKit keeps what it could not load, and fails the build with words of its own.
    let layer = original.top();
    let turned = |bytes: Vec<u8>| bytes.into_iter().rev().collect();

    rig.falsify(&layer, turned);
    let output = rig.import("falsified/app");
    assert_eq!(cached_steps(&output), 1, "{output}");
    rig.falsify(&layer, turned);
    assert_eq!(cached_steps(&rig.import("falsified/app")), 2);

    rig.falsify(&config.digest, turned);
    let output = rig.import("falsified/app");
    assert_eq!(cached_steps(&output), 0, "{output}");
    assert_eq!(rig.cache(&["inspect", "falsified/app"]).status.code(), Some(1));
    rig.falsify(&config.digest, turned);

    // A Linkspan that has not read it yet.
    rig.falsify(&root.digest, turned);
    let again = Linkspan::start(rig.stack, &rig.stack.docker_flags(), &[&rig.buildkitd.address()]);
    let builder = rig.stack.builder(&again.address());
    builder.prune();
    let from = ["--cache-from", "type=linkspan,ref=falsified/app", "-o", "type=cacheonly"];
    let output = builder.build(rig.context.path(), from).ok();
    assert_eq!(cached_steps(&output), 0, "{output}");
    assert!(again.log().contains(root.digest.as_str()), "{}", again.log());
    for command in [&["ls"][..], &["du"], &["rm", "falsified/app"]] {
        let output = rig.cache(command);
        assert!(output.status.success() && output.stdout.contains("falsified/app"), "{output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_from_a_folder_refuses_what_contradicts_itself_and_leaves_nothing() {
    let rig = Rig::new(53).await;
    let original = rig.original();
    // What is not refused lacks layers, which nobody takes for a fault.
    for Case { name, planted, inspect, .. } in cases(&original).into_iter().filter(|case| !case.inspect.is_empty()) {
        let folder = rig.stack.fresh_path("-hostile");
        let blobs = folder.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        for CacheDocument { descriptor, bytes } in [&planted.config, &planted.root] {
            fs::write(blobs.join(descriptor.digest.hex()), bytes).unwrap();
        }
        let entry: &Descriptor = &planted.root.descriptor;
        let mut entry = json!(entry);
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
        let index = json!({"schemaVersion": 2, "manifests": [entry]});
        fs::write(folder.join("index.json"), index.to_string()).unwrap();
        let output = rig.cache(&["import", text(&folder), "hostile/imported"]);
        assert_eq!(output.status.code(), Some(1), "{name}: {output}");
        // A root that cannot be read is none of a cache, in a folder where there may be anything.
        let is_none = output.stderr.contains("has no build cache that can be read");
        assert!(output.stderr.contains(inspect) || is_none, "{name}: {output}");
    }
    // Other tests have caches there as well: those of this ref have ids that begin so.
    let prefix = format!("linkspan-cache-{}", &Digest::sha256(b"hostile/imported").hex()[..32]);
    let left: Vec<_> =
        rig.stack.linkspan_leases("moby").into_iter().filter(|lease| lease.starts_with(&prefix)).collect();
    assert_eq!(left, Vec::<String>::new());
}
