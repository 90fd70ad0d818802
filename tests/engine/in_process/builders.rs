//! Images as builders write them: every snapshot, and what a container sees.

use std::collections::HashSet;
use std::fs;

use crate::common::{Context, Part, Run, Stack, until};
use crate::fixture::{Image, Layer, docker, export, names};
use crate::trees::{archive, compare_applied};

/// What the second step of a Dockerfile changes of the first one's files.
const CHANGES: &str = "cd /data && busybox rm gone && busybox rm -r removed \
    && busybox rm -r emptied && busybox mkdir emptied && echo new > emptied/new \
    && busybox rm replaced && busybox mkdir -p replaced/by/folder \
    && busybox rm -r unfoldered && echo file > unfoldered \
    && busybox chmod 2770 folder && busybox chown 1234:70000 kept && busybox chmod 4755 kept \
    && busybox ln kept hard && busybox ln -s kept soft && busybox mkfifo fifo \
    && echo more >> folder/appended && busybox touch -d '1999-12-31 23:59:59' old";

/// What a container changes before it is committed.
const COMMITTED: &str =
    "cd /data && busybox rm kept && busybox rm -r folder && busybox mkdir folder && echo x > folder/y";

fn context(first: &str, chmod: &str) -> Context {
    let dockerfile = format!(
        "{first}\nCOPY data /data\nCOPY --chown=5:6 {chmod} one /data/folder/in/\nRUN {CHANGES}\nWORKDIR /made/by/workdir\n\
         RUN echo implicit > /data/folder/implicit\n"
    );
    let files = ["gone", "removed/a/b", "emptied/hidden", "replaced", "unfoldered/x", "kept", "folder/appended", "old"];
    files
        .iter()
        .fold(Context::new(&dockerfile), |context, file| context.file(&format!("data/{file}"), *file))
        .file("one", "1")
}

#[tokio::test(flavor = "multi_thread")]
async fn images_of_buildkit_are_as_containerd_unpacks_them() {
    let stack = Stack::shared();
    let builder = stack.builder(stack.buildkit_host());
    let context = context(&format!("FROM {}", stack.base_image()), "--chmod=0711");
    for compression in ["gzip", "zstd", "uncompressed", "estargz"] {
        let path = stack.fresh_path(".oci.tar");
        let output = format!("type=oci,dest={},compression={compression},force-compression=true", path.display());
        builder.build(context.path(), ["--provenance=false", "-o", &output]).ok();
        let image = Image::of_archive(&path);
        fs::remove_file(path).unwrap();
        // crane's base layer, and one for each of the five steps.
        assert_eq!(image.layers.len(), 6, "{compression}");
        let tree = compare_applied(&format!("buildkit-{compression}"), &image).await;
        for (path, expected) in [
            ("3/data/gone", "20000 0:0 1 device 0"),
            ("3/data/removed", "20000 0:0 1 device 0"),
            ("3/data/emptied/hidden", "20000 0:0 1 device 0"),
            ("3/data/replaced", "40755 0:0 0"),
            ("3/data/kept", "104755 1234:70000 2"),
            ("2/data/folder/in/one", "100711 5:6 1"),
        ] {
            assert!(tree[path].starts_with(expected), "{compression} {path}: {}", tree[path]);
        }
    }
}

/// An archive of `docker save`.
fn saved(stack: &Stack, docker: impl Fn(&[&str]) -> Run, name: &str) -> Image {
    let path = stack.fresh_path(".saved.tar");
    docker(&["save", "-o", path.to_str().unwrap(), name]).ok();
    let image = Image::of_archive(&path);
    fs::remove_file(path).unwrap();
    image
}

fn import_base(docker: impl Fn(&[&str]) -> Run, name: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), Layer::busybox().tar()).unwrap();
    docker(&["import", "--change", "ENV PATH=/bin", file.path().to_str().unwrap(), name]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn images_of_docker_commit_and_the_classic_builder_are_as_containerd_unpacks_them() {
    // The classic builder leases nothing of what it writes; the first of these dockerds has nobody who removes images beside it.
    let (own, classic) = (Stack::start(&[Part::Containerd, Part::Dockerd]), Stack::classic());
    let new_store = |args: &[&str]| own.docker(args.iter().copied());
    let old_store = |args: &[&str]| classic.docker_classic(args.iter().copied());
    let context = context("FROM classic-base:1", "");
    for (store, docker) in [("new", &new_store as &dyn Fn(&[&str]) -> Run), ("old", &old_store)] {
        import_base(docker, "classic-base:1");
        let build = ["build", "--network", "host", "--tag", "classic-built:1", context.path().to_str().unwrap()];
        docker(&build).env("DOCKER_BUILDKIT", "0").ok();
        compare_applied(&format!("classic-built-{store}"), &saved(&own, docker, "classic-built:1")).await;
        docker(&["run", "--name", "committed", "--network", "host", "classic-built:1", "sh", "-c", COMMITTED]).ok();
        docker(&["commit", "committed", "committed:1"]).ok();
        docker(&["rm", "committed"]).ok();
        let image = saved(&own, docker, "committed:1");
        let tree = compare_applied(&format!("committed-{store}"), &image).await;
        let top = image.layers.len() - 1;
        let is_whiteout = |path: &str| {
            let found = tree.get(&format!("{top}/data/{path}"));
            found.is_some_and(|found| found.starts_with("20000 0:0 1 device 0"))
        };
        assert!(is_whiteout("kept"), "{store}: {tree:?}");
        // The one writes a whiteout for each file, the other one for the folder.
        let is_opaque = tree[&format!("{top}/data/folder")].contains("trusted.overlay.opaque=y");
        assert!(is_opaque != is_whiteout("folder/appended"), "{store}: {tree:?}");
    }
}

/// Everything that can be said of the files in a container, by busybox.
fn seen(stack: &Stack, image: &str) -> String {
    let script = "busybox find / -xdev -mindepth 1 | busybox grep -v -E '^/(dev|proc|sys|etc|.dockerenv)' \
                  | busybox sort | while read -r file; do busybox stat -c '%n %f %u:%g %h %t:%T %Y %s %N' \"$file\"; \
                  [ -f \"$file\" ] && [ ! -L \"$file\" ] && busybox sha256sum < \"$file\"; done; true";
    stack.docker(["run", "--rm", "--network", "host", image, "/bin/busybox", "sh", "-c", script]).ok().stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_sees_what_it_sees_after_docker_load() {
    let stack = Stack::shared();
    let builder = stack.builder(stack.buildkit_host());
    let context = context(&format!("FROM {}\nCOPY one /seen-by-containers", stack.base_image()), "--chmod=0711");
    let path = stack.fresh_path(".oci.tar");
    let output = format!("type=oci,dest={}", path.display());
    builder.build(context.path(), ["--provenance=false", "--no-cache", "-o", &output]).ok();
    let image = Image::of_archive(&path);
    let snapshots = || stack.snapshots("moby").into_iter().map(|(name, _)| name).collect::<HashSet<_>>();
    let before = snapshots();
    export(&*docker(stack).await, &image, &names(&["seen:1"])).await.unwrap();
    let unpacked: Vec<_> = snapshots().difference(&before).cloned().collect();
    assert!(!unpacked.is_empty());
    let ours = seen(stack, "seen:1");
    assert!(
        ours.contains("/data/emptied/new 81a4 0:0 1") && !ours.contains("hidden") && !ours.contains("/gone"),
        "{ours}"
    );
    stack.docker(["rmi", "seen:1"]).ok();
    // dockerd is to unpack the layers itself.
    stack.collect_garbage("moby");
    until("snapshots to be collected", snapshots, |left| unpacked.iter().all(|name| !left.contains(name)));
    fs::write(&path, archive(&image, "docker.io/library/seen:1")).unwrap();
    stack.docker(["load", "-i", path.to_str().unwrap()]).ok();
    let theirs = seen(stack, "seen:1");
    fs::remove_file(path).unwrap();
    assert_eq!(ours, theirs);
}
