//! Unpacking.

use linkspan::engine::{EngineError, Storage};
use linkspan::image::Digest;
use tokio::task::JoinHandle;

use crate::common::{Part, Stack, until_called};
use crate::fixture::{Image, Layer, containerd, docker, export, names};

/// Folders without an entry, whiteouts and opaque folders are where unpacking in parallel goes wrong first.
#[tokio::test(flavor = "multi_thread")]
async fn layers_unpacked_at_once_look_like_layers_unpacked_in_turn() {
    let stack = Stack::shared();
    let engine = docker(stack).await;
    assert!(matches!(engine.identity().storage, Storage::Containerd { parallel_unpack: true, .. }));
    let base = Layer::busybox()
        .folder("tmp", 0o1777)
        .folder("root", 0o700)
        .file("gone", "x")
        .file("opaque/hidden", "x")
        .file("kept/below", "x");
    let second = Layer::new().file("tmp/a", "a").file("root/deep/b", "b").file("kept/above", "x").file(".wh.gone", "");
    let third = Layer::new()
        .file("tmp/c", "c")
        .file("root/deep/d", "d")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/new", "x");
    let layers = [
        base.tar(),
        second.tar_of(&["tmp/a", "root/deep/b", "kept/above", ".wh.gone"]),
        third.tar_of(&["tmp/c", "root/deep/d", "opaque/.wh..wh..opq", "opaque/new"]),
    ];
    let script = "stat -c '%n %a' /tmp /root /root/deep /opaque; ls -d /gone; ls /tmp /opaque /kept";
    let expected = "/tmp 1777\n/root 700\n/root/deep 755\n/opaque 755\n\
                    /kept:\nabove\nbelow\n\n/opaque:\nnew\n\n/tmp:\na\nc\n";
    // All at once, then only the upper two on a base that is there.
    for (name, below) in [("parallel:all", 0), ("parallel:upper", 1)] {
        let marker = Layer::new().file("marker", name).tar();
        let layers: Vec<_> = [&layers[..1], &[marker], &layers[1..]].concat();
        if below > 0 {
            export(&*engine, &Image::new(&layers[..2]), &names(&["parallel:base"])).await.unwrap();
        }
        export(&*engine, &Image::new(&layers), &names(&[name])).await.unwrap();
        let output = stack.run_image(name, &["sh", "-c", script]).output();
        assert_eq!(output.stdout, expected, "{name}: {output}");
        assert!(output.stderr.contains("/gone: No such file"), "{output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_snapshotters_are_found_by_the_namespace_and_unpack_in_turn() {
    let stack = Stack::shared();
    stack.ctr("native", ["namespaces", "create", "native", "containerd.io/defaults/snapshotter=native"]).ok();
    let engine = containerd(stack, "native").await;
    assert!(
        matches!(&engine.identity().storage, Storage::Containerd { snapshotter, parallel_unpack: false, .. } if snapshotter == "native")
    );
    let image =
        Image::new(&[Layer::busybox().tar(), Layer::new().file("a", "1").tar(), Layer::new().file("b", "2").tar()]);
    export(&*engine, &image, &names(&["native:1"])).await.unwrap();
    let checked = stack.ctr("native", ["images", "check", "--snapshotter", "native"]).ok();
    assert!(checked.stdout.trim_end().ends_with("true"), "{checked}");
}

/// The native snapshotter's snapshots are copies of their parents, so that whiteouts in them remove files.
#[tokio::test(flavor = "multi_thread")]
async fn whiteouts_remove_files_where_snapshots_are_copies() {
    let (stack, namespace) = (Stack::shared(), "copies");
    stack.ctr(namespace, ["namespaces", "create", namespace, "containerd.io/defaults/snapshotter=native"]).ok();
    let engine = containerd(stack, namespace).await;
    let base = Layer::new().file("gone", "x").file("emptied/hidden", "x").file("kept/below", "x");
    let upper = Layer::new()
        .file(".wh.gone", "")
        .file(".wh.nothing", "")
        .file("emptied/.wh..wh..opq", "")
        .file("emptied/new", "x")
        .file("kept/.wh.nothing", "");
    let image = Image::new(&[base.tar(), upper.tar()]);
    export(&*engine, &image, &names(&["copies:1"])).await.unwrap();
    let listed = stack.ctr(namespace, ["snapshots", "--snapshotter", "native", "ls"]).ok().lines();
    // The key, its parent and its kind: only the upper one has a parent.
    let top = listed[1..].iter().map(|line| line.split_whitespace().collect::<Vec<_>>()).find(|words| words.len() > 2);
    let top = top.unwrap_or_else(|| panic!("{listed:?}"))[0].to_owned();
    let view = ["snapshots", "--snapshotter", "native", "view", "--target", "/x", "look", &top];
    let mount = stack.ctr(namespace, view).ok().stdout;
    let root = mount.split_whitespace().find(|word| word.contains("snapshotter.v1.native/")).unwrap();
    let (mut found, mut left) = (Vec::new(), vec![std::path::PathBuf::from(root)]);
    while let Some(folder) = left.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                left.push(entry.path());
            }
            let shown = if kind.is_dir() || kind.is_file() { "" } else { " is special" };
            found.push(format!("{}{shown}", entry.path().strip_prefix(root).unwrap().display()));
        }
    }
    stack.ctr(namespace, ["snapshots", "--snapshotter", "native", "rm", "look"]).output();
    found.sort();
    assert_eq!(found, ["emptied", "emptied/new", "kept", "kept/below"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_of_one_image_at_the_same_time_do_not_hurt_each_other() {
    let stack = Stack::shared();
    let engine = containerd(stack, "race").await;
    let layers: Vec<_> = (0..6).map(|n| Layer::new().file(&format!("file-{n}"), vec![n; 300_000]).tar()).collect();
    let image = Image::new(&layers);
    let exports = (0..4).map(|n| {
        let (engine, image) = (engine.clone(), image.clone());
        tokio::spawn(async move { export(&*engine, &image, &names(&[&format!("race:{n}")])).await })
    });
    for export in exports.collect::<Vec<_>>() {
        export.await.unwrap().unwrap();
    }
    let checked = stack.ctr("race", ["images", "check"]).ok().stdout;
    assert_eq!(checked.matches("complete (7/7)").count(), 4, "{checked}");
    let active: Vec<_> = stack.snapshots("race").into_iter().filter(|(_, kind)| kind != "Committed").collect();
    assert_eq!(active, []);
    assert_eq!(stack.leases("race"), Vec::<String>::new());
}

/// The folder that is left when containerd is killed while it prepares its first snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_in_containerds_way_does_not_stop_an_export() {
    let stack = Stack::start(&[Part::Containerd]);
    let snapshots = stack.state().join("containerd/root/io.containerd.snapshotter.v1.overlayfs/snapshots");
    for folder in ["1/fs", "1/work"] {
        std::fs::create_dir_all(snapshots.join(folder)).unwrap();
    }
    let engine = containerd(&stack, "way").await;
    let image = Image::new(&[Layer::new().file("one", "1").tar(), Layer::new().file("two", "2").tar()]);
    export(&*engine, &image, &names(&["way:1"])).await.unwrap();
    assert_eq!(stack.snapshots("way").len(), 2);
}

/// What a blob's label says that it is when it is unpacked.
fn uncompressed(stack: &Stack, namespace: &str, blob: &Digest) -> Option<String> {
    let listed = stack.ctr(namespace, ["content", "ls"]).ok().stdout;
    let line = listed.lines().find(|line| line.starts_with(blob.as_str())).unwrap();
    let (_, rest) = line.split_once("containerd.io/uncompressed=")?;
    Some(rest.split([',', ' ']).next().unwrap().to_owned())
}

/// Importers believe the label, so that a config that lies would make them take the wrong blob for a layer.
#[tokio::test(flavor = "multi_thread")]
async fn only_what_was_unpacked_is_labelled_as_a_layer() {
    let (stack, namespace) = (Stack::shared(), "verified");
    let engine = containerd(stack, namespace).await;
    let [one, other, third] = ["one", "other", "third"].map(|content| Layer::new().file("verified", content).tar());
    let image = Image::new(std::slice::from_ref(&one));
    export(&*engine, &image, &names(&["verified:1"])).await.unwrap();
    let diff_id = Digest::sha256(&one);
    assert_eq!(uncompressed(stack, namespace, &image.layers[0].digest), Some(diff_id.to_string()));

    // The chain is there, so that nobody unpacks this one.
    let hostile = Image::with_diff_ids(&[other], std::slice::from_ref(&diff_id));
    export(&*engine, &hostile, &names(&["verified:2"])).await.unwrap();
    assert_eq!(uncompressed(stack, namespace, &hostile.layers[0].digest), None);

    // What unpacking shows to be false goes, and nothing else does.
    let blob = Image::foreign(std::slice::from_ref(&third));
    export(&*engine, &blob, &names(&["verified:3"])).await.unwrap();
    let layer = &blob.layers[0].digest;
    assert_eq!(uncompressed(stack, namespace, layer), None);
    let (lie, word) = (Digest::sha256(b"a lie"), Digest::sha256(b"somebody's word"));
    let lying = Image::with_diff_ids(&[third], std::slice::from_ref(&lie));
    for (value, left) in [(&word, Some(word.to_string())), (&lie, None)] {
        let label = format!("containerd.io/uncompressed={value}");
        stack.ctr(namespace, ["content", "label", layer.as_str(), &label]).ok();
        let error = export(&*engine, &lying, &names(&["verified:4"])).await.unwrap_err();
        assert!(matches!(&error, EngineError::Corrupt { digest, .. } if digest == layer), "{error}");
        assert_eq!(uncompressed(stack, namespace, layer), left);
    }
}

/// Each of them finds layers that another one has just committed, again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_unpacks_one_chain_is_not_turned_away() {
    let (stack, namespace) = (Stack::shared(), "crowd");
    let layers: Vec<_> = (0..12).map(|at| Layer::new().file(&format!("layer-{at}"), format!("{at}\n")).tar()).collect();
    let image = Image::new(&layers);
    let mut crowd = Vec::new();
    for number in 0..16 {
        let (engine, image) = (containerd(stack, namespace).await, image.clone());
        let name = names(&[&format!("crowd:{number}")]);
        crowd.push(tokio::spawn(async move { export(&*engine, &image, &name).await }));
    }
    until_called("the crowd", async || crowd.iter().all(JoinHandle::is_finished), |over| *over).await;
    for export in crowd {
        export.await.unwrap().unwrap();
    }
    let checked = stack.ctr(namespace, ["images", "check", "--quiet"]).ok().lines();
    assert_eq!(checked.len(), 16, "all are complete and unpacked: {checked:?}");
}
