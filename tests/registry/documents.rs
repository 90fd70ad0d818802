//! Manifests and indexes that are valid and unusual.

use std::fs;

use linkspan::image::{Descriptor, Digest};
use serde_json::{Value, json};

use crate::common::{Linkspan, Stack, text};
use crate::fixture::{INDEX, Image, MANIFEST, export, names};
use crate::http::request;
use crate::pushes::{image, push_blobs, put, refused};
use crate::served::{Served, layout};

const WRITABLE: &[&str] = &["--registry-writable"];
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

fn typed(blob: &Descriptor, media_type: &str) -> Descriptor {
    Descriptor { media_type: media_type.to_owned(), ..blob.clone() }
}

/// Pushes the blobs and the manifest of an image, by its digest.
#[track_caller]
fn push_child(served: &Served, name: &str, child: &Image) {
    push_blobs(served, name, child);
    let bytes = &child.blobs[&child.root.digest];
    assert_eq!(put(served, name, child.root.digest.as_str(), MANIFEST, bytes).status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_blob_has_two_media_types() {
    for served in Served::everywhere("registry-two-types", WRITABLE).await {
        let name = "two/types";
        let child = image(&format!("two types {}\n", served.kind()));
        push_child(&served, name, &child);
        let entries = [child.root.clone(), typed(&child.root, DOCKER_MANIFEST)];
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
        let mut manifest: Value = serde_json::from_slice(&child.blobs[&child.root.digest]).unwrap();
        let layers = [&child.layers[0], &child.layers[1], &typed(&child.layers[1], "application/octet-stream")];
        manifest["layers"] = json!(layers);
        for (tag, kind, document) in [("index", INDEX, &index), ("manifest", MANIFEST, &manifest)] {
            let bytes = serde_json::to_vec(document).unwrap();
            let pushed = put(&served, name, tag, kind, &bytes);
            assert_eq!(pushed.status, 201, "{} {tag}: {pushed:?}", served.kind());
            assert_eq!(served.get(&format!("/v2/{name}/manifests/{tag}")).body, bytes);
        }
        // Two sizes are none.
        manifest["layers"][2]["size"] = json!(child.layers[1].size + 1);
        let bytes = serde_json::to_vec(&manifest).unwrap();
        refused(&put(&served, name, "sizes", MANIFEST, &bytes), 400, "MANIFEST_INVALID");
    }
}

/// An index of a few kilobytes for each, and one that names more than any has.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_names_one_image_many_times() {
    let served = Served::layout(WRITABLE).await;
    let name = "many/times";
    let child = image("many times\n");
    push_child(&served, name, &child);
    let index = |children: Vec<Descriptor>| {
        serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": children})).unwrap()
    };
    let bytes = index(vec![child.root.clone(); 5_000]);
    assert_eq!(put(&served, name, "many", INDEX, &bytes).status, 201);
    assert!(served.get(&format!("/v2/{name}/manifests/many")).body == bytes);
    let more = put(&served, name, "more", INDEX, &index(vec![child.root.clone(); 20_000]));
    refused(&more, 400, "MANIFEST_INVALID");
    // Each of them once more: millions of ways lead to the image.
    let inner = Descriptor::new(INDEX, Digest::sha256(&bytes), bytes.len() as u64);
    refused(&put(&served, name, "nested", INDEX, &index(vec![inner; 5_000])), 400, "MANIFEST_INVALID");
    let read = served.linkspan.peak_bytes();
    assert!(read < 256 << 20, "{read} bytes of memory");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_document_refers_to_has_a_digest() {
    let served = Served::layout(WRITABLE).await;
    let name = "digests/app";
    let child = image("digests\n");
    push_child(&served, name, &child);
    let manifest: Value = serde_json::from_slice(&child.blobs[&child.root.digest]).unwrap();
    let with_subject = |subject: Value| {
        let mut manifest = manifest.clone();
        manifest["subject"] = subject;
        put(&served, name, "1", MANIFEST, &serde_json::to_vec(&manifest).unwrap())
    };
    for subject in [json!("foo"), json!({}), json!({"mediaType": MANIFEST, "digest": "foo", "size": 1}), json!([1])] {
        refused(&with_subject(subject), 400, "MANIFEST_INVALID");
    }
    for key in ["config", "layers"] {
        let mut manifest = manifest.clone();
        match key {
            "config" => manifest["config"]["digest"] = json!("foo"),
            _ => manifest["layers"][0]["digest"] = json!("foo"),
        }
        let pushed = put(&served, name, "1", MANIFEST, &serde_json::to_vec(&manifest).unwrap());
        refused(&pushed, 400, "MANIFEST_INVALID");
    }
    refused(&put(&served, name, "sha256:foo", MANIFEST, b"{}"), 400, "DIGEST_INVALID");
    assert_eq!(served.head(&format!("/v2/{name}/manifests/1")).status, 404);
    assert_eq!(with_subject(Value::Null).status, 201);
    assert_eq!(with_subject(json!(child.root)).header("oci-subject"), Some(child.root.digest.as_str()));
}

/// A file of a layout that something else has changed.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_blob_is_not_there_for_anybody() {
    for writable in [&[][..], WRITABLE] {
        let folder = tempfile::tempdir().unwrap();
        let engine = layout(folder.path()).await;
        let image = image("damaged\n");
        export(&*engine, &image, &names(&["damaged:1"])).await.unwrap();
        let flags = ["--engine", "layout", "--layout", text(folder.path())];
        let (_linkspan, address) = Linkspan::registry(Stack::shared(), &[&flags, writable].concat());
        let ask = |method: &str, target: &str| request(&address, method, &format!("/v2/damaged/{target}"), &[]).status;
        let damaged = [
            (format!("blobs/{}", image.layers[1].digest), &image.layers[1], true),
            (format!("blobs/{}", image.config.digest), &image.config, false),
            ("manifests/1".to_owned(), &image.root, false),
            (format!("manifests/{}", image.root.digest), &image.root, false),
        ];
        for (target, blob, is_shorter) in &damaged {
            assert_eq!((ask("HEAD", target), ask("GET", target)), (200, 200), "{target}");
            let path = folder.path().join("blobs/sha256").join(blob.digest.hex());
            let whole = image.blobs[&blob.digest].to_vec();
            let mut other = whole.clone();
            match is_shorter {
                true => other.truncate(whole.len() / 2),
                false => other[0] ^= 1,
            }
            // As another tool replaces a file.
            let replace = |bytes: &[u8]| {
                let temporary = folder.path().join("temporary");
                fs::write(&temporary, bytes).unwrap();
                fs::rename(&temporary, &path).unwrap();
            };
            replace(&other);
            assert_eq!((ask("HEAD", target), ask("GET", target)), (404, 404), "{target}");
            replace(&whole);
            assert_eq!((ask("HEAD", target), ask("GET", target)), (200, 200), "{target}");
        }
    }
}
