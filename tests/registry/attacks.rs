//! Attacks that other registries and engines gave way to, one test for each kind. The numbers are those of the advisories.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use linkspan::image::{Descriptor, Digest};
use serde_json::{Value, json};

use crate::common::until;
use crate::fixture::{INDEX, MANIFEST, export, names};
use crate::http::{exchange, request, send, stream};
use crate::rights::{Ruled, image, refused};
use crate::served::Served;

const WRITABLE: &[&str] = &["--registry-writable"];

/// CVE-2026-41888: deleting was switched off for digests, and went by tags.
#[tokio::test(flavor = "multi_thread")]
async fn deletes_are_off_for_tags_and_digests_alike() {
    let closed = Served::layout(&[]).await;
    let fixed = Served::layout(&["--registry-writable", "--deny-tag-move"]).await;
    let ruled = Ruled::layout().await;
    for (served, headers) in [
        (&closed, vec![]),
        (&fixed, vec![]),
        (&ruled.served, vec![("Authorization".to_owned(), crate::users::basic("red", "red"))]),
    ] {
        let found = image("not to be deleted");
        export(&*served.engine, &found, &names(&["red/app:1"])).await.unwrap();
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        for reference in ["1", found.root.digest.as_str()] {
            let target = format!("/v2/red/app/manifests/{reference}");
            let response = request(&served.address, "DELETE", &target, &headers);
            assert!(matches!(response.status, 403 | 405), "{response:?}");
            assert_eq!(request(&served.address, "GET", &target, &headers).status, 200);
        }
        let target = format!("/v2/red/app/blobs/{}", found.config.digest);
        assert_eq!(request(&served.address, "DELETE", &target, &headers).status, 405);
    }
}

/// CVE-2026-35172: who had lost a repository could still read what was in it, from a cache of memberships.
#[tokio::test(flavor = "multi_thread")]
async fn stale_memberships_give_no_access() {
    let ruled = Ruled::containerd("registry-stale").await;
    let found = image("moved away");
    assert_eq!(ruled.push("blue", "red/shared", "1", &found).status, 201);
    let target = format!("/v2/red/shared/manifests/{}", found.root.digest);
    assert_eq!(ruled.ask("reader", "GET", &target).status, 200);
    assert_eq!(ruled.ask("blue", "DELETE", "/v2/red/shared/manifests/1").status, 202);
    assert_eq!(ruled.ask("reader", "GET", &target).status, 404);
}

/// CVE-2026-31801: a client with the right to create moved `latest`.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_create_does_not_move_latest() {
    let ruled = Ruled::containerd("registry-latest").await;
    let [ours, theirs] = [image("latest"), image("later")];
    assert_eq!(ruled.push("red", "red/app", "latest", &ours).status, 201);
    refused(&ruled.push("red", "red/app", "latest", &theirs), 403, "DENIED");
    let manifest = &theirs.blobs[&theirs.root.digest];
    for target in [
        format!("/v2/red/app/manifests/{}?tag=new&tag=latest", theirs.root.digest),
        "/v2/red/app/manifests/new?tag=latest".to_owned(),
        "/v2/app/manifests/latest?ns=docker.io".to_owned(),
    ] {
        refused(&ruled.send("red", "PUT", &target, MANIFEST, manifest), 403, "DENIED");
    }
    let tags = ruled.ask("red", "GET", "/v2/red/app/tags/list").json();
    assert_eq!(tags["tags"], json!(["latest"]), "none of several tags is set when one is denied");
    let latest = ruled.ask("red", "GET", "/v2/red/app/manifests/latest");
    assert_eq!(latest.header("docker-content-digest"), Some(ours.root.digest.as_str()));
}

/// CVE-2026-50195: an import set names that stood in the image, and not those that its client asked for.
#[tokio::test(flavor = "multi_thread")]
async fn names_inside_of_an_image_are_not_set() {
    let ruled = Ruled::containerd("registry-poison").await;
    let found = image("poisoned");
    assert_eq!(ruled.push("red", "red/app", "1", &found).status, 201);
    let annotations = json!({
        "io.containerd.image.name": "docker.io/library/busybox:latest",
        "org.opencontainers.image.ref.name": "docker.io/library/busybox:latest",
    });
    let mut child: Value = serde_json::to_value(&found.root).unwrap();
    child["annotations"] = annotations.clone();
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [child], "annotations": annotations });
    let pushed = ruled.send("red", "PUT", "/v2/red/app/manifests/2", INDEX, index.to_string().as_bytes());
    assert_eq!(pushed.status, 201, "{pushed:?}");
    let catalog = ruled.ask("admin", "GET", "/v2/_catalog").json();
    assert_eq!(catalog["repositories"], json!(["red/app"]));
}

/// CVE-2025-24976: a token was believed that was signed with the key inside of it.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_clients_are_not_believed() {
    let ruled = Ruled::layout().await;
    // {"alg":"HS256","jwk":{"kty":"oct","k":"AA"}} . {"sub":"admin"} . (a signature)
    let token = "Bearer eyJhbGciOiJIUzI1NiIsImp3ayI6eyJrdHkiOiJvY3QiLCJrIjoiQUEifX0.eyJzdWIiOiJhZG1pbiJ9.AAAA";
    let address = &ruled.served.address;
    for credentials in [token, "Basic", "Basic YWRtaW4=", "Digest username=\"admin\"", "Basic YWRtaW46"] {
        let response = request(address, "GET", "/v2/", &[("Authorization", credentials)]);
        refused(&response, 401, "UNAUTHORIZED");
    }
}

/// CVE-2023-2253: the number of entries in a query was allocated before any was read.
#[tokio::test(flavor = "multi_thread")]
async fn huge_pages_are_no_larger_than_what_there_is() {
    let served = Served::layout(&["--registry-catalog"]).await;
    export(&*served.engine, &image("one"), &names(&["pages/app:1"])).await.unwrap();
    let before = served.linkspan.peak_bytes();
    for target in ["/v2/_catalog", "/v2/pages/app/tags/list"] {
        for number in ["1000000000", "9223372036854775807", "18446744073709551616", "-1", "x"] {
            let response = served.get(&format!("{target}?n={number}"));
            assert!(matches!(response.status, 200 | 400), "{number}: {response:?}");
        }
    }
    assert!(served.linkspan.peak_bytes() < before + (64 << 20));
}

/// CVE-2017-11468: manifests of any size were read into memory.
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_has_a_limit_whether_its_length_is_said_or_not() {
    let served = Served::layout(WRITABLE).await;
    let large = vec![b' '; (4 << 20) + 1];
    refused(&stream(&served.address, "PUT", "/v2/app/manifests/1", &large), 413, "MANIFEST_INVALID");
    let kind = [("Content-Type", MANIFEST)];
    refused(&send(&served.address, "PUT", "/v2/app/manifests/1", &kind, &large), 413, "MANIFEST_INVALID");
    let said = [("Content-Type", MANIFEST), ("Content-Length", "1000000000000"), ("Expect", "100-continue")];
    refused(&send(&served.address, "PUT", "/v2/app/manifests/1", &said, b""), 413, "MANIFEST_INVALID");
}

/// CVE-2021-41190: a document that was a manifest for one reader and an index for another.
#[tokio::test(flavor = "multi_thread")]
async fn a_document_is_a_manifest_or_an_index_and_not_both() {
    let served = Served::layout(WRITABLE).await;
    let found = image("which?");
    export(&*served.engine, &found, &names(&["app:1"])).await.unwrap();
    let mut both: Value = serde_json::from_slice(&found.blobs[&found.root.digest]).unwrap();
    both["manifests"] = json!([found.root]);
    for kind in [MANIFEST, INDEX] {
        both["mediaType"] = json!(kind);
        let bytes = both.to_string();
        for said in [MANIFEST, INDEX] {
            let target = "/v2/app/manifests/both";
            let response = send(&served.address, "PUT", target, &[("Content-Type", said)], bytes.as_bytes());
            refused(&response, 400, "MANIFEST_INVALID");
        }
    }
    // What the client says and what the document says are the same.
    let response = send(
        &served.address,
        "PUT",
        "/v2/app/manifests/both",
        &[("Content-Type", INDEX)],
        &found.blobs[&found.root.digest],
    );
    refused(&response, 400, "MANIFEST_INVALID");
}

/// CVE-2024-3727: a digest was made part of a path before it was known to be one.
#[tokio::test(flavor = "multi_thread")]
async fn a_digest_is_no_path() {
    let served = Served::layout(WRITABLE).await;
    let hex = "a".repeat(64);
    for digest in [
        "sha256:..%2f..%2f..%2fetc%2fpasswd".to_owned(),
        "sha256:../../../etc/passwd".to_owned(),
        format!("sha256:{}", &hex[1..]),
        format!("sha256:{}", hex.to_uppercase()),
        format!("..:{hex}"),
        format!("sha256:{}%00", &hex[1..]),
    ] {
        for target in [format!("/v2/app/blobs/{digest}"), format!("/v2/app/manifests/{digest}")] {
            let response = served.get(&target);
            assert!(matches!(response.status, 400 | 404), "{target}: {response:?}");
            assert!(!String::from_utf8_lossy(&response.body).contains("root:"), "{target}");
        }
        let target = format!("/v2/app/blobs/uploads/?digest={digest}");
        refused(&send(&served.address, "POST", &target, &[], b"x"), 400, "DIGEST_INVALID");
    }
    for reference in [hex.as_str(), "../x"] {
        let layer = json!({ "mediaType": "a/b", "digest": format!("sha256:../{reference}"), "size": 1 });
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": layer, "layers": [] });
        let kind = [("Content-Type", MANIFEST)];
        let response = send(&served.address, "PUT", "/v2/app/manifests/1", &kind, manifest.to_string().as_bytes());
        refused(&response, 400, "MANIFEST_INVALID");
    }
}

/// CVE-2022-23471: a task was left behind by each client that broke off.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_break_off_leave_nothing_open() {
    let served = Served::layout(WRITABLE).await;
    let descriptors = || {
        let folder = format!("/proc/{}/fd", served.linkspan.pid().as_raw_nonzero());
        std::fs::read_dir(folder).unwrap().count()
    };
    assert_eq!(served.get("/v2/").status, 200);
    let before = descriptors();
    for _ in 0..100 {
        let mut client = TcpStream::connect(&served.address).unwrap();
        let head = "POST /v2/app/blobs/uploads/?digest=sha256:";
        let rest = format!("{} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nonly a part", "a".repeat(64));
        client.write_all(format!("{head}{rest}").as_bytes()).unwrap();
    }
    // A few more are those of the push, and of the store.
    until("the connections to be gone", descriptors, |open| *open <= before + 10);
    assert_eq!(served.get("/v2/").status, 200);
}

/// Blobs were kept in memory, and copied with every piece.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_is_not_kept_in_memory() {
    let served = Served::layout(WRITABLE).await;
    let begun = send(&served.address, "POST", "/v2/app/blobs/uploads/", &[], b"");
    let upload = begun.header("location").unwrap().to_owned();
    let piece: Vec<u8> = (0..1 << 20).map(|at: u32| (at % 251) as u8).collect();
    let before = served.linkspan.peak_bytes();
    for _ in 0..128 {
        assert_eq!(send(&served.address, "PATCH", &upload, &[], &piece).status, 202);
    }
    let whole = Digest::sha256(&piece.repeat(128));
    assert_eq!(send(&served.address, "PUT", &format!("{upload}?digest={whole}"), &[], b"").status, 201);
    let grown = served.linkspan.peak_bytes() - before;
    assert!(grown < 48 << 20, "{grown} bytes for 128 MiB");
}

/// A mount asked only whether a blob is there, and not whether the client may read it.
#[tokio::test(flavor = "multi_thread")]
async fn a_mount_needs_the_right_to_pull() {
    let ruled = Ruled::layout().await;
    let secret = image("not to be mounted");
    assert_eq!(ruled.push("blue", "blue/app", "1", &secret).status, 201);
    let target = format!("/v2/red/app/blobs/uploads/?mount={}&from=blue/app", secret.layers[1].digest);
    assert_eq!(ruled.ask("red", "POST", &target).status, 202);
    // Blue may read there, and may push to a repository of red's.
    let target = target.replace("/v2/red/app/", "/v2/red/shared/");
    assert_eq!(ruled.ask("blue", "POST", &target).status, 201);
}

/// The ids of uploads could be guessed, or used in other repositories and by other clients.
#[tokio::test(flavor = "multi_thread")]
async fn the_id_of_an_upload_is_of_use_to_its_client_in_its_repository_only() {
    let ruled = Ruled::layout().await;
    let begun = ruled.send("blue", "POST", "/v2/red/shared/blobs/uploads/", "", b"");
    let upload = begun.header("location").unwrap().to_owned();
    let id = upload.rsplit_once('/').unwrap().1;
    assert!(id.split('.').all(|part| part.len() == 32), "{id}: twice 128 bits");
    for (user, target) in [
        ("red", upload.clone()),
        ("admin", upload.clone()),
        ("blue", format!("/v2/blue/app/blobs/uploads/{id}")),
        ("blue", format!("/v2/red/shared/blobs/uploads/{}", id.replace(['a', 'b', 'c', 'd', 'e'], "0"))),
    ] {
        for method in ["GET", "PATCH", "PUT", "DELETE"] {
            let sent = ruled.send(user, method, &target, "", b"");
            assert!(matches!(sent.status, 403 | 404), "{user} {method} {target}: {sent:?}");
        }
    }
    assert_eq!(ruled.ask("blue", "GET", &upload).status, 204);
}

/// Two programs that read one request differently see different requests behind it.
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_can_be_read_in_two_ways_are_refused() {
    let served = Served::layout(WRITABLE).await;
    for lengths in [
        "Content-Length: 3\r\nContent-Length: 4",
        "Content-Length: 3, 4",
        "Content-Length: +3",
        "Content-Length: -1",
        "Transfer-Encoding: gzip, identity",
    ] {
        let head = format!(
            "POST /v2/app/blobs/uploads/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lengths}\r\n\r\nabcd"
        );
        let mut client = TcpStream::connect(&served.address).unwrap();
        client.write_all(head.as_bytes()).unwrap();
        let mut received = Vec::new();
        // A connection that is reset has not been answered either.
        let _ = client.read_to_end(&mut received);
        let status = String::from_utf8_lossy(&received).into_owned();
        assert!(status.starts_with("HTTP/1.1 400") || status.is_empty(), "{lengths}: {status}");
    }
    // With both, the length is that of the pieces, and the connection ends with them.
    let both = "GET /v2/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 60\r\nTransfer-Encoding: chunked\r\n\r\n\
                0\r\n\r\nDELETE /v2/app/manifests/1 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let response = exchange(&served.address, both.as_bytes(), false);
    assert!(matches!(response.status, 200 | 400), "{response:?}");
    assert!(!String::from_utf8_lossy(&response.body).contains("HTTP/1.1"), "a second response: {response:?}");
    let descriptor = Descriptor::new("a/b", Digest::sha256(b"x"), 1);
    assert_eq!(served.get(&format!("/v2/app/blobs/{}", descriptor.digest)).status, 404);
}
