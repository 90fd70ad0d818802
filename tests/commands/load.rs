//! `linkspan load` of what other tools saved.

use std::fs;

use serde_json::{Value, json};

use crate::common::{Context, Linkspan, Run, Stack, text};
use crate::fixture::{Image, Layer};
use crate::{archive, archive_of, image, layout, linkspan, listed, named, on};

/// Loads the archive into a fresh layout and returns the only image there.
fn loaded(archive: &str) -> (String, String) {
    let folder = tempfile::tempdir().unwrap();
    on(&folder, &["load", "-i", archive]).ok();
    let images = listed(&folder);
    assert_eq!(images.len(), 1, "{images:?}");
    let (name, digest) = images.into_iter().next().unwrap();
    // All of it is there, and is what it should be.
    let to = tempfile::tempdir().unwrap();
    let target = if name.is_empty() { String::new() } else { format!(":{}", name.rsplit(':').next().unwrap()) };
    let from = format!("oci:{}{target}", text(folder.path()));
    Run::new("skopeo").args(["--insecure-policy", "copy", &from, &format!("dir:{}", text(to.path()))]).ok();
    (name, digest)
}

#[test]
fn a_layout_is_loaded_as_folder_as_archive_and_from_a_pipe() {
    let (image, from) = (image("a layout\n"), tempfile::tempdir().unwrap());
    layout(from.path(), &[(&image, named("docker.io/library/saved:1"))]);
    let file = archive_of(from.path());
    let expected = ("docker.io/library/saved:1".to_owned(), image.root.digest.to_string());
    assert_eq!(loaded(text(from.path())), expected);
    assert_eq!(loaded(text(file.path())), expected);

    let folder = tempfile::tempdir().unwrap();
    let output = on(&folder, &["load"]).stdin(fs::read(file.path()).unwrap()).ok();
    assert_eq!(output.stdout, "Loaded image: saved:1\n");
    assert!(output.stderr.contains("sent 4 blobs"), "{output}");
    assert_eq!(listed(&folder), [expected]);

    // What is there is neither kept nor sent.
    let names = ["-t", "again:2", "-t", "docker.io/library/again:2", "-t", "other:1"];
    let twice = on(&folder, &["load", "-q"]).args(names).stdin(fs::read(file.path()).unwrap()).ok();
    assert_eq!(twice.stdout, "Loaded image: again:2\nLoaded image: other:1\n");
    on(&folder, &["rm", "other:1"]).ok();
    let again = on(&folder, &["load", "-t", "again:2", "--json"]).stdin(fs::read(file.path()).unwrap()).ok();
    let report: Value = serde_json::from_str(&again.stdout).unwrap();
    assert_eq!((&report["sentBlobs"], &report["presentBlobs"]), (&json!(0), &json!(4)), "{again}");
    assert_eq!(report["names"], json!(["docker.io/library/again:2"]));
    assert_eq!(again.stderr, "");
    let quiet = on(&folder, &["load", "-q", "-i", text(file.path())]).ok();
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("Loaded image: saved:1\n", ""));
}

#[test]
fn a_damaged_blob_of_a_layout_is_replaced_by_what_comes_through_a_pipe() {
    let (stack, folder) = (Stack::shared(), tempfile::tempdir().unwrap());
    // Larger than any document: such a blob passes by if it is there.
    let image = Image::new(&[Layer::new().file("large", "x".repeat(17 << 20)).tar()]);
    let tar = fs::read(archive(&[(&image, named("docker.io/library/large:1"))]).path()).unwrap();
    on(&folder, &["load", "-q"]).stdin(tar.clone()).ok();
    let layer = &image.layers[0];
    let blob = folder.path().join("blobs/sha256").join(layer.digest.hex());
    let engine = ["--engine", "layout", "--layout", text(folder.path())];
    let daemon = Linkspan::export(stack, &engine, &[], stack.fresh_path("-damaged.sock"));
    let address = daemon.address();
    for target in [&engine[..], &["--to", &address]] {
        fs::write(&blob, vec![0; usize::try_from(layer.size).unwrap()]).unwrap();
        let replaced = linkspan(["load", "--json"]).args(target.iter().copied()).stdin(tar.clone()).ok();
        let report: Value = serde_json::from_str(&replaced.stdout).unwrap();
        assert_eq!((&report["sentBlobs"], &report["presentBlobs"]), (&json!(1), &json!(2)), "{replaced}");
        assert!(fs::read(&blob).unwrap() == image.blobs[&layer.digest], "{target:?}");
        let again = linkspan(["load", "--json"]).args(target.iter().copied()).stdin(tar.clone()).ok();
        let report: Value = serde_json::from_str(&again.stdout).unwrap();
        assert_eq!(report["sentBlobs"], 0, "{again}");
    }
}

#[test]
fn a_name_with_the_digest_of_another_image_is_refused() {
    let (image, folder) = (image("pinned\n"), tempfile::tempdir().unwrap());
    let file = archive(&[(&image, named("docker.io/library/saved:1"))]);
    let digest = image.root.digest.to_string();
    let wrong = format!("pinned:1@sha256:{}", "a".repeat(64));
    let refused = on(&folder, &["load", "-t", &wrong, "-i", text(file.path())]).fails();
    assert!(refused.stderr.contains(&format!("another image: this one is {digest}")), "{refused}");
    assert!(refused.stderr.contains("hint: leave the digest out"), "{refused}");
    let right = format!("pinned@{digest}");
    on(&folder, &["load", "-t", &right, "-i", text(file.path())]).ok();
    assert_eq!(listed(&folder), [(format!("docker.io/library/{right}"), digest)]);
}

#[test]
fn any_outer_compression_is_taken() {
    let image = image("compressed\n");
    let plain = archive(&[(&image, named("docker.io/library/packed:1"))]);
    for program in ["gzip", "zstd", "xz", "bzip2"] {
        let packed = tempfile::NamedTempFile::new().unwrap();
        let script = format!("{program} -c < {} > {}", text(plain.path()), text(packed.path()));
        Run::new("sh").args(["-c", &script]).ok();
        let expected = ("docker.io/library/packed:1".to_owned(), image.root.digest.to_string());
        assert_eq!(loaded(text(packed.path())), expected, "{program}");
        let bytes = fs::read(packed.path()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        on(&folder, &["load", "-i", "-"]).stdin(bytes.clone()).ok();
        assert_eq!(listed(&folder), [expected], "{program} from a pipe");
        let folder = tempfile::tempdir().unwrap();
        let cut = on(&folder, &["load"]).stdin(&bytes[..bytes.len() / 2]).fails();
        assert!(cut.stderr.contains("linkspan: error: standard input"), "{program}: {cut}");
        assert_eq!(listed(&folder), []);
    }
}

#[test]
fn several_images_and_several_names() {
    let (one, two) = (image("one\n"), image("two\n"));
    let file =
        archive(&[(&one, named("docker.io/library/one:1")), (&one, named("example.com/one:2")), (&two, json!({}))]);
    let folder = tempfile::tempdir().unwrap();
    let output = on(&folder, &["load", "-i", text(file.path())]).ok();
    let expected =
        format!("Loaded image: one:1\nLoaded image: example.com/one:2\nLoaded image ID: {}\n", two.root.digest);
    assert_eq!(output.stdout, expected);
    assert_eq!(listed(&folder).len(), 3);
    let refused = on(&folder, &["load", "-t", "x", "-i", text(file.path())]).fails();
    assert!(refused.stderr.contains("-t names one image, but 2 are to be loaded"), "{refused}");
    assert!(!listed(&folder).iter().any(|(name, _)| name.ends_with("/x:latest")));
}

#[test]
fn the_platform_that_is_there_is_loaded() {
    let here = image("here\n");
    let elsewhere = Image::foreign(&[crate::fixture::Layer::new().file("a", "elsewhere").tar()]);
    let index = Image::index(&[here.clone(), elsewhere.clone()]);
    let whole = tempfile::tempdir().unwrap();
    layout(whole.path(), &[(&index, named("docker.io/library/many:1"))]);
    let folder = tempfile::tempdir().unwrap();
    on(&folder, &["load", "-i", text(whole.path())]).ok();
    assert_eq!(listed(&folder)[0].1, index.root.digest.to_string());
    on(&folder, &["load", "-i", text(whole.path()), "--platform", "linux/s390x"]).ok();
    assert_eq!(listed(&folder)[0].1, elsewhere.root.digest.to_string());
    let refused = on(&folder, &["load", "-i", text(whole.path()), "--platform", "windows/amd64"]).fails();
    assert!(
        refused.stderr.contains("no image for windows/amd64") && refused.stderr.contains("linux/s390x"),
        "{refused}"
    );

    // As `docker save` writes an image of which docker holds one platform.
    for digest in [&elsewhere.root.digest, &elsewhere.config.digest, &elsewhere.layers[0].digest] {
        fs::remove_file(whole.path().join("blobs/sha256").join(digest.hex())).unwrap();
    }
    let partial = on(&folder, &["load", "-i", text(whole.path())]).ok();
    assert!(partial.stderr.contains("only a part of the image"), "{partial}");
    assert_eq!(listed(&folder)[0].1, here.root.digest.to_string());
}

#[test]
fn archives_of_docker_and_skopeo_get_the_id_that_docker_gives_them() {
    let stack = Stack::shared();
    let (image, from) = (image("for docker\n"), tempfile::tempdir().unwrap());
    layout(from.path(), &[(&image, named("docker.io/library/ids:1"))]);
    linkspan(["load", "--engine", "docker", "--docker-host", stack.docker_host(), "-i", text(from.path())]).ok();
    let greeting = || stack.run_image("ids:1", &["cat", "/etc/greeting"]).ok().stdout;
    assert_eq!(greeting(), "for docker\n");

    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| text(folder.path()).to_owned() + "/" + name;
    let oci = format!("oci:{}", text(from.path()));
    let skopeo = |to: &str| Run::new("skopeo").args(["--insecure-policy", "copy", &oci, to]).ok();
    stack.docker(["save", "-o", &path("docker.tar"), "ids:1"]).ok();
    skopeo(&format!("docker-archive:{}:ids:1", path("skopeo.tar")));
    let pushed = format!("{}/ids:1", stack.registry());
    stack.run("crane").args(["push", "--insecure", text(from.path()), &pushed]).ok();
    stack.run("crane").args(["pull", "--insecure", &pushed, &path("crane.tar")]).ok();
    for name in ["docker.tar", "skopeo.tar", "crane.tar"] {
        let (called, in_layout) = loaded(&path(name));
        let docker = stack.docker_flags();
        stack.docker(["rmi", "-f", &called]).output();
        linkspan(["load", "-q", "-i", &path(name)]).args(docker).ok();
        let id = || stack.docker(["image", "inspect", "--format", "{{.Id}}", &called]).ok().stdout;
        let ours = id();
        assert_eq!(ours.trim() == in_layout, name == "docker.tar", "{name}: only this one is a layout itself");
        stack.docker(["rmi", "-f", &called]).ok();
        stack.docker(["load", "-i", &path(name)]).ok();
        assert_eq!(id(), ours, "{name}");
        let again = linkspan(["load", "--json", "-i", &path(name)]).args(docker).ok();
        assert!(again.stdout.contains("\"sentBlobs\":0"), "{name}: {again}");
    }
    // Without compressing anything, which changes digests.
    let archive = format!("oci-archive:{}:example.com/oci:1", path("oci.tar"));
    Run::new("skopeo").args(["--insecure-policy", "copy", "--preserve-digests", &oci, &archive]).ok();
    assert_eq!(loaded(&path("oci.tar")), ("example.com/oci:1".to_owned(), image.root.digest.to_string()));
}

#[test]
fn archives_of_buildx_are_loaded() {
    let stack = Stack::shared();
    let builder = stack.builder(stack.buildkit_host());
    let context = Context::new("FROM scratch\nCOPY a /a\n").file("a", "by buildx");
    let folder = tempfile::tempdir().unwrap();
    for kind in ["oci", "docker"] {
        let file = folder.path().join(kind);
        let output = format!("type={kind},dest={},name=built:{kind}", text(&file));
        builder.build(context.path(), ["-o", &output, "--provenance", "false"]).ok();
        assert_eq!(loaded(text(&file)).0, format!("docker.io/library/built:{kind}"));
    }
}
