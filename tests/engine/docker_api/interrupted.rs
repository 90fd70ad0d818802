//! Programs that are killed or interrupted while dockerd loads, and others that remove what has no name meanwhile.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use linkspan::engine::select::{Selection, select};
use linkspan::engine::{EngineError, EngineKind};
use linkspan::image::Digest;
use rustix::process::Signal;
use serde_json::json;

use super::faults::records;
use super::selection;
use crate::common::{Run, Stack, linkspan, text, until};
use crate::fixture::{Image, Layer, export, names};
use crate::relay::Relay;

/// At how many moments a load is killed.
const MOMENTS: u32 = 12;
/// How long dockerd goes on at least with what a client has left.
const SETTLED: Duration = Duration::from_millis(500);

/// An image that runs, with a layer that takes a while.
fn large(seed: &str) -> Image {
    let mut noise = Vec::new();
    let mut next = Digest::sha256(seed.as_bytes());
    while noise.len() < 4 << 20 {
        noise.extend_from_slice(next.hex().as_bytes());
        next = Digest::sha256(next.hex().as_bytes());
    }
    Image::new(&[Layer::busybox().tar(), Layer::new().file("noise", noise).file("seed", seed).tar()])
}

/// A layout with `image` as `name`.
async fn layout(stack: &Stack, image: &Image, name: &str) -> PathBuf {
    let folder = stack.fresh_path("-layout");
    let selection = Selection { kind: Some(EngineKind::Layout), layout: Some(folder.clone()), ..Selection::default() };
    export(&*select(&selection).await.unwrap().engine, image, &names(&[name])).await.unwrap();
    folder
}

fn load(stack: &Stack, docker_host: &str, folder: &Path) -> Run {
    let spool = stack.fresh_path("-spool");
    linkspan([
        "load",
        "--engine",
        "docker-api",
        "--docker-host",
        docker_host,
        "--cache-dir",
        text(&spool),
        text(folder),
    ])
}

fn relay(stack: &Stack) -> Relay {
    Relay::at(stack.fresh_path("-relay.sock"), stack.docker_host())
}

/// What containerd says of the image `name`.
fn rows(stack: &Stack, name: &str) -> String {
    stack.ctr("moby", ["images", "check", &format!("name==docker.io/library/{name}")]).ok().stdout
}

/// Checks that dockerd has all of an image, and has unpacked it.
#[track_caller]
fn check_row(rows: &str, name: &str) {
    let row = rows.lines().find(|line| line.contains(name)).unwrap();
    assert!(row.contains("complete (3/3)") && row.trim_end().ends_with("true"), "{rows}");
}

/// Checks that `name` is an image that dockerd has all of, has unpacked, and runs.
#[track_caller]
fn check_runs(stack: &Stack, name: &str, seed: &str) {
    check_row(&rows(stack, name), name);
    assert_eq!(stack.run_image(name, &["cat", "/seed"]).ok().stdout, seed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_is_killed_leaves_a_name_on_a_complete_image() {
    let stack = Stack::shared();
    let relay = relay(stack);
    let before = large("api-kill before");
    let folder = layout(stack, &before, "api-kill:1").await;
    let begun = Instant::now();
    load(stack, &relay.address(), &folder).ok();
    let whole = begun.elapsed();
    check_runs(stack, "api-kill:1", "api-kill before");
    let mut seeds = vec![(before.root.digest.to_string(), "api-kill before".to_owned())];
    for moment in 1..=MOMENTS {
        let seed = format!("api-kill {moment}");
        let image = large(&seed);
        let folder = layout(stack, &image, "api-kill:1").await;
        seeds.push((image.root.digest.to_string(), seed));
        let killed = load(stack, &relay.address(), &folder).spawn();
        thread::sleep(whole * moment / MOMENTS);
        killed.signal(Signal::KILL);
        killed.wait();
        // dockerd may be at it still, so that what is seen counts if the name has not moved meanwhile.
        let look = || {
            let found = stack.tagged("moby", "api-kill:1").unwrap();
            let rows = rows(stack, "api-kill:1");
            let seed = stack.run_image("api-kill:1", &["cat", "/seed"]).output();
            (stack.tagged("moby", "api-kill:1").as_ref() == Some(&found), found, rows, seed)
        };
        let (_, found, rows, output) = until("the name to stay", look, |(is_same, ..)| *is_same);
        let (_, seed) = seeds.iter().find(|(digest, _)| *digest == found).unwrap();
        check_row(&rows, "api-kill:1");
        assert!(output.status.success(), "{output}");
        assert_eq!(output.stdout, *seed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_stay_as_they_are_until_docker_has_said_that_it_loaded_the_image() {
    let stack = Stack::shared();
    let relay = relay(stack);
    let before = large("api-early before");
    load(stack, &relay.address(), &layout(stack, &before, "api-early:1").await).ok();
    let name = || stack.tagged("moby", "api-early:1");
    relay.hold_responses(true);
    for signal in [Signal::KILL, Signal::INT] {
        let image = large(&format!("api-early {}", signal.as_raw()));
        let folder = layout(stack, &image, "api-early:1").await;
        let loading = load(stack, &relay.address(), &folder).spawn();
        let unnamed = [format!("moby-dangling@{}", image.root.digest)];
        until("docker to have the image", || records(stack, &image), |found| *found == unnamed);
        assert_eq!(name(), Some(before.root.digest.to_string()));
        loading.signal(signal);
        let output = loading.wait();
        assert_eq!(name(), Some(before.root.digest.to_string()));
        if signal == Signal::INT {
            assert_eq!(
                output.stderr.trim_end().rsplit('\n').next().unwrap(),
                "linkspan: error: interrupted; docker may keep what it has received for up to a day, without a name"
            );
            assert_eq!(output.status.code(), Some(130));
            assert_eq!(records(stack, &image), [""; 0]);
        }
    }
    check_runs(stack, "api-early:1", "api-early before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_is_interrupted_while_its_names_are_set_says_what_became_of_it() {
    let stack = Stack::shared();
    let relay = relay(stack);
    let image = large("api-late");
    let folder = layout(stack, &image, "api-late:1").await;
    relay.hold_tags(true);
    let loading = load(stack, &relay.address(), &folder).spawn();
    until("docker to set the name", || records(stack, &image), |found| *found == ["docker.io/library/api-late:1"]);
    loading.signal(Signal::INT);
    thread::sleep(SETTLED);
    // The commit is waited for.
    relay.hold_tags(false);
    let output = loading.wait();
    // On a machine that is so busy that it has not seen the signal by now, it is loaded like any other.
    let is_said = output.stderr.contains("interrupted; what was complete by then stays");
    assert!(is_said || output.status.success(), "{output}");
    check_runs(stack, "api-late:1", "api-late");
}

/// `docker image prune` of the images of one test.
#[tokio::test(flavor = "multi_thread")]
async fn images_without_a_name_that_are_pruned_cost_a_load_and_no_name() {
    let stack = Stack::shared();
    let engine = select(&selection(stack, stack.docker_host())).await.unwrap().engine;
    let image = |seed: &str| {
        let layers = [Layer::busybox().tar(), Layer::new().file("seed", seed).tar()];
        let plain = Image::new(&layers);
        let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::sha256(layer)).collect();
        let config = json!({
            "architecture": linkspan::image::Platform::host().architecture, "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Labels": {"linkspan-test": "api-prune"}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let layers: Vec<_> = plain.layers.iter().map(|layer| serde_json::to_value(layer).unwrap()).collect();
        Image::of_parts(&config, &layers, &plain.blobs)
    };
    let mut seed = "api-prune 0".to_owned();
    export(&*engine, &image(&seed), &names(&["api-prune:1"])).await.unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let over = is_over.clone();
    let pruning = thread::spawn(move || {
        let mut times = 0;
        while !over.load(Ordering::SeqCst) {
            // Those that meet in dockerd are refused.
            stack.docker(["image", "prune", "-f", "--filter", "label=linkspan-test=api-prune"]).output();
            times += 1;
        }
        times
    });
    for number in 1..=12 {
        let next = format!("api-prune {number}");
        let image = image(&next);
        match export(&*engine, &image, &names(&["api-prune:1"])).await {
            Ok(_) => seed = next,
            // The former image was without a name for a moment, and pruned in that: it is said, and the next load mends it.
            Err(EngineError::NamesLeft { names, .. }) => {
                assert_eq!(names, ["api-prune:1"]);
                continue;
            }
            Err(error) => {
                assert!(
                    matches!(
                        &error,
                        EngineError::Vanished { .. }
                            | EngineError::Missing { .. }
                            | EngineError::Commit { .. }
                            | EngineError::Protocol { .. }
                    ),
                    "{error:?}"
                );
            }
        }
        check_runs(stack, "api-prune:1", &seed);
    }
    is_over.store(true, Ordering::SeqCst);
    assert!(pruning.join().unwrap() > 1);
}
