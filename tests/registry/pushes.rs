//! Manifests that are pushed, by raw requests.

use linkspan::image::{Descriptor, Digest};
use serde_json::json;

use crate::common::Stack;
use crate::fixture::{INDEX, Image, Layer, MANIFEST};
use crate::http::{Response, request, send};
use crate::served::Served;

const WRITABLE: &[&str] = &["--registry-writable"];

pub(crate) fn image(content: &str) -> Image {
    Image::new(&[Layer::busybox().tar(), Layer::new().file("etc/greeting", content).tar()])
}

/// Pushes the blobs of an image that are no manifests.
#[track_caller]
pub(crate) fn push_blobs(served: &Served, name: &str, image: &Image) {
    push_blobs_to(&served.address, name, image);
}

/// The same to an address.
#[track_caller]
pub(crate) fn push_blobs_to(address: &str, name: &str, image: &Image) {
    for blob in image.layers.iter().chain([&image.config]) {
        let target = format!("/v2/{name}/blobs/uploads/?digest={}", blob.digest);
        let pushed = send(address, "POST", &target, &[], &image.blobs[&blob.digest]);
        assert_eq!(pushed.status, 201, "{pushed:?}");
    }
}

#[track_caller]
pub(crate) fn put(served: &Served, name: &str, reference: &str, kind: &str, bytes: &[u8]) -> Response {
    put_to(&served.address, name, reference, kind, bytes)
}

/// The same to an address.
#[track_caller]
pub(crate) fn put_to(address: &str, name: &str, reference: &str, kind: &str, bytes: &[u8]) -> Response {
    send(address, "PUT", &format!("/v2/{name}/manifests/{reference}"), &[("Content-Type", kind)], bytes)
}

#[track_caller]
pub(crate) fn refused(response: &Response, status: u16, code: &str) {
    assert_eq!((response.status, response.code().as_str()), (status, code), "{response:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_there_and_ready_when_its_tag_is_answered() {
    let stack = Stack::shared();
    for served in Served::everywhere("registry-push", WRITABLE).await {
        let image = image(&format!("pushed to {}\n", served.kind()));
        let (digest, bytes) = (image.root.digest.to_string(), &image.blobs[&image.root.digest]);
        let early = put(&served, "push/app", "1", MANIFEST, bytes);
        refused(&early, 400, "MANIFEST_BLOB_UNKNOWN");
        assert!(String::from_utf8_lossy(&early.body).contains(image.config.digest.as_str()), "{early:?}");
        assert_eq!(served.head("/v2/push/app/manifests/1").status, 404, "nothing shows of it");
        push_blobs(&served, "push/app", &image);
        let by_digest = put(&served, "push/app", &digest, &format!("{MANIFEST}; charset=utf-8"), bytes);
        assert_eq!((by_digest.status, by_digest.header("docker-content-digest")), (201, Some(digest.as_str())));
        assert_eq!(by_digest.header("location"), Some(format!("/v2/push/app/manifests/{digest}").as_str()));
        assert_eq!(served.get(&format!("/v2/push/app/manifests/{digest}")).body, *bytes);
        assert_eq!(served.get("/v2/push/app/tags/list").status, 404, "it has no tag yet");
        let tagged = put(&served, "push/app", "1", MANIFEST, bytes);
        assert_eq!(tagged.status, 201, "{tagged:?}");
        assert_eq!(served.get("/v2/push/app/manifests/1").body, *bytes);
        assert_eq!(served.get("/v2/push/app/tags/list").json()["tags"], json!(["1"]));
        match served.kind() {
            linkspan::engine::EngineKind::Docker => {
                let output = stack.run_image("push/app:1", &["cat", "/etc/greeting"]).ok().stdout;
                assert_eq!(output, "pushed to docker\n");
            }
            linkspan::engine::EngineKind::Containerd => {
                let name = "docker.io/push/app:1";
                assert_eq!(stack.image_of("registry-push", name), Some(digest.clone()));
                // Unpacked: two layers.
                assert_eq!(stack.snapshots("registry-push").len(), 2);
            }
            _ => {}
        }
        // Several tags at once.
        let target = format!("/v2/push/app/manifests/{digest}?tag=2&tag=3&tag=2");
        let tags = send(&served.address, "PUT", &target, &[("Content-Type", MANIFEST)], bytes);
        assert_eq!(tags.status, 201, "{tags:?}");
        let named =
            tags.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("oci-tag")).map(|(_, tag)| tag.as_str());
        assert_eq!(named.collect::<Vec<_>>(), ["2", "3"], "{tags:?}");
        assert_eq!(served.get("/v2/push/app/tags/list").json()["tags"], json!(["1", "2", "3"]));
        let many: Vec<_> = (0..47).map(|tag| format!("tag={tag}")).collect();
        let target = format!("/v2/push/app/manifests/{digest}?{}", many.join("&"));
        refused(&send(&served.address, "PUT", &target, &[("Content-Type", MANIFEST)], bytes), 414, "TAG_INVALID");
        // A tag is removed, and nothing else is.
        assert_eq!(request(&served.address, "DELETE", "/v2/push/app/manifests/2", &[]).status, 202);
        assert_eq!(served.get("/v2/push/app/tags/list").json()["tags"], json!(["1", "3"]));
        refused(&request(&served.address, "DELETE", "/v2/push/app/manifests/2", &[]), 404, "MANIFEST_UNKNOWN");
        for target in [format!("manifests/{digest}"), format!("blobs/{}", image.config.digest)] {
            let response = request(&served.address, "DELETE", &format!("/v2/push/app/{target}"), &[]);
            refused(&response, 405, "UNSUPPORTED");
        }
        let refusal = request(&served.address, "DELETE", &format!("/v2/push/app/manifests/{digest}"), &[]);
        let message = refusal.json()["errors"][0]["message"].as_str().unwrap().to_owned();
        assert!(message.contains("`/v2/push/app/manifests/TAG`") && message.contains("linkspan rm"), "{message}");
        assert!(message.contains(&format!("`linkspan rm {digest}`")), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_that_are_not_what_they_should_be_are_refused() {
    let served = Served::layout(WRITABLE).await;
    let image = image("refused\n");
    push_blobs(&served, "bad/app", &image);
    let bytes = &image.blobs[&image.root.digest];
    let manifest: serde_json::Value = serde_json::from_slice(bytes).unwrap();
    let with = |key: &str, value: serde_json::Value| {
        let mut changed = manifest.clone();
        changed[key] = value;
        serde_json::to_vec(&changed).unwrap()
    };
    let deep = format!(r#"{{"schemaVersion":2,"x":{}1{}}}"#, "[".repeat(1000), "]".repeat(1000)).into_bytes();
    let twice = String::from_utf8(bytes.to_vec()).unwrap().replacen('{', r#"{"layers":[],"#, 1).into_bytes();
    let wrong_size =
        with("config", json!({"mediaType": image.config.media_type, "digest": image.config.digest, "size": 1}));
    for (kind, bytes, status, code) in [
        (INDEX, bytes.to_vec(), 400, "MANIFEST_INVALID"),
        (MANIFEST, with("manifests", json!([])), 400, "MANIFEST_INVALID"),
        (MANIFEST, deep, 400, "MANIFEST_INVALID"),
        (MANIFEST, twice, 400, "MANIFEST_INVALID"),
        (MANIFEST, wrong_size, 400, "MANIFEST_INVALID"),
        (MANIFEST, b"{}".to_vec(), 400, "MANIFEST_INVALID"),
        (MANIFEST, Vec::new(), 400, "MANIFEST_INVALID"),
        (MANIFEST, vec![b' '; (4 << 20) + 1], 413, "MANIFEST_INVALID"),
        ("application/vnd.docker.distribution.manifest.v1+prettyjws", bytes.to_vec(), 415, "MANIFEST_INVALID"),
        ("text/plain", bytes.to_vec(), 415, "MANIFEST_INVALID"),
        ("application/json", b"[]".to_vec(), 400, "MANIFEST_INVALID"),
    ] {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(100)]).into_owned();
        let response = put(&served, "bad/app", "1", kind, &bytes);
        assert_eq!((response.status, response.code().as_str()), (status, code), "{kind} {shown}: {response:?}");
    }
    let other = Digest::sha256(b"other");
    refused(&put(&served, "bad/app", other.as_str(), MANIFEST, bytes), 400, "DIGEST_INVALID");
    refused(&put(&served, "bad/app", "sha256:12", MANIFEST, bytes), 400, "DIGEST_INVALID");
    refused(&put(&served, "bad/app", "-x", MANIFEST, bytes), 400, "TAG_INVALID");
    refused(&put(&served, "Bad/app", "1", MANIFEST, bytes), 400, "NAME_INVALID");
    assert_eq!(served.get("/v2/bad/app/tags/list").status, 404);
    // Without a type of its own, it is what it says.
    let response = send(&served.address, "PUT", "/v2/bad/app/manifests/1", &[], bytes);
    assert_eq!(response.status, 201, "{response:?}");
}

/// A client that pushes once more finds everything, and sends nothing.
#[track_caller]
fn is_found_again(served: &Served, image: &Image) {
    for blob in image.layers.iter().chain([&image.config]) {
        assert_eq!(served.head(&format!("/v2/index/app/blobs/{}", blob.digest)).status, 200);
    }
    assert_eq!(served.head("/v2/index/app/manifests/1").status, 200, "{}", served.kind());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_needs_one_image_that_is_complete() {
    for served in Served::everywhere("registry-index", WRITABLE).await {
        let here = image(&format!("here {}\n", served.kind()));
        let there = Image::foreign(&[Layer::new().file("a", format!("there {}", served.kind())).tar()]);
        let index = Image::index(&[here.clone(), there.clone()]);
        let bytes = &index.blobs[&index.root.digest];
        refused(&put(&served, "index/app", "1", INDEX, bytes), 400, "MANIFEST_BLOB_UNKNOWN");
        push_blobs(&served, "index/app", &here);
        let child = put(&served, "index/app", here.root.digest.as_str(), MANIFEST, &here.blobs[&here.root.digest]);
        assert_eq!(child.status, 201, "{child:?}");
        let sparse = put(&served, "index/app", "1", INDEX, bytes);
        assert_eq!(sparse.status, 201, "{sparse:?}");
        assert_eq!(served.get("/v2/index/app/manifests/1").body, *bytes);
        is_found_again(&served, &here);
        assert_eq!(served.get(&format!("/v2/index/app/manifests/{}", there.root.digest)).status, 404);
        push_blobs(&served, "index/app", &there);
        let child = put(&served, "index/app", there.root.digest.as_str(), MANIFEST, &there.blobs[&there.root.digest]);
        assert_eq!(child.status, 201, "{child:?}");
        assert_eq!(put(&served, "index/app", "1", INDEX, bytes).status, 201);
        assert_eq!(served.get(&format!("/v2/index/app/manifests/{}", there.root.digest)).status, 200);
        is_found_again(&served, &here);
    }
}

/// An index in an index, beside what no engine runs.
#[tokio::test(flavor = "multi_thread")]
async fn indexes_are_nested_and_have_other_manifests_beside_their_images() {
    for served in Served::everywhere("registry-nested", WRITABLE).await {
        let (name, here) = ("nested/app", image(&format!("nested {}\n", served.kind())));
        push_blobs(&served, name, &here);
        let statement = Image::new(&[]);
        let mut attestation: serde_json::Value =
            serde_json::from_slice(&statement.blobs[&statement.root.digest]).unwrap();
        attestation["layers"] = json!([here.config]);
        let attestation = serde_json::to_vec(&attestation).unwrap();
        push_blobs(&served, name, &statement);
        let children = [here.blobs[&here.root.digest].to_vec(), attestation.clone()];
        let entries = children.map(|bytes| {
            let digest = Digest::sha256(&bytes);
            assert_eq!(put(&served, name, digest.as_str(), MANIFEST, &bytes).status, 201);
            json!({"mediaType": MANIFEST, "digest": digest, "size": bytes.len()})
        });
        let [image, mut other] = entries;
        other["platform"] = json!({"os": "unknown", "architecture": "unknown"});
        other["annotations"] = json!({
            "vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": image["digest"],
        });
        let inner = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [image, other]});
        let inner = serde_json::to_vec(&inner).unwrap();
        assert_eq!(put(&served, name, Digest::sha256(&inner).as_str(), INDEX, &inner).status, 201);
        let entry = json!({"mediaType": INDEX, "digest": Digest::sha256(&inner), "size": inner.len()});
        let outer = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]});
        let outer = serde_json::to_vec(&outer).unwrap();
        let pushed = put(&served, name, "1", INDEX, &outer);
        assert_eq!(pushed.status, 201, "{pushed:?}");
        assert_eq!(served.get("/v2/nested/app/manifests/1").body, outer);
        assert_eq!(served.head("/v2/nested/app/manifests/1").status, 200);
        if served.kind() == linkspan::engine::EngineKind::Docker {
            let output = Stack::shared().run_image("nested/app:1", &["cat", "/etc/greeting"]).ok().stdout;
            assert_eq!(output, "nested docker\n");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_is_that_of_all_doors() {
    let args = ["--registry-writable", "--allow-name", "docker.io/allowed/*", "--deny-tag-move"];
    let served = Served::layout(&args).await;
    let images = [image("first\n"), image("second\n")];
    for image in &images {
        push_blobs(&served, "allowed/app", image);
    }
    let [first, second] = images.each_ref().map(|image| &image.blobs[&image.root.digest]);
    refused(&put(&served, "other/app", "1", MANIFEST, first), 403, "DENIED");
    assert_eq!(put(&served, "allowed/app", "1", MANIFEST, first).status, 201);
    assert_eq!(put(&served, "allowed/app", "1", MANIFEST, first).status, 201, "it does not move");
    refused(&put(&served, "allowed/app", "1", MANIFEST, second), 403, "DENIED");
    refused(&request(&served.address, "DELETE", "/v2/allowed/app/manifests/1", &[]), 403, "DENIED");
    assert_eq!(served.get("/v2/allowed/app/manifests/1").body, *first);
    let digest = &images[1].root.digest;
    let target = format!("/v2/allowed/app/manifests/{digest}?tag=2&tag=1");
    refused(&send(&served.address, "PUT", &target, &[("Content-Type", MANIFEST)], second), 403, "DENIED");
    assert_eq!(served.get("/v2/allowed/app/tags/list").json()["tags"], json!(["1"]), "none of them was set");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_referrer_that_is_pushed_by_its_digest_is_found() {
    for served in Served::everywhere("registry-subject", WRITABLE).await {
        let image = image(&format!("subject {}\n", served.kind()));
        push_blobs(&served, "subject/app", &image);
        assert_eq!(put(&served, "subject/app", "1", MANIFEST, &image.blobs[&image.root.digest]).status, 201);
        let empty = b"{}";
        let target = format!("/v2/subject/app/blobs/uploads/?digest={}", Digest::sha256(empty));
        assert_eq!(send(&served.address, "POST", &target, &[], empty).status, 201);
        let config = Descriptor::new("application/vnd.oci.empty.v1+json", Digest::sha256(empty), 2);
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/vnd.example.note",
            "config": config, "layers": [], "subject": image.root,
        }))
        .unwrap();
        let digest = Digest::sha256(&manifest);
        let pushed = put(&served, "subject/app", digest.as_str(), MANIFEST, &manifest);
        assert_eq!(
            (pushed.status, pushed.header("oci-subject")),
            (201, Some(image.root.digest.as_str())),
            "{pushed:?}"
        );
        let referrers = served.get(&format!("/v2/subject/app/referrers/{}", image.root.digest)).json();
        assert_eq!(referrers["manifests"][0]["digest"], digest.as_str());
        assert_eq!(referrers["manifests"].as_array().unwrap().len(), 1);
        if served.kind() == linkspan::engine::EngineKind::Docker {
            // It is what a pull by digest leaves, which `docker image prune` does not remove.
            let stack = Stack::shared();
            stack.docker(["image", "prune", "--force"]).ok();
            assert_eq!(stack.image(&format!("docker.io/subject/app@{digest}")), Some(digest.to_string()));
        }
        // Clients cannot remove what has no tag, and are told who can.
        let refusal = request(&served.address, "DELETE", &format!("/v2/subject/app/manifests/{digest}"), &[]);
        assert_eq!((refusal.status, refusal.code().as_str()), (405, "UNSUPPORTED"));
        let message = refusal.json()["errors"][0]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(&format!("`linkspan rm {digest}`")), "{message}");
        let removed = served.command(&["rm", digest.as_str()]).ok();
        assert!(removed.stdout.contains(&format!("Deleted: {digest}")), "{removed}");
        let referrers = served.get(&format!("/v2/subject/app/referrers/{}", image.root.digest)).json();
        assert_eq!(referrers["manifests"], json!([]), "{}", served.kind());
        assert_eq!(served.get("/v2/subject/app/manifests/1").status, 200);
    }
}

/// A client that finds its blobs sends nothing: they must still be there when the manifest comes.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_found_stays_until_its_manifest_has_come() {
    let stack = Stack::shared();
    let namespace = "registry-found";
    let served = Served::containerd(namespace, WRITABLE).await;
    let image = image("found\n");
    push_blobs(&served, "found/app", &image);
    assert_eq!(put(&served, "found/app", "1", MANIFEST, &image.blobs[&image.root.digest]).status, 201);
    // From its own repository, and from another one.
    for name in ["found/app", "found/other"] {
        for blob in image.layers.iter().chain([&image.config]) {
            assert_eq!(served.head(&format!("/v2/{name}/blobs/{}", blob.digest)).status, 200);
        }
    }
    stack.ctr(namespace, ["images", "rm", "docker.io/found/app:1"]).ok();
    stack.collect_garbage(namespace);
    for name in ["found/app", "found/other"] {
        let pushed = put(&served, name, "2", MANIFEST, &image.blobs[&image.root.digest]);
        assert_eq!(pushed.status, 201, "{pushed:?}");
    }
    stack.until_released(namespace);
}

/// A client that finds its manifest sends it no more, so it is told that it is not there when something below it is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_of_what_is_there_repairs_what_is_missing() {
    let stack = Stack::shared();
    let namespace = "registry-repair";
    let served = Served::containerd(namespace, WRITABLE).await;
    let image = image("repaired\n");
    push_blobs(&served, "repair/app", &image);
    let bytes = &image.blobs[&image.root.digest];
    assert_eq!(put(&served, "repair/app", "1", MANIFEST, bytes).status, 201);
    let layer = &image.layers[1];
    stack.ctr(namespace, ["content", "rm", layer.digest.as_str()]).ok();
    assert_eq!(served.head(&format!("/v2/repair/app/blobs/{}", image.config.digest)).status, 200);
    assert_eq!(served.head(&format!("/v2/repair/app/blobs/{}", layer.digest)).status, 404);
    assert_eq!(served.head("/v2/repair/app/manifests/1").status, 404, "it is to be sent");
    push_blobs(&served, "repair/app", &image);
    assert_eq!(put(&served, "repair/app", "1", MANIFEST, bytes).status, 201);
    assert_eq!(served.head(&format!("/v2/repair/app/blobs/{}", layer.digest)).status, 200);
    assert_eq!(served.head("/v2/repair/app/manifests/1").status, 200);
}
