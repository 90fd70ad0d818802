//! skopeo, crane, ctr, docker and BuildKit read what we write, and we what they write.

use std::path::Path;
use std::sync::Arc;

use linkspan::engine::Engine;
use linkspan::export::{Exports, Request};
use linkspan::progress::Events;
use linkspan::source::Source;

use crate::common::{Context, Run, Stack, text};
use crate::fixture::{Image, Layer, containerd, export, image, names, origin};
use crate::{layout, listed};

/// An image that runs.
/// skopeo copies all of an image and verifies it on the way.
fn skopeo_reads(layout: &Path, name: &str) -> String {
    let to = tempfile::tempdir().unwrap();
    let from = format!("oci:{}:{name}", text(layout));
    skopeo_copies(&from, &format!("dir:{}", text(to.path())));
    let digest = Run::new("skopeo").args(["inspect", "--format", "{{.Digest}}", &from]).ok().stdout;
    digest.trim().to_owned()
}

/// Without compressing anything, which changes digests.
fn skopeo_copies(from: &str, to: &str) {
    Run::new("skopeo").args(["--insecure-policy", "copy", "--preserve-digests", from, to]).ok();
}

/// The layout as an archive, the way `docker save` writes them.
fn archive(layout: &Path) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let members = ["oci-layout", "index.json", "blobs"];
    Run::new("tar").arg("-C").arg(layout).arg("-cf").arg(file.path()).args(members).ok();
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn what_we_write_is_read_by_everybody() {
    let stack = Stack::shared();
    let folder = tempfile::tempdir().unwrap();
    let image = image("written by us\n");
    export(&*layout(folder.path()).await, &image, &names(&["written:one", "example.com/a/written:two"])).await.unwrap();
    let digest = image.root.digest.to_string();

    assert_eq!(skopeo_reads(folder.path(), "one"), digest);
    assert_eq!(skopeo_reads(folder.path(), "two"), digest);

    let archive = archive(folder.path());
    stack.ctr("from-layout", ["images", "import", "--no-unpack", text(archive.path())]).ok();
    let both =
        ["docker.io/library/written:one", "example.com/a/written:two"].map(|name| (name.to_owned(), digest.clone()));
    assert_eq!(stack.images("from-layout"), both, "names survive in full");
    stack.docker(["load", "--input", text(archive.path())]).ok();
    let output = stack.run_image("written:one", &["cat", "/etc/greeting"]).ok().stdout;
    assert_eq!(output, "written by us\n");

    // crane pushes a layout with one image.
    let single = tempfile::tempdir().unwrap();
    export(&*layout(single.path()).await, &image, &names(&["single:1"])).await.unwrap();
    let pushed = format!("{}/from-layout:1", stack.registry());
    stack.run("crane").args(["push", "--insecure", text(single.path()), &pushed]).ok();
    assert_eq!(stack.run("crane").args(["digest", "--insecure", &pushed]).ok().stdout.trim(), digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layout_of_skopeo_is_adopted_and_stays_one_of_skopeo() {
    let (ours, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (first, second) = (image("first\n"), image("second\n"));
    export(&*layout(ours.path()).await, &first, &names(&["first:1"])).await.unwrap();
    let from = format!("oci:{}:1", text(ours.path()));
    for name in ["v1", "example.com/by/skopeo:1"] {
        let to = format!("oci:{}:{name}", text(folder.path()));
        skopeo_copies(&from, &to);
    }
    let engine = layout(folder.path()).await;
    let digest = first.root.digest.to_string();
    let theirs = [("example.com/by/skopeo:1".to_owned(), digest.clone()), ("v1".to_owned(), digest.clone())];
    assert_eq!(listed(&*engine).await, theirs);
    assert_eq!(engine.already_complete(&first.root, &names(&["example.com/by/skopeo:1"])).await.unwrap(), Some(4));

    let plan = export(&*engine, &second, &names(&["second:2"])).await.unwrap();
    assert_eq!(plan.missing.len(), 1, "busybox came with skopeo");
    for (name, image) in [("v1", &first), ("example.com/by/skopeo:1", &first), ("2", &second)] {
        assert_eq!(skopeo_reads(folder.path(), name), image.root.digest.to_string(), "{name}");
    }
    // skopeo adds to it again, and takes our image for its own.
    skopeo_copies(&from, &format!("oci:{}:later", text(folder.path())));
    engine.recover().await.unwrap();
    assert_eq!(listed(&*engine).await.len(), 4);
    assert_eq!(skopeo_reads(folder.path(), "2"), second.root.digest.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layout_of_crane_is_adopted() {
    let stack = Stack::shared();
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("pulled");
    let name = stack.base_image();
    stack.run("crane").args(["pull", "--insecure", "--format", "oci", "--annotate-ref", name, text(&root)]).ok();
    let engine = layout(&root).await;
    let listed_before = listed(&*engine).await;
    assert_eq!(listed_before.len(), 1);
    assert_eq!(listed_before[0].0, name);
    let image = image("beside crane's\n");
    export(&*engine, &image, &names(&["beside:1"])).await.unwrap();
    // crane appends to what it finds.
    stack.run("crane").args(["pull", "--insecure", "--format", "oci", "--annotate-ref", name, text(&root)]).ok();
    assert_eq!(skopeo_reads(&root, "1"), image.root.digest.to_string());
    assert!(listed(&*engine).await.contains(&listed_before[0]));

    // What we copy from there crane takes from us, and finds it valid down to the diff ids.
    let copied = tempfile::tempdir().unwrap();
    copy(&engine, &layout(copied.path()).await, name, "copied:1").await;
    let pushed = format!("{}/copied:1", stack.registry());
    stack.run("crane").args(["push", "--insecure", text(copied.path()), &pushed]).ok();
    stack.run("crane").args(["validate", "--insecure", "--remote", &pushed]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layout_of_buildx_is_adopted_and_built_into_again() {
    let stack = Stack::shared();
    let folder = tempfile::tempdir().unwrap();
    let builder = stack.builder(stack.buildkit_host());
    let context = Context::new("FROM scratch\nCOPY a /a\n").file("a", "by buildx");
    let output = |name: &str| format!("type=oci,tar=false,dest={},name={name}", text(folder.path()));
    builder.build(context.path(), ["-o", &output("built:1"), "--provenance", "false"]).ok();
    let engine = layout(folder.path()).await;
    let before = listed(&*engine).await;
    assert_eq!(before[0].0, "docker.io/library/built:1");

    let image = image("beside buildx's\n");
    export(&*engine, &image, &names(&["beside:1", "built:2"])).await.unwrap();
    builder.build(context.path(), ["-o", &output("built:2"), "--provenance", "false"]).ok();
    let after = listed(&*engine).await;
    let names: Vec<_> = after.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["docker.io/library/beside:1", "docker.io/library/built:1", "docker.io/library/built:2"]);
    assert_eq!((&after[0].1, &after[1].1, &after[2].1), (&image.root.digest.to_string(), &before[0].1, &before[0].1));
    // And buildx builds from ours.
    let from = Context::new("FROM ours\nCOPY --from=ours /etc/greeting /greeting\n");
    let named = format!("ours=oci-layout://{}@{}", text(folder.path()), image.root.digest);
    builder.build(from.path(), ["--build-context", &named]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_that_read_the_index_before_a_name_moved_breaks_nothing() {
    let (from, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let unrelated = Image::new(&[Layer::new().file("large", vec![7; 96 << 20]).tar()]);
    export(&*layout(from.path()).await, &unrelated, &names(&["unrelated:1"])).await.unwrap();
    let engine = layout(folder.path()).await;
    let (old, new) = (image("old\n"), image("new\n"));
    for attempt in 0.. {
        export(&*engine, &old, &names(&["moving:1"])).await.unwrap();
        let to = format!("oci:{}:unrelated-{attempt}", text(folder.path()));
        let mut skopeo = std::process::Command::new("skopeo");
        let args = ["--insecure-policy", "copy", "--preserve-digests"];
        let mut skopeo = skopeo.args(args).args([&format!("oci:{}:1", text(from.path())), &to]).spawn().unwrap();
        let pid = rustix::process::Pid::from_raw(skopeo.id() as i32).unwrap();
        // It has read the index when it writes the first blob.
        let is_writing = || {
            let names = std::fs::read_dir(folder.path()).unwrap().flatten().map(|entry| entry.file_name());
            names.into_iter().any(|name| name.to_string_lossy().starts_with("oci-put-blob"))
        };
        while !is_writing() && skopeo.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::STOP);
        let is_late = listed(&*engine).await.iter().any(|(name, _)| name.ends_with(&format!("unrelated-{attempt}")));
        if !is_late {
            export(&*engine, &new, &names(&["moving:1"])).await.unwrap();
        }
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::CONT);
        assert!(skopeo.wait().unwrap().success());
        if !is_late {
            break;
        }
        std::fs::remove_file(folder.path().join("blobs/sha256").join(unrelated.layers[0].digest.hex())).unwrap();
    }
    // skopeo wrote the index that it had read: the name resolves to the old image again, which is complete.
    engine.recover().await.unwrap();
    assert_eq!(skopeo_reads(folder.path(), "1"), old.root.digest.to_string());
    assert!(new.blobs.keys().all(|digest| folder.path().join("blobs/sha256").join(digest.hex()).exists()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layout_that_is_copied_blobs_first_is_not_collected_meanwhile() {
    let from = tempfile::tempdir().unwrap();
    let copied = image("copied with its times\n");
    export(&*layout(from.path()).await, &copied, &names(&["copied:1"])).await.unwrap();
    let source = format!("{}/blobs", text(from.path()));
    Run::new("find").args([&source, "-exec", "touch", "-d", "2 days ago", "{}", "+"]).ok();
    for how in ["cp -a $0/blobs $1/", "rsync -a $0/blobs $1/", "tar -C $0 -c blobs | tar -C $1 -x"] {
        let folder = tempfile::tempdir().unwrap();
        let engine = layout(folder.path()).await;
        export(&*engine, &Image::new(&[Layer::new().file("old", "old").tar()]), &names(&["moving:1"])).await.unwrap();
        Run::new("sh").args(["-c", how, text(from.path()), text(folder.path())]).ok();
        // What collects comes between the blobs and their index.
        export(&*engine, &Image::new(&[Layer::new().file("new", "new").tar()]), &names(&["moving:1"])).await.unwrap();
        engine.recover().await.unwrap();
        std::fs::copy(from.path().join("index.json"), folder.path().join("index.json")).unwrap();
        assert_eq!(skopeo_reads(folder.path(), "1"), copied.root.digest.to_string(), "{how}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_copied_between_a_layout_and_an_engine() {
    let stack = Stack::shared();
    let folder = tempfile::tempdir().unwrap();
    let image = image("copied\n");
    let (containerd, layout) = (containerd(stack, "copied-to-layout").await, layout(folder.path()).await);
    export(&*containerd, &image, &names(&["copied:1"])).await.unwrap();
    copy(&containerd, &layout, "copied:1", "copied:2").await;
    assert_eq!(skopeo_reads(folder.path(), "2"), image.root.digest.to_string());
    let back = crate::fixture::containerd(stack, "copied-back").await;
    copy(&layout, &back, "copied:2", "copied:3").await;
    assert_eq!(stack.images("copied-back"), [("docker.io/library/copied:3".to_owned(), image.root.digest.to_string())]);
}

async fn copy(from: &Arc<dyn Engine>, to: &Arc<dyn Engine>, name: &str, new: &str) {
    let images = from.images().unwrap();
    let root = images.resolve(&name.parse().unwrap()).await.unwrap().unwrap();
    let exports = Exports::new(to.clone());
    let request = Request::new(root, names(&[new]), origin());
    exports.run(request, images as Arc<dyn Source>, Events::none()).await.unwrap();
    exports.finish().await;
}
