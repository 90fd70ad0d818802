//! An unpack that does not come to its end leaves neither snapshots nor their folders, and the next one makes the same files.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use linkspan::engine::{EngineError, Lifetime};
use linkspan::image::{Digest, Platform};
use rustix::process::Signal;

use crate::common::{Disk, Part, Run, Stack, until, until_every};
use crate::fixture::{Image, begin, containerd, export, names, origin, send};
use crate::log;
use crate::trees::{self, Members, Tree, archive, assert_alike, import, tree};

/// How many files there are in each of the two layers.
const FILES: usize = 1500;
const NAME: &str = "docker.io/library/interrupted:1";

/// How far a load has come.
#[derive(Debug, Clone, Copy)]
enum Point {
    /// So many bytes are in the content store.
    Bytes(u64),
    /// So many files are in snapshots.
    Files(usize),
    /// So many snapshots are committed.
    Committed(usize),
}

/// 30 of them, from the first bytes to the last snapshot but one.
fn points(image: &Image) -> Vec<Point> {
    let bytes: usize = image.blobs.values().map(Bytes::len).sum();
    let bytes = (1..=4).map(|at| Point::Bytes(at * bytes as u64 / 5));
    let files = (0..=24).map(|at| Point::Files((at * 2 * FILES / 24).max(1)));
    bytes.chain(files).chain([Point::Committed(1)]).collect()
}

/// A layer of many files in one folder, with `name` in their names.
fn many(name: &str) -> Bytes {
    let folder = Members::at(7).folder("f/", 0o755, (0, 0));
    (0..FILES).fold(folder, |layer, at| layer.file(&format!("f/{name}-{at}"))).finish()
}

fn content(stack: &Stack) -> PathBuf {
    stack.state().join("containerd/root/io.containerd.content.v1.content")
}

/// The folders of snapshots.
fn folders(stack: &Stack) -> Vec<PathBuf> {
    entries(&stack.state().join("containerd/root/io.containerd.snapshotter.v1.overlayfs/snapshots"))
}

/// What is in a folder; nothing if there is none.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// How many files there are in snapshots.
fn files(stack: &Stack) -> usize {
    folders(stack).iter().filter_map(|folder| fs::read_dir(folder.join("fs/f")).ok()).map(Iterator::count).sum()
}

/// How many bytes there are in the content store, complete or not.
fn bytes(stack: &Stack) -> u64 {
    let ingests = entries(&content(stack).join("ingest")).into_iter().map(|ingest| ingest.join("data"));
    let blobs = entries(&content(stack).join("blobs/sha256"));
    // They come and go while they are looked at.
    ingests.chain(blobs).filter_map(|path| fs::metadata(path).ok()).map(|found| found.len()).sum()
}

impl Point {
    fn is_reached(self, stack: &Stack, namespace: &str) -> bool {
        match self {
            Self::Bytes(count) => bytes(stack) >= count,
            Self::Files(count) => files(stack) >= count,
            Self::Committed(count) => {
                let snapshots = stack.snapshots(namespace);
                snapshots.iter().filter(|(_, kind)| kind == "Committed").count() >= count
            }
        }
    }

    /// Waits for it with the load stopped while it looks. The load is stopped when it is reached.
    fn wait_between(self, stack: &Stack, namespace: &str, stop: impl Fn(), go_on: impl Fn()) {
        let look = || {
            stop();
            let is_reached = self.is_reached(stack, namespace);
            if !is_reached {
                go_on();
            }
            is_reached
        };
        until_every(Duration::from_millis(1), &format!("{self:?}"), look, |it| *it);
    }

    /// Waits for it, and looks more often than [`until`]: it is soon over.
    fn wait(self, stack: &Stack, namespace: &str) {
        until_every(Duration::from_millis(1), &format!("{self:?}"), || self.is_reached(stack, namespace), |it| *it);
    }
}

#[track_caller]
fn nothing_is_left(stack: &Stack, namespace: &str) {
    let collected = |found: fn(&Stack, &str) -> usize| {
        // containerd may have been collecting when the last snapshot was removed, and then its folder stays until it collects again.
        stack.collect_garbage(namespace);
        found(stack, namespace)
    };
    // A call of a killed client may still be under way, and end while containerd collects.
    let pause = Duration::from_millis(500);
    let snapshots = || collected(|stack, namespace| stack.snapshots(namespace).len());
    until_every(pause, "snapshots to be collected", snapshots, |left| *left == 0);
    until_every(pause, "their folders to be removed", || collected(|stack, _| folders(stack).len()), |left| *left == 0);
    assert_eq!(stack.leases(namespace), Vec::<String>::new());
    assert_eq!(stack.images(namespace), []);
    stack.collect_garbage(namespace);
    until("blobs and ingests to be removed", || bytes(stack), |bytes| *bytes == 0);
}

fn remove(stack: &Stack, namespace: &str) {
    stack.ctr(namespace, ["images", "rm", "--sync", NAME]).ok();
    nothing_is_left(stack, namespace);
}

/// What containerd's own client makes of an image.
fn reference(stack: &Stack, image: &Image, begun: i64) -> Tree {
    let imported = import(stack, "reference", image, NAME);
    assert!(imported.status.success(), "{imported}");
    let found = tree(stack, "reference", begun);
    remove(stack, "reference");
    found
}

/// Exports the image and compares it; then it is removed.
async fn next_is_complete(stack: &Stack, namespace: &str, image: &Image, expected: &Tree, begun: i64) {
    let engine = containerd(stack, namespace).await;
    export(&*engine, image, &names(&["interrupted:1"])).await.unwrap();
    assert_alike(namespace, &tree(stack, namespace, begun), expected);
    remove(stack, namespace);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_unpack_leaves_nothing() {
    let (stack, namespace, begun) = (Stack::start(&[Part::Containerd]), "cancelled", trees::begin());
    let image = Image::new(&[many("one"), many("two")]);
    let expected = reference(&stack, &image, begun);
    let engine = containerd(&stack, namespace).await;
    for at in 0..10 {
        let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
        let transaction = begin(&lease, image.graph()).await.unwrap();
        for blob in &transaction.plan().missing {
            send(&*transaction, blob, &image.blobs[&blob.digest]).await.unwrap();
        }
        Point::Files((at * 2 * FILES / 9).max(1)).wait(&stack, namespace);
        transaction.cancel().await;
        lease.release().await.unwrap();
        nothing_is_left(&stack, namespace);
        next_is_complete(&stack, namespace, &image, &expected, begun).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_unpack_leaves_nothing_after_the_next_start() {
    let (stack, namespace, begun) = (Stack::start(&[Part::Containerd]), "killed", trees::begin());
    let image = Image::new(&[many("one"), many("two")]);
    let expected = reference(&stack, &image, begun);
    let path = stack.fresh_path(".tar");
    fs::write(&path, archive(&image, NAME)).unwrap();
    let engine = containerd(&stack, namespace).await;
    let points = points(&image);
    assert_eq!(points.len(), 30);
    for point in points {
        // A machine that is busy may look too late: then once more.
        let mut is_killed = false;
        for _ in 0..10 {
            is_killed = kill(&stack, namespace, &path, point);
            if is_killed {
                break;
            }
            // Killed between its image and the end of its lease, it leaves the lease, which holds the snapshots.
            engine.recover().await.unwrap();
            remove(&stack, namespace);
        }
        assert!(is_killed, "every load ended before it was killed at {point:?}");
        assert_eq!(engine.recover().await.unwrap(), 1, "{point:?}");
        nothing_is_left(&stack, namespace);
        next_is_complete(&stack, namespace, &image, &expected, begun).await;
    }
}

/// Loads an image and kills the load at `point`. `false` if it was complete by then.
fn kill(stack: &Stack, namespace: &str, path: &Path, point: Point) -> bool {
    let load = Run::new(env!("CARGO_BIN_EXE_linkspan")).args(["load", "-i", path.to_str().unwrap()]);
    let load = load.args(["--engine", "containerd", "--namespace", namespace]);
    let load = load.args(["--containerd-address", stack.containerd_address()]).spawn();
    match point {
        Point::Committed(_) => {
            Point::Files(1).wait(stack, namespace);
            // Looking takes longer than what is left of the load, so it goes on by steps of a millisecond.
            point.wait_between(stack, namespace, || load.signal(Signal::STOP), || load.signal(Signal::CONT));
        }
        _ => point.wait(stack, namespace),
    }
    load.signal(Signal::KILL);
    !load.wait().status.success() && stack.images(namespace).is_empty()
}

/// Layers that take much more room when they are unpacked.
fn large(name: &str) -> (Bytes, Digest) {
    let content = vec![7; 256 << 10];
    let folder = Members::at(7).folder("f/", 0o755, (0, 0));
    let plain = (0..64)
        .fold(folder, |layer, at| layer.member(&format!("f/{name}-{at}"), b'0', "", 0o644, (0, 0), &content))
        .finish();
    (zstd::encode_all(&plain[..], 1).unwrap().into(), Digest::sha256(&plain))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_leaves_nothing() {
    const MIB: u64 = 1 << 20;
    let disk = Disk::new(128 * MIB);
    let (stack, namespace, begun) = (Stack::start_below(&disk.root(), &[Part::Containerd]), "full", trees::begin());
    let [(one, one_id), (two, two_id)] = ["one", "two"].map(large);
    let layers = [("+zstd", one), ("+zstd", two)];
    let image = Image::compressed(&layers, &[one_id, two_id], &Platform::host().architecture);
    let expected = reference(&stack, &image, begun);
    let engine = containerd(&stack, namespace).await;
    // They take 32 MiB.
    for free in [2, 5, 9, 13, 17, 21, 25, 29] {
        disk.fill(free * MIB);
        let error = export(&*engine, &image, &names(&["interrupted:1"])).await.unwrap_err();
        assert!(matches!(&error, EngineError::NoSpace { .. }), "{free} MiB: {error}");
        nothing_is_left(&stack, namespace);
        disk.clear();
        next_is_complete(&stack, namespace, &image, &expected, begun).await;
    }
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
