//! Archives that are new to the engine: their blobs are stored and their images unpacked before dockerd comes to it, and what
//! dockerd makes of them is the same.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use linkspan::image::Digest;
use serde_json::Value;

use super::archive::Image;
use super::corpus::compressed;
use super::lifetime::{Upload, holds};
use super::two_engines::TwoEngines;
use crate::common::{Disk, Linkspan, Part, Run, Stack, Tar, blob_name, entry, text, until};

/// The log line about an image that was unpacked here.
const UNPACKED: &str = "an image of an archive is unpacked before docker sets its name";
/// The log line about one that was not.
const LEFT_TO_DOCKER: &str = "docker unpacks an image of an archive";
const MIB: usize = 1 << 20;

/// Bytes that differ by `seed`; enough of them to be worth it.
fn noise(seed: u32, size: usize) -> Vec<u8> {
    let words = (0..size as u32 / 4).map(|at| (at ^ seed.wrapping_mul(0x9e37_79b9)).wrapping_mul(2_654_435_761));
    words.flat_map(u32::to_le_bytes).collect()
}

/// Layers with what layers can have.
fn rich() -> Image {
    let folder = |tar: Tar, name: &str, mode: u32, uid: u64| {
        tar.header(entry(b'5', name, "", 0).mode(mode).unwrap().uid(uid).unwrap())
    };
    let bottom = folder(Tar::default(), "folder/", 0o2750, 1000);
    let bottom = folder(bottom, "gone/", 0o755, 0);
    let bottom = bottom.file("folder/large", noise(1, 3 * MIB)).file("folder/hidden", "1").file("gone/inside", "2");
    let bottom = bottom.hard_link("link", "folder/large").symlink("symlink", "folder/large");
    let mut setuid = entry(b'0', "setuid", "", 4);
    let bottom = bottom.header(setuid.mode(0o4755).unwrap().uid(70_000).unwrap().mtime(1).unwrap()).content("suid");
    let middle = Tar::default().file("folder/.wh.hidden", "").file("implicit/deep/file", noise(2, MIB));
    let top = Tar::default().file("gone/.wh..wh..opq", "").file("gone/new", "3").file("folder/more", "4");
    Image::of_layers([bottom, middle, top].map(Tar::finish).into())
}

/// The files of every unpacked layer, as `find` lists them, by the snapshot's name.
fn unpacked(stack: &Stack) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::new();
    for (name, _) in stack.snapshots("moby") {
        let mount = stack.ctr("moby", ["snapshots", "view", "--target", "/x", "look", &name]).ok().stdout;
        // Nothing keeps it, so it may be gone by itself.
        stack.ctr("moby", ["snapshots", "rm", "look"]).output();
        // The topmost folder of an overlay; a single layer is a bind mount.
        let mut words = mount.split([' ', ',', ':', '\n']);
        let folder = words.find_map(|word| {
            let word = word.strip_prefix("lowerdir=").unwrap_or(word);
            (word.starts_with('/') && word.ends_with("/fs")).then_some(word)
        });
        let folder = folder.unwrap_or_else(|| panic!("{mount}"));
        // Whiteouts, and folders that no layer describes, are as old as their unpacking.
        let (dated, undated) = (r"%P %y %m %U:%G %s %n %l %Ts\n", r"%P %y %m %U:%G %s\n");
        let find = [folder, "-type", "f,l", "-printf", dated, "-o", "-type", "c", "-printf", undated];
        let mut lines = Run::new("find").args(find).ok().lines();
        lines.extend(Run::new("find").args([folder, "-type", "d", "-printf", r"%P %y %m %U:%G\n"]).ok().lines());
        let sums = Run::new("find").args([".", "-type", "f", "-exec", "sha256sum", "{}", "+"]).dir(folder).ok();
        lines.extend(sums.lines());
        lines.sort();
        found.insert(name, lines);
    }
    found
}

/// The labels of every blob, which say what it keeps alive.
fn labels(stack: &Stack) -> BTreeMap<String, Vec<String>> {
    let lines = stack.ctr("moby", ["content", "ls"]).ok().lines();
    let of = |line: &String| {
        let words: Vec<_> = line.split_whitespace().collect();
        let mut labels: Vec<_> = words[words.len() - 1].split(',').map(str::to_owned).collect();
        labels.sort();
        (words[0].to_owned(), labels)
    };
    lines[1..].iter().map(of).collect()
}

/// The events so far. The client knows times by the second only, so it waits for the end of this one.
fn events(stack: &Stack) -> Vec<String> {
    let format = "{{.Type}} {{.Action}} {{.Actor.ID}} {{json .Actor.Attributes}}";
    let until = UNIX_EPOCH.elapsed().unwrap().as_secs() + 1;
    stack.docker(["events", "--since", "1h", "--until", &until.to_string(), "--format", format]).ok().lines()
}

fn count(engines: &TwoEngines, line: &str) -> usize {
    engines.linkspan.log().lines().filter(|entry| entry.contains(line)).count()
}

/// Loads `archive` both ways into engines without anything, and compares all that can be seen.
#[track_caller]
fn compare(engines: &TwoEngines, name: &str, archive: &Tar, args: &[&str]) {
    let archive = archive.clone().write(engines.behind.fresh_path("-archive"));
    compare_file(engines, name, &archive, args);
}

#[track_caller]
fn compare_file(engines: &TwoEngines, name: &str, archive: &Path, args: &[&str]) {
    engines.clear();
    engines.compare(name, archive, args);
    assert_eq!(unpacked(&engines.direct), unpacked(&engines.behind), "{name}");
    assert_eq!(labels(&engines.direct), labels(&engines.behind), "{name}");
    assert_eq!(events(&engines.direct), events(&engines.behind), "{name}");
}

/// As `docker save` writes it: sorted by name, so that what says what the blobs are comes last.
fn sorted(image: &Image, name: &str) -> Tar {
    let blobs = image.layers.iter().chain([&image.config, &image.manifest]);
    let files: BTreeMap<_, _> = blobs.map(|blob| (blob_name(blob), blob)).collect();
    let tar = files.iter().fold(Tar::default(), |tar, (name, blob)| tar.file(name, blob));
    tar.file("index.json", image.index(name)).file("manifest.json", image.docker_manifest(name)).layout().end()
}

#[test]
fn a_new_image_is_as_docker_makes_it() {
    let engines = TwoEngines::new();
    let image = rich();
    let name = "cold:1";
    let documents_last = image.layers.iter().fold(Tar::default(), |tar, layer| tar.blob(layer));
    let documents_last = documents_last.blob(&image.config).blob(&image.manifest);
    let cases = [
        ("documents first", image.oci(name).end()),
        ("documents last", documents_last.file("index.json", image.index(name)).layout().end()),
        ("sorted", sorted(&image, name)),
        ("without end blocks", image.oci(name)),
    ];
    for (number, (what, archive)) in cases.iter().enumerate() {
        let before = engines.meter.sent();
        compare(&engines, what, archive, &[]);
        let sent = engines.meter.sent() - before;
        assert!(sent < 100_000, "{what}: {sent} bytes were sent to dockerd");
        assert_eq!(count(&engines, UNPACKED), number + 1, "{what}: {}", engines.linkspan.log());
        assert_eq!(unpacked(&engines.behind).len(), image.layers.len(), "{what}");
    }
    let archive = sorted(&image, name).write(engines.behind.fresh_path("-archive"));
    for (program, suffix) in [("gzip", ".gz"), ("zstd", ".zst")] {
        compare_file(&engines, program, &compressed(&archive, program, suffix, &["-c"]), &[]);
    }
    assert_eq!(count(&engines, UNPACKED), cases.len() + 2);
    // The image is whole: this reads all of it.
    engines.behind.docker(["save", name]).ok();
}

#[test]
fn images_of_one_archive_share_what_they_have_in_common() {
    let engines = TwoEngines::new();
    let base = Tar::default().file("base", noise(1, 2 * MIB)).finish();
    let own = |number: u32| Tar::default().file(&format!("own{number}"), noise(10 + number, MIB)).finish();
    let images = [0, 1, 2].map(|number| Image::of_layers(vec![base.clone(), own(number)]));
    let manifests: Vec<Value> = images
        .iter()
        .enumerate()
        .flat_map(|(number, image)| {
            let index: Value = serde_json::from_slice(&image.index(&format!("several:{number}"))).unwrap();
            index["manifests"].as_array().unwrap().clone()
        })
        .collect();
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": manifests }).to_string();
    let tar = images.iter().fold(Tar::default(), |tar, image| image.blobs(tar));
    compare(&engines, "several images", &tar.file("index.json", index).layout().end(), &[]);
    assert_eq!(count(&engines, UNPACKED), 3);
    assert_eq!(unpacked(&engines.behind).len(), 4);
    // A part of them is there already: the rest comes upon it.
    let more = Image::of_layers(vec![base.clone(), own(0), own(3)]);
    let archive = more.oci("several:3").end().write(engines.behind.fresh_path("-archive"));
    engines.compare("another image on the same layers", &archive, &[]);
    assert_eq!(unpacked(&engines.direct), unpacked(&engines.behind));
    assert_eq!(count(&engines, UNPACKED), 4);
}

#[test]
fn what_docker_unpacks_differently_is_left_to_it() {
    let engines = TwoEngines::new();
    let layers_of = |seed: u32| [0, 1].map(|at| Tar::default().file("file", noise(seed + at, MIB)).finish()).to_vec();

    // What docker says of these has a number of its own in it.
    let compare_failing = |name: &str, image: &Image| {
        let archive = image.oci("wrong:1").end().write(engines.behind.fresh_path("-archive"));
        engines.clear();
        let [direct, through] = [false, true].map(|through| engines.load(&archive, &[], through));
        assert_eq!((direct.code, &direct.seen), (through.code, &through.seen), "{name}");
        assert!(through.stdout.contains("Error unpacking image"), "{name}: {through:?}");
        assert_eq!(direct.stdout.len(), through.stdout.len(), "{direct:?} {through:?}");
        assert_eq!(unpacked(&engines.direct), unpacked(&engines.behind), "{name}");
        let labels = labels(&engines.behind);
        assert!(!labels.values().flatten().any(|label| label.contains("gc.ref.snapshot")), "{name}: {labels:?}");
    };
    // A layer that is not what the config says, and one that is no whole archive.
    for wrong in [0, 1] {
        let layers = layers_of(1);
        let mut diff_ids: Vec<_> = layers.iter().map(|layer| Digest::sha256(layer)).collect();
        diff_ids[wrong] = Digest::sha256(b"something else");
        compare_failing("a wrong diff id", &Image::with_diff_ids(layers, &diff_ids, "amd64"));
    }
    let mut cut = layers_of(2);
    cut[1].truncate(MIB / 2);
    compare_failing("a layer that is cut", &Image::of_layers(cut));
    assert_eq!(count(&engines, LEFT_TO_DOCKER), 3, "{}", engines.linkspan.log());

    // Another platform, and one that the client names.
    let layers = layers_of(3);
    let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::sha256(layer)).collect();
    let foreign = Image::with_diff_ids(layers.clone(), &diff_ids, "s390x");
    compare(&engines, "another platform", &foreign.oci("foreign:1").end(), &[]);
    let image = Image::of_layers(layers);
    compare(&engines, "the platform", &image.oci("requested:1").end(), &["--platform", "linux/amd64"]);
    assert_eq!(count(&engines, UNPACKED), 0);
}

/// A layer of many files in one folder, with `salt` in their names.
fn many(salt: &str) -> Vec<u8> {
    (0..30_000).fold(Tar::default(), |tar, at| tar.file(&format!("f/{salt}-{at}"), "x")).finish()
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

/// Sends archives of large images until `interrupt` hits one in the middle of its unpacking, which it says.
#[track_caller]
fn interrupted(engines: &mut TwoEngines, salt: &str, interrupt: impl Fn(&mut TwoEngines, Upload) -> bool) {
    for attempt in 0..10 {
        let image = Image::of_layers(["one", "two"].map(|layer| many(&format!("{salt}-{layer}-{attempt}"))).into());
        let mut upload = Upload::begin(engines, "?quiet=0");
        upload.send(&image.oci("interrupted:1").end().0);
        upload.send_end();
        until("files to be unpacked", || files(&engines.behind), |files| *files >= 100);
        if interrupt(engines, upload) {
            return;
        }
        // A machine that is busy may look too late: then another one is tried.
        engines.behind.ctr("moby", ["images", "rm", "docker.io/library/interrupted:1"]).output();
        engines.quiet();
        engines.behind.collect_garbage("moby");
        until("the image to be gone", || folders(&engines.behind), Vec::is_empty);
    }
    panic!("every load ended before it was interrupted");
}

/// Nothing of ours stays, and no image.
#[track_caller]
fn nothing_is_left(engines: &TwoEngines) {
    engines.quiet();
    engines.behind.collect_garbage("moby");
    assert_eq!(engines.behind.images("moby"), Vec::new());
    until("snapshots to be collected", || engines.behind.snapshots("moby"), Vec::is_empty);
    until("their folders to be removed", || folders(&engines.behind), Vec::is_empty);
}

fn is_loaded(engines: &TwoEngines) -> bool {
    !engines.behind.images("moby").is_empty()
}

#[test]
fn a_client_that_leaves_while_its_image_is_unpacked_leaves_nothing() {
    let mut engines = TwoEngines::new();
    interrupted(&mut engines, "left", |engines, upload| {
        drop(upload);
        let left =
            || engines.behind.leases("moby").into_iter().chain(engines.behind.ingests("moby")).collect::<Vec<_>>();
        until("dockerd to be through with it", left, Vec::is_empty);
        !is_loaded(engines)
    });
    nothing_is_left(&engines);
    assert_eq!(engines.behind.blobs("moby"), Vec::<String>::new());
    assert_eq!(count(&engines, UNPACKED), 0, "{}", engines.linkspan.log());
}

#[test]
fn a_linkspan_that_is_killed_while_it_unpacks_leaves_nothing_to_the_next() {
    let mut engines = TwoEngines::new();
    interrupted(&mut engines, "killed", |engines, upload| {
        engines.linkspan.kill();
        drop(upload);
        assert!(
            !is_loaded(engines) && !holds(engines).is_empty(),
            "it was killed before dockerd had the archive's end"
        );
        true
    });
    let engine = ["--engine", "docker", "--docker-host", engines.behind.docker_host()];
    let listen = format!("unix://{}", engines.behind.fresh_path(".sock").display());
    let args = ["--containerd-address", engines.behind.containerd_address(), "--docker-listen", &listen];
    let _next = Linkspan::start(&engines.behind, &[&engine[..], &args].concat(), &[]);
    nothing_is_left(&engines);
}

#[test]
fn a_dockerd_that_is_killed_meanwhile_gets_no_image() {
    let mut engines = TwoEngines::new();
    interrupted(&mut engines, "dockerd", |engines, upload| {
        engines.behind.kill(Part::Dockerd);
        let response = upload.response();
        assert!(!response.contains("Loaded image"), "{response}");
        assert!(response.contains("linkspan: docker ended the connection"), "{response}");
        true
    });
    nothing_is_left(&engines);
}

#[test]
fn an_image_that_does_not_fit_leaves_room() {
    let disk = Disk::new(96 << 20);
    let stack = Stack::start_below(&disk.root(), &[Part::Containerd, Part::Dockerd]);
    let linkspan = Linkspan::docker_door(&stack);
    let through = |args: &[&str]| stack.docker(args.iter().copied()).env("DOCKER_HOST", linkspan.address());
    let elsewhere = tempfile::tempdir().unwrap();
    let image = Image::of_layers(vec![Tar::default().file("large", noise(1, 12 * MIB)).finish()]);
    let archive = image.oci("large:1").end().write(elsewhere.path().join("archive"));
    // Not enough for the layer's blob; enough for that, but not for unpacking it as well.
    for (free, is_named) in [(6 << 20, false), (18 << 20, true)] {
        disk.fill(free);
        let output = through(&["load", "-i", text(&archive)]).fails();
        assert!(output.to_string().contains("no space left on device"), "{output}");
        assert_eq!(!stack.images("moby").is_empty(), is_named, "{output}");
        stack.until_released("moby");
        for (name, _) in stack.images("moby") {
            stack.ctr("moby", ["images", "rm", &name]).ok();
        }
        stack.collect_garbage("moby");
        // containerd forgets first and deletes then.
        until("what was written to be deleted", || disk.available(), |available| *available > free - (2 << 20));
        assert_eq!(stack.snapshots("moby"), Vec::new(), "{output}");
    }
    disk.clear();
    assert_eq!(through(&["load", "-q", "-i", text(&archive)]).ok().stdout, "Loaded image: large:1\n");
    assert!(linkspan.log().contains(UNPACKED), "{}", linkspan.log());
}

#[test]
fn memory_does_not_grow_with_a_new_image() {
    let engines = TwoEngines::new();
    // As many layers as are unpacked at once, which fill all buffers.
    let load = |name: &str, size: usize| {
        let layers = (0..4).map(|seed| Tar::default().file(&format!("{name}{seed}"), noise(seed, size)).finish());
        let archive = Image::of_layers(layers.collect()).oci(name).end();
        let archive = archive.write(engines.behind.fresh_path("-archive"));
        engines.through(["load", "-i", text(&archive)]).ok();
        fs::remove_file(archive).unwrap();
        engines.linkspan.peak_bytes()
    };
    let small = load("small:1", 8 * MIB);
    let large = load("large:1", 56 * MIB);
    assert_eq!(count(&engines, UNPACKED), 2, "{}", engines.linkspan.log());
    assert!(large - small <= 16 << 20, "{small} bytes at most were resident with 32 MB, {large} with 224 MB");
}
