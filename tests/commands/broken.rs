//! Archives that are broken, or made to do harm: refused by name, and nothing is loaded.

use std::fs;

use linkspan::image::Digest;
use serde_json::json;

use crate::common::Tar;
use crate::common::{Run, text};
use crate::{archive, image, layout, listed, named, on};

/// `bytes` are refused from a file and from a pipe, with words that say `expected`.
#[track_caller]
fn refused(bytes: &[u8], expected: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for run in [on(&folder, &["load", "-i", text(file.path())]), on(&folder, &["load"]).stdin(bytes)] {
        let output = run.fails();
        assert_eq!(output.status.code(), Some(1), "{output}");
        let error = output.stderr.lines().find(|line| line.starts_with("linkspan: error: "));
        assert!(error.unwrap_or_default().contains(expected), "expected `{expected}`: {output}");
        assert_eq!(output.stdout, "");
    }
    assert_eq!(listed(&folder), []);
}

const CONFIG: &str = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["DIFF"]}}"#;

fn config(layer: &str) -> String {
    CONFIG.replace("DIFF", Digest::sha256(layer.as_bytes()).as_str())
}

fn list(config: &str, layers: &[&str]) -> String {
    json!([{"Config": config, "RepoTags": ["demo:1"], "Layers": layers}]).to_string()
}

#[test]
fn what_is_no_archive() {
    refused(b"", "is no archive: it is empty");
    refused(&[0; 2048], "holds no image");
    refused(b"hello, this is no archive", "is no archive: it does not begin like a tar archive");
    refused(&[b'x'; 4096], "is no archive: it does not begin like a tar archive");
    refused(b"PK\x03\x04 and so on", "is no archive: it is a ZIP file");
    let packed = tempfile::NamedTempFile::new().unwrap();
    let script = format!("echo compressed, but no archive | gzip > {}", text(packed.path()));
    Run::new("sh").args(["-c", &script]).ok();
    refused(&fs::read(packed.path()).unwrap(), "is no archive: ");
    refused(&Tar::default().file("etc/passwd", "root").finish(), "neither an `oci-layout` nor a `manifest.json`");
    refused(&Tar::default().file("repositories", "{}").finish(), "older than 1.10");
    refused(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3], "linkspan: error");
    let folder = tempfile::tempdir().unwrap();
    let missing = on(&folder, &["load", "-i", "/no/such/file"]).fails();
    assert!(missing.stderr.contains("/no/such/file: cannot be opened: No such file"), "{missing}");
    let empty = tempfile::tempdir().unwrap();
    let no_layout = on(&folder, &["load", "-i", text(empty.path())]).fails();
    assert!(no_layout.stderr.contains("no file `oci-layout`"), "{no_layout}");
}

#[test]
fn archives_that_are_cut_off() {
    let whole = fs::read(archive(&[(&image("cut\n"), named("docker.io/library/cut:1"))])).unwrap();
    let end = whole.iter().rposition(|byte| *byte != 0).unwrap();
    for at in [100, 512, 700, end / 2, end - 600] {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), &whole[..at]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        on(&folder, &["load", "-i", text(file.path())]).fails();
        on(&folder, &["load"]).stdin(&whole[..at]).fails();
        assert_eq!(listed(&folder), [], "cut at {at}");
    }
}

#[test]
fn invalid_layout_files_are_refused() {
    let layout = || Tar::default().file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
    refused(&layout().finish(), "`index.json` is missing");
    refused(&layout().file("index.json", r#"{"manifests":[]}"#).file("./index.json", "[]").finish(), "is no index");
    refused(&layout().file("index.json", "[]").finish(), "is no index");
    refused(&layout().file("index.json", r#"{"manifests":[]}"#).finish(), "list of images is empty");
    refused(&layout().member(b'0', "index.json", "", 1 << 30).content("{}").finish(), "breaks off");
    refused(&layout().member(b'5', "folder", "", 4096).content([0; 4096]).finish(), "has content and is no file");
    let version = Tar::default().file("oci-layout", r#"{"imageLayoutVersion":"2.0.0"}"#).finish();
    refused(&version, "says version `2.0.0`; expected `1.0.0` or another of the same major version");
    let absent = json!({"manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": Digest::sha256(b"absent"), "size": 5}]});
    refused(&layout().file("index.json", absent.to_string()).finish(), "does not hold sha256:");
    let outside = json!({"manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": "sha256:../../../../etc/passwd", "size": 5}]});
    refused(&layout().file("index.json", outside.to_string()).finish(), "digest");
}

#[test]
fn invalid_docker_manifests_are_refused() {
    let good = config("layer");
    let with = |list: String| Tar::default().file("manifest.json", list).file("c.json", &good).file("l", "layer");
    refused(&with("{}".to_owned()).finish(), "is no list of images");
    refused(&with("[]".to_owned()).finish(), "list of images is empty");
    refused(&with(list("x.json", &["l"])).finish(), "the config `x.json`, which is not in the archive");
    refused(&with(list("c.json", &["../../etc/shadow"])).finish(), "`../../etc/shadow`, which is not in the archive");
    refused(&with(list("c.json", &["/etc/shadow"])).finish(), "`/etc/shadow`, which is not in the archive");
    refused(&with(list("c.json", &[])).finish(), "lists 0 layers for an image whose config has 1");
    refused(&with(list("l", &["l"])).finish(), "linkspan: error");
    refused(&with(list("c.json", &["a"])).symlink("a", "b").symlink("b", "a").finish(), "from link to link");
    refused(&with(list("c.json", &["a"])).symlink("a", "../../etc/shadow").finish(), "which is not in the archive");
    refused(&with(list("c.json", &["l"])).file("l", "other").finish(), Digest::sha256(b"layer").as_str());
    let name = json!([{"Config": "c.json", "RepoTags": ["NO NAME"], "Layers": ["l"]}]).to_string();
    refused(&with(name).finish(), "invalid image name `NO NAME`");
    // The engine finds out that a layer is not what its diff id says.
    let other = Tar::default().file("manifest.json", list("c.json", &["l"])).file("c.json", &good).file("l", "LAYER");
    refused(&other.finish(), Digest::sha256(b"layer").as_str());
}

#[test]
fn links_between_layers_are_followed() {
    let tar = Tar::default()
        .file("c.json", config("layer"))
        .file("one/layer.tar", "layer")
        .symlink("two/layer.tar", "../one/layer.tar")
        .hard_link("three/layer.tar", "two/layer.tar")
        .file("manifest.json", list("./c.json", &["three/layer.tar"]))
        .finish();
    let folder = tempfile::tempdir().unwrap();
    let output = on(&folder, &["load"]).stdin(tar).ok();
    assert_eq!(output.stdout, "Loaded image: demo:1\n");
}

#[test]
fn blobs_that_are_not_what_they_are_called() {
    let (image, from) = (image("changed\n"), tempfile::tempdir().unwrap());
    layout(from.path(), &[(&image, named("docker.io/library/changed:1"))]);
    let layer = from.path().join("blobs/sha256").join(image.layers[1].digest.hex());
    let mut bytes = fs::read(&layer).unwrap();
    bytes[0] ^= 1;
    fs::write(&layer, &bytes).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let refused = on(&folder, &["load", "-i", text(from.path())]).fails();
    assert!(refused.stderr.contains(image.layers[1].digest.as_str()), "{refused}");
    fs::remove_file(&layer).unwrap();
    let refused = on(&folder, &["load", "-i", text(from.path())]).fails();
    assert!(refused.stderr.contains(image.layers[1].digest.as_str()), "{refused}");
    assert_eq!(listed(&folder), []);
}
