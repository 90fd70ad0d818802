//! An unpack that does not come to its end leaves neither snapshots nor their folders.

use std::fs;
use std::path::PathBuf;

use bytes::Bytes;
use linkspan::engine::{EngineError, Lifetime};
use linkspan::image::Digest;
use rustix::process::Signal;

use crate::common::{Part, Run, Stack, until};
use crate::fixture::{Image, begin, containerd, export, names, origin, send};
use crate::log;
use crate::trees::{Members, archive};

const FILES: usize = 20_000;
/// After how many files it is interrupted.
const POINTS: [usize; 4] = [1, 100, 3000, 12_000];

/// A layer of many files in one folder, with `salt` in their names.
fn many(salt: &str) -> Bytes {
    let folder = Members::at(0).folder("f/", 0o755, (0, 0));
    (0..FILES).fold(folder, |layer, at| layer.file(&format!("f/{salt}-{at}"))).finish()
}

/// The folders of snapshots.
fn folders(stack: &Stack) -> Vec<PathBuf> {
    let snapshots = stack.state().join("containerd/root/io.containerd.snapshotter.v1.overlayfs/snapshots");
    // There is none before the first.
    let Ok(entries) = fs::read_dir(snapshots) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// How many files there are in snapshots.
fn files(stack: &Stack) -> usize {
    folders(stack).iter().filter_map(|folder| fs::read_dir(folder.join("fs/f")).ok()).map(Iterator::count).sum()
}

fn nothing_is_left(stack: &Stack, namespace: &str) {
    until("snapshots to be collected", || stack.snapshots(namespace), Vec::is_empty);
    until("their folders to be removed", || folders(stack), Vec::is_empty);
    assert_eq!(stack.leases(namespace), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_unpack_leaves_nothing() {
    let stack = Stack::start(&[Part::Containerd]);
    let engine = containerd(&stack, "cancelled").await;
    for (round, point) in POINTS.into_iter().enumerate() {
        let image = Image::new(&[many(&format!("one-{round}")), many(&format!("two-{round}"))]);
        let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
        let transaction = begin(&lease, image.graph()).await.unwrap();
        for blob in &transaction.plan().missing {
            send(&*transaction, blob, &image.blobs[&blob.digest]).await.unwrap();
        }
        until("files to be unpacked", || files(&stack), |files| *files >= point);
        transaction.cancel().await;
        lease.release().await.unwrap();
        nothing_is_left(&stack, "cancelled");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_unpack_leaves_nothing_after_the_next_start() {
    let stack = Stack::start(&[Part::Containerd]);
    let engine = containerd(&stack, "killed").await;
    for (round, point) in POINTS.into_iter().enumerate() {
        // A machine that is busy may look too late: then another one is tried.
        let is_killed = (0..10).any(|attempt| {
            let [one, two] = ["one", "two"].map(|layer| many(&format!("{layer}-{round}-{attempt}")));
            let is_killed = kill(&stack, &Image::new(&[one, two]), point);
            if !is_killed {
                stack.ctr("killed", ["images", "rm", "--sync", "docker.io/library/killed:1"]).ok();
                nothing_is_left(&stack, "killed");
            }
            is_killed
        });
        assert!(is_killed, "every load ended before it was killed");
        assert_eq!(engine.recover().await.unwrap(), 1);
        nothing_is_left(&stack, "killed");
    }
}

/// Loads an image and kills the load after so many files. `false` if it came to its end before.
fn kill(stack: &Stack, image: &Image, point: usize) -> bool {
    let path = stack.fresh_path(".tar");
    fs::write(&path, archive(image, "docker.io/library/killed:1")).unwrap();
    let load = Run::new(env!("CARGO_BIN_EXE_linkspan")).args(["load", "-i", path.to_str().unwrap()]);
    let load = load.args(["--engine", "containerd", "--namespace", "killed"]);
    let load = load.args(["--containerd-address", stack.containerd_address()]).spawn();
    until("files to be unpacked", || files(stack), |files| *files >= point);
    load.signal(Signal::KILL);
    let is_killed = !load.wait().status.success();
    fs::remove_file(path).unwrap();
    is_killed
}

/// The lie comes out when all is unpacked.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_diff_id_leaves_nothing() {
    log::listen();
    let stack = Stack::start(&[Part::Containerd]);
    let engine = containerd(&stack, "wrong").await;
    for count in [1, 3] {
        let layers: Vec<_> = (0..count).map(|at| Members::at(0).file(&format!("{count}-{at}")).finish()).collect();
        let mut diff_ids: Vec<_> = layers.iter().map(|layer| Digest::sha256(layer)).collect();
        *diff_ids.last_mut().unwrap() = Digest::sha256(b"something else");
        let image = Image::with_diff_ids(&layers, &diff_ids);
        let error = export(&*engine, &image, &names(&["wrong:1"])).await.unwrap_err();
        let layer = &image.layers[count - 1].digest;
        assert!(matches!(&error, EngineError::Corrupt { digest, .. } if digest == layer), "{error}");
        assert!(log::left(layer).unwrap().starts_with("it unpacks to sha256:"));
        nothing_is_left(&stack, "wrong");
    }
}
