//! The doors of a daemon whose engine is `docker-api`.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use linkspan::engine::EngineKind;
use linkspan::engine::select::{Selection, select};
use rustix::process::Signal;

use crate::common::{Context, Linkspan, Stack, linkspan, text, unix, until};
use crate::fixture::{Image, Layer, export, names};
use crate::relay::Relay;

/// More than an archive of documents has, and less than one of the layers here.
const SMALL: u64 = 100 << 10;

/// The flags of the engine behind a relay.
fn engine(stack: &Stack, relay: &Relay) -> Vec<String> {
    let folder = stack.fresh_path("-spool");
    ["--engine", "docker-api", "--docker-host", &relay.address(), "--cache-dir", text(&folder)]
        .map(str::to_owned)
        .into()
}

fn relay(stack: &Stack) -> Relay {
    Relay::at(stack.fresh_path("-relay.sock"), stack.docker_host())
}

async fn layout(folder: &std::path::Path, image: &Image, name: &str) {
    let selection =
        Selection { kind: Some(EngineKind::Layout), layout: Some(folder.to_owned()), ..Selection::default() };
    export(&*select(&selection).await.unwrap().engine, image, &names(&[name])).await.unwrap();
}

/// dockerd is stuck when it is to set the name, and the command is interrupted: the daemon goes on.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_load_says_that_its_name_may_still_be_set() {
    let stack = Stack::shared();
    let relay = relay(stack);
    let engine = engine(stack, &relay);
    let engine: Vec<_> = engine.iter().map(String::as_str).collect();
    let door = Linkspan::export(stack, &engine, &[], stack.fresh_path(".sock"));
    let folder = stack.fresh_path("-layout");
    let image = Image::new(&[Layer::busybox().tar(), Layer::new().file("api-stuck", "1").tar()]);
    layout(&folder, &image, "api-stuck:1").await;
    let [is_asked, is_free] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let (asked, free) = (is_asked.clone(), is_free.clone());
    relay.on_tag(move || {
        asked.store(true, Ordering::SeqCst);
        while !free.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(10));
        }
    });
    let loading = linkspan(["load", "--to", &door.address(), text(&folder)]).spawn();
    until("docker to be asked", || is_asked.load(Ordering::SeqCst), |is_asked| *is_asked);
    loading.signal(Signal::INT);
    let output = loading.wait();
    is_free.store(true, Ordering::SeqCst);
    let said = "docker was not waited for: names may have moved to complete images, or may still do so";
    assert!(output.stderr.contains(said), "{output}");
    assert_eq!(output.status.code(), Some(130));
    let root = Some(image.root.digest.to_string());
    until("the name to be set", || stack.tagged("moby", "api-stuck:1"), |found| *found == root);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exporter_api_takes_images() {
    let stack = Stack::shared();
    let relay = relay(stack);
    let engine = engine(stack, &relay);
    let engine: Vec<_> = engine.iter().map(String::as_str).collect();
    let door = Linkspan::export(stack, &engine, &[], stack.fresh_path(".sock"));
    assert!(door.log().contains("one after the other"), "{}", door.log());

    let folder = stack.fresh_path("-layout");
    let image = Image::new(&[Layer::busybox().tar(), Layer::new().file("api-door", vec![50; 1 << 20]).tar()]);
    layout(&folder, &image, "api-door:1").await;
    let address = door.address();
    let load = ["load", "--to", &address, text(&folder)];
    linkspan(load).ok();
    assert_eq!(stack.tagged("moby", "api-door:1"), Some(image.root.digest.to_string()));
    let (loads, sent) = relay.take();
    assert!(loads == 1 && sent > 1 << 20, "{loads} {sent}");
    // Again, with nothing to send.
    linkspan(load).ok();
    let (loads, sent) = relay.take();
    assert!(loads <= 1 && sent < SMALL, "{loads} {sent}");
    let listed = linkspan(["images", "--to", &address, "--json"]).ok().stdout;
    assert!(listed.contains(image.root.digest.as_str()), "{listed}");
}

#[test]
fn builds_load_what_they_load_into_the_engine_docker() {
    let stack = Stack::shared();
    let relay = relay(stack);
    let direct = Linkspan::docker(stack);
    let api = Linkspan::start(stack, &engine(stack, &relay), &[stack.buildkit_host()]);
    let (direct, through) = (stack.builder(&direct.address()), stack.builder(&api.address()));
    let build = |line: &str| {
        Context::new(&format!("FROM scratch\nCOPY data /data\nCOPY line /line\nCMD [\"{line}\"]\n"))
            .noise("data", 3_000_000, 51)
            .file("line", line)
    };
    let (first, second) = (build("first"), build("second"));
    let flags = |name: &'static str| ["--builder", "remote", "--load", "--provenance=false", "-t", name];
    through.build(first.path(), flags("api-build:through")).ok();
    let (loads, sent) = relay.take();
    assert!(loads == 1 && sent > 3_000_000, "{loads} {sent}");
    direct.build(first.path(), flags("api-build:direct")).ok();
    let digest = |name: &str| stack.tagged("moby", name).unwrap();
    assert_eq!(digest("api-build:through"), digest("api-build:direct"));

    // Nothing changed, and one line changed.
    through.build(first.path(), flags("api-build:through")).ok();
    assert_eq!(relay.take(), (0, 0), "it is tagged again and nothing is loaded");
    through.build(second.path(), flags("api-build:through")).ok();
    let (loads, sent) = relay.take();
    assert!(loads == 1 && sent < SMALL, "{loads} {sent}");
    direct.build(second.path(), flags("api-build:direct")).ok();
    assert_eq!(digest("api-build:through"), digest("api-build:direct"));

    // With its attestations.
    let attested = ["--builder", "remote", "--load", "--provenance=mode=max", "-t", "api-build:attested"];
    through.build(second.path(), attested).ok();
    let index = stack.document("moby", &digest("api-build:attested"));
    let manifests = index["manifests"].as_array().unwrap();
    assert_eq!(manifests.len(), 2, "{index}");
    let proof = stack.document("moby", manifests[1]["digest"].as_str().unwrap());
    let statement = stack.document("moby", proof["layers"][0]["digest"].as_str().unwrap());
    assert!(statement["predicateType"].as_str().unwrap().contains("provenance"), "{statement}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_passes_the_docker_door_unchanged() {
    let stack = Stack::shared();
    let relay = relay(stack);
    let (door, folder) = (stack.fresh_path("-docker.sock"), stack.fresh_path("-layout"));
    let args = [engine(stack, &relay), vec!["--docker-listen".to_owned(), unix(&door)]].concat();
    let docker = Linkspan::start_at(stack, &args, &[], vec![door]);
    let image = Image::new(&[Layer::new().file("api-archive", vec![52; 1 << 20]).tar()]);
    layout(&folder, &image, "api-archive:1").await;
    let archive = stack.fresh_path(".tar");
    linkspan(["save", "--layout", text(&folder), "-o", text(&archive), "api-archive:1"]).ok();
    let load = || stack.docker(["load", "-i", text(&archive)]).env("DOCKER_HOST", docker.address()).ok();
    for _ in 0..2 {
        // Nothing can be pinned, so nothing is left out, which there would be a line about.
        assert_eq!(load().stdout, "Loaded image: api-archive:1\n");
    }
    assert_eq!(stack.tagged("moby", "api-archive:1"), Some(image.root.digest.to_string()));

    // It is listed while it is under way all the same.
    let listed = || {
        let lines = linkspan(["ps", "--json", "--to", &docker.address()]).ok().lines();
        lines.iter().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()).collect::<Vec<_>>()
    };
    let mut half = UnixStream::connect(&docker.doors()[0]).unwrap();
    half.write_all(b"POST /images/load HTTP/1.1\r\nHost: docker\r\nContent-Length: 1024\r\n\r\n").unwrap();
    let is_loading = |found: &Vec<serde_json::Value>| found.len() == 1 && found[0]["state"] == "loading";
    let found = until("the load to begin", listed, is_loading);
    assert_eq!(found[0]["door"], "docker");
    drop(half);
    until("the load to end", listed, Vec::is_empty);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_door_serves_and_takes_images() {
    let stack = Stack::shared();
    let relay = relay(stack);
    let engine = engine(stack, &relay);
    let args: Vec<_> = engine.iter().map(String::as_str).chain(["--registry-writable"]).collect();
    let (_door, address) = Linkspan::registry(stack, &args);
    let folder = stack.fresh_path("-layout");
    let image = Image::new(&[Layer::busybox().tar(), Layer::new().file("api-registry", vec![53; 1 << 20]).tar()]);
    layout(&folder, &image, "api-registry:1").await;
    let name = format!("{address}/library/api-registry:1");
    stack.run("crane").args(["push", "--insecure", text(&folder), &name]).ok();
    assert_eq!(stack.tagged("moby", "api-registry:1"), Some(image.root.digest.to_string()));
    let digest = stack.run("crane").args(["digest", "--insecure", &name]).ok().stdout;
    assert_eq!(digest.trim(), image.root.digest.as_str());
    let pulled = stack.fresh_path("-pulled");
    stack.run("crane").args(["pull", "--insecure", "--format", "oci", &name, text(&pulled)]).ok();
    for (digest, bytes) in &image.blobs {
        let pulled = std::fs::read(pulled.join("blobs/sha256").join(digest.hex())).unwrap();
        assert_eq!(*bytes, pulled, "{digest}");
    }
}
