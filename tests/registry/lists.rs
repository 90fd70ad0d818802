//! Tags, repositories and referrers, by raw requests.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use linkspan::engine::EngineKind;
use linkspan::image::{Descriptor, Digest};
use serde_json::{Value, json};

use crate::fixture::{INDEX, Image, Layer, MANIFEST, export, names};
use crate::served::Served;

fn image(content: &str) -> Image {
    Image::new(&[Layer::new().file("content", content).tar()])
}

/// All entries of a paged list below `key`, and in how many pages they came.
#[track_caller]
fn all(served: &Served, target: &str, key: &str) -> (Vec<Value>, usize) {
    let (mut next, mut found, mut pages) = (Some(target.to_owned()), Vec::new(), 0);
    while let Some(target) = next {
        let page = served.get(&target);
        assert_eq!(page.status, 200, "{target}: {page:?}");
        found.extend(page.json()[key].as_array().unwrap().iter().cloned());
        pages += 1;
        assert!(pages < 100, "{target} does not end");
        next = page.next();
    }
    (found, pages)
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_are_listed_in_order_and_in_pages() {
    for served in Served::everywhere("registry-tags", &["--registry-catalog"]).await {
        let image = image("tags");
        let tags = ["1", "10", "2", "Z", "a", "latest"];
        let all_names: Vec<_> = tags.iter().map(|tag| format!("lists/app:{tag}")).collect();
        let mut all_names: Vec<_> = all_names.iter().map(String::as_str).collect();
        all_names.extend(["lists/application:1", "example.com/lists/app:1"]);
        // A bucket has the paths of a registry, in which no port can be written.
        let has_ports = served.kind() != EngineKind::Object;
        all_names.extend(has_ports.then_some("example.com:5000/lists/app:1"));
        export(&*served.engine, &image, &names(&all_names)).await.unwrap();
        let whole = served.get("/v2/lists/app/tags/list");
        assert_eq!(whole.json(), json!({"name": "lists/app", "tags": tags}));
        assert_eq!(whole.next(), None);
        for n in 1..=7 {
            let (found, pages) = all(&served, &format!("/v2/lists/app/tags/list?n={n}"), "tags");
            assert_eq!((found, pages), (tags.map(Value::from).to_vec(), tags.len().div_ceil(n)), "{n}");
        }
        let after = served.get("/v2/lists/app/tags/list?last=11");
        assert_eq!(after.json()["tags"], json!(["2", "Z", "a", "latest"]));
        let none = served.get("/v2/lists/app/tags/list?n=0");
        assert_eq!((none.json()["tags"].clone(), none.next()), (json!([]), None));
        assert_eq!(served.get("/v2/lists/app/tags/list?last=zzz").json()["tags"], json!([]));
        assert_eq!(served.get("/v2/lists/app/tags/list?n=1000000000").json()["tags"], json!(tags));
        for n in ["-1", "x", ""] {
            let (status, code) = served.refused(&format!("/v2/lists/app/tags/list?n={n}"));
            assert_eq!((status, code.as_str()), (400, "PAGINATION_NUMBER_INVALID"), "{n}");
        }
        let (status, code) = served.refused("/v2/lists/none/tags/list");
        assert_eq!((status, code.as_str()), (404, "NAME_UNKNOWN"));

        let (found, _) = all(&served, "/v2/_catalog?n=2", "repositories");
        let found: Vec<_> = found.iter().map(|name| name.as_str().unwrap()).collect();
        let sorted: BTreeSet<_> = found.iter().copied().collect();
        assert_eq!(found, sorted.iter().copied().collect::<Vec<_>>(), "each once, in order");
        for name in ["lists/app", "lists/application", "example.com/lists/app"] {
            assert!(sorted.contains(name), "{name} in {found:?}");
            assert_eq!(served.get(&format!("/v2/{name}/tags/list")).status, 200);
        }
        // A port cannot be written in a path.
        assert!(!found.iter().any(|name| name.contains(':')), "{found:?}");
        let registry = if has_ports { "example.com:5000" } else { "example.com" };
        let tags = served.get(&format!("/v2/lists/app/tags/list?ns={registry}")).json()["tags"].clone();
        assert_eq!(tags, json!(["1"]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn repositories_are_listed_only_where_that_is_wanted() {
    let served = Served::layout(&[]).await;
    let (status, code) = served.refused("/v2/_catalog");
    assert_eq!((status, code.as_str()), (405, "UNSUPPORTED"));
}

/// An artifact that refers to `subject`.
fn referrer(subject: &Descriptor, artifact_type: &str, content: &str) -> Image {
    let mut blobs = HashMap::new();
    let mut keep = |media_type: &str, bytes: Vec<u8>| -> Descriptor {
        let descriptor = Descriptor::new(media_type, Digest::sha256(&bytes), bytes.len() as u64);
        blobs.insert(descriptor.digest.clone(), Bytes::from(bytes));
        descriptor
    };
    let config = keep("application/vnd.oci.empty.v1+json", b"{}".to_vec());
    let layer = keep("application/vnd.example.content", content.as_bytes().to_vec());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": artifact_type, "config": config, "layers": [layer],
        "subject": subject, "annotations": {"content": content},
    });
    let root = keep(MANIFEST, serde_json::to_vec(&manifest).unwrap());
    Image { root, blobs, layers: vec![layer], config }
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_are_found_filtered_and_paged() {
    for served in Served::everywhere("registry-referrers", &[]).await {
        let subject = image("subject");
        let target = format!("/v2/refer/app/referrers/{}", subject.root.digest);
        let empty = served.get(&target);
        assert_eq!((empty.status, empty.header("content-type")), (200, Some(INDEX)));
        assert_eq!(empty.json(), json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}));
        let kinds = ["application/vnd.example.sbom", "application/vnd.example.signature"];
        let mut expected = Vec::new();
        // Before its subject, and after it.
        for (number, kind) in [kinds[0], kinds[1], kinds[0]].into_iter().enumerate() {
            if number == 1 {
                export(&*served.engine, &subject, &names(&["refer/app:1"])).await.unwrap();
            }
            let content = format!("{kind} {number}");
            let artifact = referrer(&subject.root, kind, &content);
            let named = [format!("refer/app:artifact{number}")];
            // One has no name.
            let named = if number == 2 { Vec::new() } else { names(&[&named[0]]) };
            export(&*served.engine, &artifact, &named).await.unwrap();
            expected.push(json!({
                "mediaType": MANIFEST, "digest": artifact.root.digest, "size": artifact.root.size,
                "artifactType": kind, "annotations": {"content": content},
            }));
        }
        // Others refer to other subjects.
        let other = referrer(&image("other").root, kinds[0], "other");
        export(&*served.engine, &other, &names(&["refer/app:other"])).await.unwrap();
        expected.sort_by_key(|referrer| referrer["digest"].as_str().unwrap().to_owned());
        let listed = served.get(&target);
        assert_eq!((listed.json()["manifests"].clone(), listed.header("oci-filters-applied")), (json!(expected), None));
        assert_eq!(all(&served, &format!("{target}?n=1"), "manifests"), (expected.clone(), 3));
        let filtered = format!("{target}?artifactType={}", kinds[0].replace('/', "%2F"));
        assert_eq!(served.get(&filtered).header("oci-filters-applied"), Some("artifactType"));
        expected.retain(|referrer| referrer["artifactType"] == kinds[0]);
        assert_eq!(all(&served, &format!("{filtered}&n=1"), "manifests"), (expected, 2));
        let (status, code) = served.refused("/v2/refer/app/referrers/sha256:12");
        assert_eq!((status, code.as_str()), (400, "DIGEST_INVALID"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_referrer_inside_an_index_is_found_and_one_that_was_removed_is_not() {
    let served = Served::layout(&[]).await;
    let subject = image("subject of two");
    let [inside, removed] = ["inside", "removed"].map(|content| referrer(&subject.root, "a/b", content));
    export(&*served.engine, &Image::index(&[subject.clone(), inside.clone()]), &names(&["within:1"])).await.unwrap();
    export(&*served.engine, &removed, &names(&["removed:1"])).await.unwrap();
    let listed = || -> Vec<String> {
        let list = served.get(&format!("/v2/within/referrers/{}", subject.root.digest)).json();
        list["manifests"].as_array().unwrap().iter().map(|it| it["digest"].as_str().unwrap().to_owned()).collect()
    };
    let mut both = [inside.root.digest.to_string(), removed.root.digest.to_string()];
    both.sort();
    assert_eq!(listed(), both);
    let page = served.engine.images().unwrap().list(&Default::default()).await.unwrap();
    let record = page.records.into_iter().find(|record| record.target.digest == removed.root.digest).unwrap();
    served.engine.remove(&record, false).await.unwrap();
    assert_eq!(listed(), [inside.root.digest.to_string()]);
}
