//! What is pushed and is no image that runs: artifacts, and images that cannot be unpacked.

use std::collections::HashMap;

use bytes::Bytes;
use linkspan::engine::EngineKind;
use linkspan::image::{Descriptor, Digest};
use serde_json::{Value, json};

use crate::common::Stack;
use crate::fixture::{Image, Layer, MANIFEST, export, names};
use crate::pushes::{push_blobs, put};
use crate::served::Served;

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// A manifest over a config and layers of any types; `fields` come to it.
fn manifest(config: (&str, &[u8]), layers: &[(&str, Vec<u8>)], fields: Value) -> Image {
    let mut blobs = HashMap::new();
    let mut keep = |kind: &str, bytes: &[u8]| {
        let blob = Descriptor::new(kind, Digest::sha256(bytes), bytes.len() as u64);
        blobs.insert(blob.digest.clone(), Bytes::copy_from_slice(bytes));
        blob
    };
    let config = keep(config.0, config.1);
    let layers: Vec<_> = layers.iter().map(|(kind, bytes)| keep(kind, bytes)).collect();
    let mut manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
    manifest.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let root = keep(MANIFEST, &serde_json::to_vec(&manifest).unwrap());
    Image { root, blobs, layers, config }
}

/// What registries keep and engines do not run, under a name of its own; `content` makes it another test's.
fn artifacts(content: &str) -> Vec<(&'static str, Image)> {
    let bytes = |kind: &str| format!("{kind} {content}").into_bytes();
    let nothing: (&str, &[u8]) = ("application/vnd.oci.empty.v1+json", b"{}");
    let chart = format!(r#"{{"name":"chart","version":"0.1.0","apiVersion":"v2","description":"{content}"}}"#);
    let helm = ("application/vnd.cncf.helm.config.v1+json", chart.as_bytes());
    let chart = ("application/vnd.cncf.helm.chart.content.v1.tar+gzip", bytes("chart"));
    // cosign's signatures have the config of an image.
    let signature = bytes("signature");
    let config = json!({
        "architecture": "", "os": "", "config": {}, "created": "0001-01-01T00:00:00Z",
        "history": [{"created": "0001-01-01T00:00:00Z"}],
        "rootfs": {"type": "layers", "diff_ids": [Digest::sha256(&signature)]},
    });
    let config = serde_json::to_vec(&config).unwrap();
    let signature = ("application/vnd.dev.cosign.simplesigning.v1+json", signature);
    let typed = json!({"artifactType": "application/vnd.example.file", "annotations": {"content": content}});
    let file = manifest(nothing, &[("text/plain", bytes("file"))], typed.clone());
    let mut list = Image::index(std::slice::from_ref(&file));
    list.layers.clone_from(&file.layers);
    vec![
        ("chart", manifest(helm, &[chart], json!({}))),
        ("file", file),
        ("list", list),
        ("bare", manifest(nothing, &[], typed)),
        ("signature", manifest((CONFIG, &config), &[signature], json!({}))),
        ("odd", manifest(("application/octet-stream", b"\0\x01"), &[("application/x-odd", bytes("odd"))], json!({}))),
    ]
}

/// Images of this machine's platform that no engine can unpack.
fn broken(content: &str) -> Vec<(&'static str, Image)> {
    let tar = |name: &str| Layer::new().file(name, content).tar();
    let text = Bytes::from(format!("no tar: {content}").repeat(100));
    let platform = linkspan::image::Platform::host();
    let config = |diff_ids: &[Digest]| {
        let rootfs = json!({"type": "layers", "diff_ids": diff_ids});
        json!({"architecture": platform.architecture, "os": "linux", "config": {}, "rootfs": rootfs}).to_string()
    };
    let layer = tar("typed").to_vec();
    let config = config(&[Digest::sha256(&layer)]);
    let typed = manifest((CONFIG, config.as_bytes()), &[("application/x-unknown", layer)], json!({}));
    let child = Image::new(&[Bytes::from(format!("of an index: {content}").repeat(100))]);
    vec![
        ("not-tar", Image::new(&[text])),
        ("wrong-diff", Image::with_diff_ids(&[tar("wrong")], &[Digest::sha256(content.as_bytes())])),
        ("few-diffs", Image::with_diff_ids(&[tar("one"), tar("two")], &[Digest::sha256(&tar("one"))])),
        ("unknown-type", typed),
        ("index", Image::index(&[child])),
    ]
}

/// Pushes an image as clients do, and checks that it is served as it came.
#[track_caller]
fn push(served: &Served, name: &str, image: &Image) {
    push_blobs(served, name, image);
    // An index has another manifest below it.
    for (digest, bytes) in &image.blobs {
        let is_child = *digest != image.root.digest && serde_json::from_slice(bytes).is_ok_and(is_manifest);
        if is_child {
            assert_eq!(put(served, name, digest.as_str(), MANIFEST, bytes).status, 201);
        }
    }
    let (bytes, kind) = (&image.blobs[&image.root.digest], image.root.media_type.as_str());
    for again in [false, true] {
        let pushed = put(served, name, "1", kind, bytes);
        assert_eq!(pushed.status, 201, "{name} {again}: {pushed:?}");
    }
    // With another push of the repository under way, too.
    assert_eq!(served.head(&format!("/v2/{name}/blobs/{}", image.config.digest)).status, 200);
    for reference in ["1", image.root.digest.as_str()] {
        let target = format!("/v2/{name}/manifests/{reference}");
        let (head, got) = (served.head(&target), served.get(&target));
        assert_eq!((head.status, got.status, &got.body[..]), (200, 200, &bytes[..]), "{target}");
        assert_eq!(head.header("content-type"), Some(kind));
    }
    for (digest, bytes) in &image.blobs {
        assert!(served.get(&format!("/v2/{name}/blobs/{digest}")).body == *bytes, "{name}: {digest}");
    }
}

fn is_manifest(document: Value) -> bool {
    document["mediaType"] == MANIFEST
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_run_is_stored_and_served() {
    let stack = Stack::shared();
    for served in Served::everywhere("registry-artifacts", &["--registry-writable"]).await {
        let content = format!("for {}", served.kind());
        let foreign = Image::foreign(&[Layer::new().file("a", &content).tar()]);
        for (name, image) in artifacts(&content).into_iter().chain([("foreign", foreign)]) {
            push(&served, &format!("artifacts/{name}"), &image);
        }
        for (name, image) in broken(&content) {
            push(&served, &format!("broken/{name}"), &image);
            let warned = served.linkspan.log().contains(&format!("names=[\"docker.io/broken/{name}:1\"]"));
            let unpacks = matches!(served.kind(), EngineKind::Containerd | EngineKind::Docker);
            assert_eq!(warned, unpacks, "{name}");
        }
        match served.kind() {
            EngineKind::Containerd => {
                // Neither a snapshot that is being made, nor one that nothing keeps.
                stack.collect_garbage("registry-artifacts");
                assert_eq!(stack.snapshots("registry-artifacts"), []);
            }
            EngineKind::Docker => docker_works_with_them(stack),
            _ => {}
        }
    }
}

/// dockerd lists, counts, refuses to run, and removes them.
#[track_caller]
fn docker_works_with_them(stack: &Stack) {
    let listed = stack.docker(["images", "--format", "{{.Repository}}:{{.Tag}}"]).ok().lines();
    let names = ["artifacts/chart", "artifacts/odd", "artifacts/signature", "broken/not-tar", "broken/index"];
    for name in names.map(|name| format!("{name}:1")) {
        assert!(listed.contains(&name), "{name} in {listed:?}");
        stack.docker(["image", "inspect", &name]).ok();
        stack.run_image(&name, &["true"]).fails();
    }
    stack.docker(["image", "ls", "--tree"]).ok();
    stack.docker(["system", "df", "--verbose"]).ok();
    stack.docker(["image", "prune", "--force"]).ok();
    assert!(stack.image("docker.io/artifacts/chart:1").is_some(), "it has a name");
    for name in names {
        stack.docker(["rmi", &format!("{name}:1")]).ok();
        assert_eq!(stack.image(&format!("docker.io/{name}:1")), None);
    }
}

/// A tag is moved from an image that runs to one that cannot, and back.
#[tokio::test(flavor = "multi_thread")]
async fn a_tag_moves_between_what_runs_and_what_does_not() {
    let stack = Stack::shared();
    let served = Served::docker(&["--registry-writable"]).await;
    let good = Image::new(&[Layer::busybox().tar(), Layer::new().file("etc/greeting", "it runs\n").tar()]);
    let [_, (_, bad), ..] = &broken("moved")[..] else { panic!() };
    for (image, runs) in [(&good, true), (bad, false), (&good, true)] {
        push(&served, "moved/app", image);
        let ran = stack.run_image("moved/app:1", &["cat", "/etc/greeting"]).output();
        assert_eq!(ran.status.success(), runs, "{ran}");
    }
}

/// An export through another door is one that runs, or none.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_of_what_cannot_be_unpacked_is_refused_as_before() {
    let stack = Stack::shared();
    for (served, namespace) in [
        (Served::containerd("registry-strict", &["--registry-writable"]).await, "registry-strict"),
        (Served::docker(&["--registry-writable"]).await, "moby"),
    ] {
        let (_, image) = broken(&format!("strict {}", served.kind())).swap_remove(1);
        let error = export(&*served.engine, &image, &names(&["strict:1"])).await.unwrap_err();
        assert!(error.to_string().contains("the config says"), "{error}");
        assert_eq!(stack.tagged(namespace, "strict:1"), None);
        push(&served, "library/strict", &image);
        assert_eq!(stack.tagged(namespace, "strict:1"), Some(image.root.digest.to_string()));
    }
}
