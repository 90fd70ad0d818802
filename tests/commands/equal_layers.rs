//! An archive of `docker save` with uncompressed layers, into an engine that holds some of them compressed: the image gets
//! the id that `docker load` and `ctr images import` give it, and what is there is not sent.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use linkspan::image::{Digest, Platform};
use serde_json::Value;

use crate::common::Tar;
use crate::common::{Run, Stack, text};
use crate::duplicate_members::docker_folder;
use crate::fixture::{Image, Layer};
use crate::{archive, linkspan, named};

fn gzip(bytes: &Bytes) -> Bytes {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("layer");
    fs::write(&file, bytes).unwrap();
    Run::new("gzip").args(["-n", "-k", text(&file)]).ok();
    fs::read(folder.path().join("layer.gz")).unwrap().into()
}

/// A base whose layers are compressed, and an image on it with a layer of its own.
fn images() -> (Image, Image) {
    let busybox = Layer::busybox().tar();
    let large: Vec<u8> = (0..500_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let layers = [busybox, Layer::new().file("large", large).tar()];
    let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::sha256(layer)).collect();
    let packed: Vec<_> = layers.iter().map(|layer| ("+gzip", gzip(layer))).collect();
    let base = Image::compressed(&packed, &diff_ids, &Platform::host().architecture);
    let [first, second] = layers;
    let own = Layer::new().file("own", "of its own\n").tar();
    (base, Image::new(&[first, second, own]))
}

#[test]
fn the_id_is_that_of_docker_and_of_ctr_and_nothing_is_sent_again() {
    let stack = Stack::shared();
    let (base, image) = images();
    let base = archive(&[(&base, named("docker.io/library/same-base:1"))]);
    let folder = tempfile::tempdir().unwrap();
    docker_folder(folder.path(), &image, "same", "equal:docker");
    let file = folder.path().join("all.tar");
    let script = format!("cd {} && tar -cf all.out *.tar *.json && mv all.out all.tar", text(folder.path()));
    Run::new("sh").args(["-c", &script]).ok();

    stack.docker(["load", "-i", text(base.path())]).ok();
    let id = || stack.docker(["image", "inspect", "--format", "{{.Id}}", "equal:docker"]).ok().stdout;
    let docker = stack.docker_flags();
    let ours = load(&file, &docker);
    let first = id();
    stack.run_image("equal:docker", &["cat", "/own"]).ok();
    stack.docker(["rmi", "-f", "equal:docker"]).ok();
    stack.docker(["load", "-i", text(&file)]).ok();
    assert_eq!(id(), first);
    assert!(ours["sentBytes"].as_u64().unwrap() < 20_000, "{ours}");
    stack.docker(["rmi", "-f", "equal:docker", "same-base:1"]).ok();

    let namespace = "same-layers";
    stack.ctr(namespace, ["images", "import", text(base.path())]).ok();
    let target = || {
        let images = stack.images(namespace);
        images.into_iter().find(|(name, _)| name == "docker.io/library/equal:docker").unwrap().1
    };
    let containerd = stack.containerd_flags(namespace);
    load(&file, &containerd);
    let first = target();
    stack.ctr(namespace, ["images", "rm", "docker.io/library/equal:docker"]).ok();
    stack.ctr(namespace, ["images", "import", text(&file)]).ok();
    assert_eq!(target(), first);
    // From a pipe, too.
    stack.ctr(namespace, ["images", "rm", "docker.io/library/equal:docker"]).ok();
    linkspan(["load"]).args(containerd).stdin(fs::read(&file).unwrap()).ok();
    assert_eq!(target(), first);
    for name in ["docker.io/library/equal:docker", "docker.io/library/same-base:1"] {
        stack.ctr(namespace, ["images", "rm", name]).ok();
    }
}

fn load(file: &Path, engine: &[&str]) -> Value {
    let output = linkspan(["load", "--json", "-i", text(file)]).args(engine.iter().copied()).ok();
    serde_json::from_str(&output.stdout).unwrap()
}

#[test]
fn a_hard_link_to_a_file_of_a_lower_layer_is_refused_as_containerd_refuses_it() {
    let stack = Stack::shared();
    let link = Tar::default().hard_link("data/two", "data/one").finish();
    let below = Layer::new().folder("data", 0o755).file("data/one", "of a lower layer\n").tar();
    let image = Image::new(&[Layer::busybox().tar(), below, link.into()]);
    let file = archive(&[(&image, named("docker.io/library/links:1"))]);
    let refused = stack.ctr("links", ["images", "import", "--local", text(file.path())]).fails();
    assert!(refused.stderr.contains("no such file or directory"), "{refused}");
    let containerd = stack.containerd_flags("links");
    let refused = linkspan(["load", "-i", text(file.path())]).args(containerd).fails();
    assert!(refused.stderr.contains(image.layers[2].digest.as_str()), "{refused}");
    assert!(refused.stderr.contains("no such file or directory"), "{refused}");
}
