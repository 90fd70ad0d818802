//! Uploads of blobs, by raw requests.

use linkspan::image::{Algorithm, Digest};

use crate::common::Stack;
use crate::http::{Response, exchange, request, send, stream};
use crate::served::Served;

const WRITABLE: &[&str] = &["--registry-writable"];

/// Content that no other test has.
pub(crate) fn content(name: &str, length: usize) -> Vec<u8> {
    name.bytes().cycle().enumerate().map(|(at, byte)| byte.wrapping_add((at / 251) as u8)).take(length).collect()
}

/// Begins an upload and returns where it is sent to.
#[track_caller]
pub(crate) fn begin(served: &Served, name: &str) -> String {
    let begun = send(&served.address, "POST", &format!("/v2/{name}/blobs/uploads/"), &[], b"");
    assert_eq!((begun.status, begun.header("range"), begun.body.len()), (202, Some("0-0"), 0), "{begun:?}");
    let location = begun.header("location").unwrap();
    let id = begun.header("docker-upload-uuid").unwrap();
    assert_eq!(location, format!("/v2/{name}/blobs/uploads/{id}"));
    location.to_owned()
}

#[track_caller]
pub(crate) fn is_created(created: &Response, name: &str, digest: &Digest) {
    assert_eq!(created.status, 201, "{created:?}");
    assert_eq!(created.header("location"), Some(format!("/v2/{name}/blobs/{digest}").as_str()));
    assert_eq!(created.header("docker-content-digest"), Some(digest.as_str()));
}

#[track_caller]
pub(crate) fn is_there(served: &Served, name: &str, bytes: &[u8]) {
    let digest = Digest::sha256(bytes);
    let got = served.get(&format!("/v2/{name}/blobs/{digest}"));
    assert_eq!(got.status, 200);
    assert!(got.body == bytes);
    assert_eq!(served.head(&format!("/v2/{name}/blobs/{digest}")).status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_comes_in_every_way_that_there_is() {
    for served in Served::everywhere("registry-uploads", WRITABLE).await {
        let (name, address) = ("up/app", &served.address);
        for (length, kind) in [(0, "empty"), (1, "one"), (300_000, "some")] {
            let bytes = |way: &str| content(&format!("{kind} {way} {}", served.kind()), length);
            let put = |location: &str, digest: &Digest| format!("{location}?digest={digest}");
            // POST, then all of it with the PUT.
            let whole = bytes("PUT");
            let digest = Digest::sha256(&whole);
            let location = begin(&served, name);
            is_created(&send(address, "PUT", &put(&location, &digest), &[], &whole), name, &digest);
            is_there(&served, name, &whole);
            // Once more: it is there.
            let location = begin(&served, name);
            is_created(&send(address, "PUT", &put(&location, &digest), &[], &whole), name, &digest);
            // A POST alone.
            let whole = bytes("POST");
            let digest = Digest::sha256(&whole);
            let target = format!("/v2/{name}/blobs/uploads/?digest={digest}");
            is_created(&send(address, "POST", &target, &[], &whole), name, &digest);
            is_there(&served, name, &whole);
            // A stream of unknown length, as crane and docker send it, then an empty PUT.
            let whole = bytes("stream");
            let digest = Digest::sha256(&whole);
            let location = begin(&served, name);
            let patched = stream(address, "PATCH", &location, &whole);
            assert_eq!(patched.status, 202, "{patched:?}");
            let last = length.saturating_sub(1);
            assert_eq!(patched.header("range"), Some(format!("0-{last}").as_str()));
            is_created(&send(address, "PUT", &put(&location, &digest), &[], b""), name, &digest);
            is_there(&served, name, &whole);
            // A stream with the PUT.
            let whole = bytes("streamed PUT");
            let digest = Digest::sha256(&whole);
            let location = begin(&served, name);
            is_created(&stream(address, "PUT", &put(&location, &digest), &whole), name, &digest);
            is_there(&served, name, &whole);
            // In chunks, the last one with the PUT.
            let whole = bytes("chunks");
            let digest = Digest::sha256(&whole);
            let location = begin(&served, name);
            let pieces: Vec<_> = whole.chunks(100_000).collect();
            let (last, first) = pieces.split_last().map_or((&b""[..], &[][..]), |(last, first)| (*last, first));
            let mut at = 0;
            for piece in first {
                let range = format!("{at}-{}", at + piece.len() - 1);
                let patched = send(address, "PATCH", &location, &[("Content-Range", &range)], piece);
                assert_eq!((patched.status, patched.header("location")), (202, Some(location.as_str())), "{patched:?}");
                at += piece.len();
                let status = served.get(&location);
                let expected = format!("0-{}", at - 1);
                assert_eq!((status.status, status.header("range")), (204, Some(expected.as_str())));
            }
            is_created(&send(address, "PUT", &put(&location, &digest), &[], last), name, &digest);
            is_there(&served, name, &whole);
            assert_eq!(served.refused(&location), (404, "BLOB_UPLOAD_UNKNOWN".to_owned()), "it has ended");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused_and_the_upload_stays_where_it_was() {
    for served in Served::everywhere("registry-refused", WRITABLE).await {
        let (name, address) = ("refused/app", &served.address);
        let whole = content(&format!("refused {}", served.kind()), 1000);
        let digest = Digest::sha256(&whole);
        let location = begin(&served, name);
        let refused = |response: Response, status: u16, code: &str| {
            assert_eq!((response.status, response.code().as_str()), (status, code), "{response:?}");
            response
        };
        let patch = |range: &str, body: &[u8]| send(address, "PATCH", &location, &[("Content-Range", range)], body);
        assert_eq!(patch("0-499", &whole[..500]).status, 202);
        for range in ["0-499", "501-1000", "999-1498"] {
            let answer = refused(patch(range, &whole[500..]), 416, "BLOB_UPLOAD_INVALID");
            assert_eq!(answer.header("range"), Some("0-499"));
            assert_eq!(answer.header("location"), Some(location.as_str()));
        }
        for range in ["500-700", "x-y", "500", "-500", "999-500"] {
            refused(patch(range, &whole[500..]), 400, "SIZE_INVALID");
        }
        let put = |query: &str, headers: &[(&str, &str)], body: &[u8]| {
            send(address, "PUT", &format!("{location}{query}"), headers, body)
        };
        refused(put("", &[], b""), 400, "DIGEST_INVALID");
        refused(put("?digest=sha256:12", &[], b""), 400, "DIGEST_INVALID");
        refused(
            put(&format!("?digest={digest}"), &[("Content-Range", "0-499")], &whole[500..]),
            416,
            "BLOB_UPLOAD_INVALID",
        );
        assert_eq!(served.get(&location).header("range"), Some("0-499"));
        // Of another repository, it is no upload.
        let elsewhere = location.replace(name, "refused/other");
        assert_eq!(served.refused(&elsewhere), (404, "BLOB_UPLOAD_UNKNOWN".to_owned()));
        is_created(&put(&format!("?digest={digest}"), &[("Content-Range", "500-999")], &whole[500..]), name, &digest);

        // A wrong digest ends it.
        for is_patched in [false, true] {
            let location = begin(&served, name);
            let wrong = Digest::sha256(b"something else");
            let body: &[u8] = if is_patched {
                assert_eq!(stream(address, "PATCH", &location, &whole).status, 202);
                b""
            } else {
                &whole
            };
            let response = send(address, "PUT", &format!("{location}?digest={wrong}"), &[], body);
            assert_eq!((response.status, response.code().as_str()), (400, "DIGEST_INVALID"));
            assert_eq!(served.refused(&location), (404, "BLOB_UPLOAD_UNKNOWN".to_owned()));
            assert_eq!(served.head(&format!("/v2/{name}/blobs/{wrong}")).status, 404);
        }
        let post = |query: &str| send(address, "POST", &format!("/v2/{name}/blobs/uploads/{query}"), &[], &whole);
        for query in ["?digest=sha256:12", "?digest=md5:00", "?digest-algorithm=md5"] {
            refused(post(query), 400, "DIGEST_INVALID");
        }
        refused(post(&format!("?digest={}", Digest::sha256(b"no such content"))), 400, "DIGEST_INVALID");
        let target = format!("/v2/{name}/blobs/uploads/?digest={digest}");
        refused(stream(address, "POST", &target, &whole), 411, "SIZE_INVALID");

        let location = begin(&served, name);
        assert_eq!(request(address, "DELETE", &location, &[]).status, 204);
        for method in ["GET", "DELETE", "PATCH"] {
            let response = request(address, method, &location, &[]);
            assert_eq!((response.status, response.code().as_str()), (404, "BLOB_UPLOAD_UNKNOWN"), "{method}");
        }
        let (status, code) = served.refused(&format!("/v2/{name}/blobs/uploads/x.{}", "0".repeat(32)));
        assert_eq!((status, code.as_str()), (404, "BLOB_UPLOAD_UNKNOWN"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_there_is_mounted_and_its_bytes_are_not_waited_for() {
    for served in Served::everywhere("registry-mounts", WRITABLE).await {
        let (name, address) = ("mount/app", &served.address);
        let whole = content(&format!("mounted {}", served.kind()), 100_000);
        let digest = Digest::sha256(&whole);
        let mount = |digest: &str, from: &str| {
            send(address, "POST", &format!("/v2/mount/other/blobs/uploads/?mount={digest}{from}"), &[], b"")
        };
        for from in ["&from=mount/app", ""] {
            assert_eq!(mount(digest.as_str(), from).status, 202, "it is not there");
        }
        let location = begin(&served, name);
        is_created(&send(address, "PUT", &format!("{location}?digest={digest}"), &[], &whole), name, &digest);
        for from in ["&from=mount/app", "", "&from=No/Name"] {
            is_created(&mount(digest.as_str(), from), "mount/other", &digest);
        }
        assert_eq!(mount("nonsense", "&from=mount/app").status, 202);
        // A client that waits for a word before it sends its content learns that it need not.
        let location = begin(&served, name);
        let head = format!(
            "PUT {location}?digest={digest} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\
             Expect: 100-continue\r\n\r\n",
            whole.len()
        );
        is_created(&exchange(address, head.as_bytes(), false), name, &digest);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_of_another_namespace_is_taken_from_there() {
    let stack = Stack::shared();
    let [owner, served] =
        [Served::containerd("registry-owner", WRITABLE).await, Served::containerd("registry-taker", WRITABLE).await];
    let whole = content("of another namespace", 200_000);
    let digest = Digest::sha256(&whole);
    for served in [&owner, &served] {
        let location = begin(served, "taken/app");
        is_created(
            &send(&served.address, "PUT", &format!("{location}?digest={digest}"), &[], &whole),
            "taken/app",
            &digest,
        );
        is_there(served, "taken/app", &whole);
    }
    assert!(stack.blobs("registry-taker").contains(&digest.to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn sha512_is_verified_where_the_store_can() {
    let served = Served::layout(WRITABLE).await;
    let whole = content("sha512", 10_000);
    let digest = Digest::of(Algorithm::Sha512, &whole);
    for is_patched in [false, true] {
        let location = begin(&served, "sha512/app");
        let body: &[u8] = if is_patched {
            assert_eq!(stream(&served.address, "PATCH", &location, &whole).status, 202);
            b""
        } else {
            &whole
        };
        let put = send(&served.address, "PUT", &format!("{location}?digest={digest}"), &[], body);
        is_created(&put, "sha512/app", &digest);
    }
    assert!(served.get(&format!("/v2/sha512/app/blobs/{digest}")).body == whole);
}
