//! A cache with a config that BuildKit does not import by itself.

use std::fs;
use std::path::{Path, PathBuf};

use linkspan::image::Digest;
use serde_json::{Value, json};

use crate::builds::{ONCE, build};
use crate::common::{Builder, Buildkitd, Context, Linkspan, Output, Stack, cached_steps, linkspan, text};

/// BuildKit reads no longer config, by what the descriptor says.
const LIMIT: usize = 1 << 20;

/// Puts records in front of those that are there until the config has `least` bytes: what counts is behind the limit.
fn lengthen(folder: &Path, least: usize) -> usize {
    let blob = |digest: &Value| {
        let hex = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
        serde_json::from_slice::<Value>(&fs::read(folder.join("blobs/sha256").join(hex)).unwrap()).unwrap()
    };
    let index: Value = serde_json::from_slice(&fs::read(folder.join("index.json")).unwrap()).unwrap();
    let [entry] = &index["manifests"].as_array().unwrap()[..] else { panic!("{index}") };
    let mut root = blob(&entry["digest"]);
    let descriptor = match root.get("config") {
        Some(config) => config.clone(),
        None => root["manifests"].as_array().unwrap().last().unwrap().clone(),
    };
    let mut config = blob(&descriptor["digest"]);

    let record = |at: usize| json!({"digest": Digest::sha256(at.to_string().as_bytes()), "layers": [{"layer": 0, "createdAt": "2026-01-02T03:04:05Z"}]});
    let count = least / record(0).to_string().len() + 1;
    let mut records: Vec<_> = (0..count).map(record).collect();
    for mut old in config["records"].as_array().unwrap().clone() {
        for input in old["inputs"].as_array_mut().into_iter().flatten() {
            for link in input.as_array_mut().unwrap() {
                link["link"] = json!(link["link"].as_u64().unwrap_or(0) + count as u64);
            }
        }
        records.push(old);
    }
    config["records"] = records.into();

    let write = |document: &Value, descriptor: &mut Value| {
        let bytes = document.to_string();
        let digest = Digest::sha256(bytes.as_bytes());
        fs::write(folder.join("blobs/sha256").join(digest.hex()), &bytes).unwrap();
        (descriptor["digest"], descriptor["size"]) = (json!(digest), json!(bytes.len()));
        bytes.len()
    };
    let (mut described, mut index) = (descriptor.clone(), index);
    let length = write(&config, &mut described);
    match root.get_mut("config") {
        Some(config) => *config = described,
        None => *root["manifests"].as_array_mut().unwrap().last_mut().unwrap() = described,
    }
    write(&root, &mut index["manifests"][0]);
    fs::write(folder.join("index.json"), index.to_string()).unwrap();
    length
}

/// A builder of its own, which is emptied, behind a Linkspan; and a build whose cache is exported to a folder.
struct Rig {
    builder: Builder<'static>,
    linkspan: Linkspan,
    context: Context,
    folder: PathBuf,
    _buildkitd: Buildkitd,
}

impl Rig {
    fn new(seed: u64) -> Self {
        let stack = Stack::shared();
        let buildkitd = Buildkitd::start(stack, "buildkitd");
        let linkspan = Linkspan::start(stack, &stack.docker_flags(), &[&buildkitd.address()]);
        let builder = stack.builder(&linkspan.address());
        let context = Context::new(&format!("FROM {}\nCOPY noise /noise\n{ONCE}", stack.base_image()));
        let context = context.noise("noise", 1 << 20, seed);
        let short = format!("long/short-{seed}");
        let to = format!("type=linkspan,ref={short},mode=max");
        build(&builder, &context, &["--cache-to", &to, "-o", "type=cacheonly"]);
        let folder = stack.fresh_path("-long");
        cache(&["export", &short, text(&folder)]);
        cache(&["rm", &short]);
        Self { builder, linkspan, context, folder, _buildkitd: buildkitd }
    }

    /// The folder's cache in the engine, with a config of at least `least` bytes.
    fn import(&self, name: &str, least: usize) -> usize {
        let length = lengthen(&self.folder, least);
        cache(&["import", text(&self.folder), name]);
        let shown: Value = serde_json::from_str(&cache(&["inspect", name])).unwrap();
        assert_eq!(shown[0]["config"]["size"], length);
        length
    }

    /// What a builder without a cache of its own makes of it.
    fn build(&self, from: &str) -> Output {
        self.builder.prune();
        self.builder.build(self.context.path(), ["--cache-from", from, "-o", "type=cacheonly"]).ok()
    }
}

fn cache(args: &[&str]) -> String {
    linkspan(["cache"]).args(args).args(Stack::shared().docker_flags()).ok().stdout
}

#[test]
fn a_config_that_buildkit_refuses_is_imported_whole_through_the_door() {
    let rig = Rig::new(41);
    let length = rig.import("long/long", 1_600_000);
    let output = rig.build(&format!("type=local,src={},tag=long/short-41", text(&rig.folder)));
    let refused = format!("is too large ({length} > {LIMIT})");
    assert!(output.stderr.contains(&refused) && cached_steps(&output) == 0, "{output}");

    let output = rig.build("type=linkspan,ref=long/long");
    assert_eq!(cached_steps(&output), 2, "{output}");
}

#[test]
fn a_config_of_16_mib_costs_no_more_than_96_mib_of_memory() {
    let rig = Rig::new(42);
    let length = rig.import("long/longest", 16 << 20);
    let output = rig.build("type=linkspan,ref=long/longest");
    assert_eq!(cached_steps(&output), 2, "{output}");
    let peak = rig.linkspan.peak_bytes();
    eprintln!("a config of {length} bytes: {peak} bytes at most were resident");
    assert!(peak <= 96 << 20, "{peak} bytes at most were resident");
}
