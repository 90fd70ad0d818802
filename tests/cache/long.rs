//! A cache with a config that BuildKit does not import by itself.

use std::fs;
use std::path::Path;

use linkspan::image::Digest;
use serde_json::{Value, json};

use crate::builds::{ONCE, build, cached_steps};
use crate::common::{Buildkitd, Context, Linkspan, Run, Stack, text};

/// BuildKit reads no longer config, by what the descriptor says.
const LIMIT: usize = 1 << 20;
const LENGTH: usize = 1_600_000;

/// Puts records in front of those that are there until the config is long: what counts is behind the limit.
fn lengthen(folder: &Path) -> usize {
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
    let count = LENGTH / record(0).to_string().len() + 1;
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

#[test]
fn a_config_that_buildkit_refuses_is_imported_whole_through_the_door() {
    let stack = Stack::shared();
    let buildkitd = Buildkitd::start(stack, "buildkitd");
    let engine = ["--engine", "docker", "--docker-host", stack.docker_host()];
    let linkspan = Linkspan::start(stack, &engine, &[&buildkitd.address()]);
    let builder = stack.builder(&linkspan.address());
    let cache = |args: &[&str]| {
        Run::new(env!("CARGO_BIN_EXE_linkspan")).arg("cache").args(args.iter().copied()).args(engine).ok().stdout
    };
    let context = Context::new(&format!("FROM {}\nCOPY noise /noise\n{ONCE}", stack.base_image()));
    let context = context.noise("noise", 1 << 20, 41);
    let to = ["--cache-to", "type=linkspan,ref=long/short,mode=max", "-o", "type=cacheonly"];
    build(&builder, &context, &to);
    let folder = stack.fresh_path("-long");
    cache(&["export", "long/short", text(&folder)]);
    let length = lengthen(&folder);
    assert!(length > LENGTH, "{length}");
    cache(&["rm", "long/short"]);

    let back = |from: &str| {
        builder.buildx(["prune", "--all", "--force"]).ok();
        builder.build(context.path(), ["--cache-from", from, "-o", "type=cacheonly"]).ok()
    };
    let output = back(&format!("type=local,src={},tag=long/short", text(&folder)));
    let refused = format!("is too large ({length} > {LIMIT})");
    assert!(output.stderr.contains(&refused) && cached_steps(&output) == 0, "{output}");

    cache(&["import", text(&folder), "long/long"]);
    let shown: Value = serde_json::from_str(&cache(&["inspect", "long/long"])).unwrap();
    assert_eq!(shown[0]["config"]["size"], length);
    let output = back("type=linkspan,ref=long/long");
    assert_eq!(cached_steps(&output), 2, "{output}");
}
