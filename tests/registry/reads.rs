//! Reading manifests and blobs, by raw requests.

use linkspan::engine::EngineKind;
use linkspan::image::Digest;

use crate::fixture::{Image, Layer, MANIFEST, export, names};
use crate::http::{begin, exchange, request};
use crate::served::Served;

/// An image of one layer that no other test has.
fn image(content: &str) -> Image {
    Image::new(&[Layer::busybox().tar(), Layer::new().file("etc/greeting", content).tar()])
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_are_read_by_tag_and_by_digest_as_they_are() {
    for served in Served::everywhere("registry-manifests", &[]).await {
        let image = image("manifests\n");
        let (root, bytes) = (&image.root, &image.blobs[&image.root.digest]);
        export(&*served.engine, &image, &names(&["reads/app:1", "example.com/o/app:1"])).await.unwrap();
        let ping = served.get("/v2/");
        assert_eq!((ping.status, ping.header("docker-distribution-api-version")), (200, Some("registry/2.0")));
        assert_eq!(ping.json(), serde_json::json!({}));
        let by_digest = root.digest.to_string();
        for (name, reference) in [
            ("reads/app", "1"),
            ("reads/app", by_digest.as_str()),
            ("docker.io/reads/app", "1"),
            ("example.com/o/app", "1"),
            ("any/other", &by_digest),
        ] {
            let target = format!("/v2/{name}/manifests/{reference}");
            let (got, head) = (served.get(&target), served.head(&target));
            assert_eq!((got.status, head.status, &got.body[..]), (200, 200, &bytes[..]), "{target}");
            for response in [&got, &head] {
                assert_eq!(response.header("content-type"), Some(MANIFEST));
                assert_eq!(response.header("content-length"), Some(bytes.len().to_string().as_str()));
                assert_eq!(response.header("docker-content-digest"), Some(by_digest.as_str()));
                assert_eq!(response.header("etag"), Some(format!("\"{by_digest}\"").as_str()));
            }
            // Whatever the client accepts.
            let accepts = request(&served.address, "GET", &target, &[("Accept", "text/plain")]);
            assert_eq!((accepts.status, accepts.body.len()), (200, bytes.len()));
            let etag = format!("\"{by_digest}\"");
            for method in ["GET", "HEAD"] {
                let known = request(&served.address, method, &target, &[("If-None-Match", &etag)]);
                assert_eq!((known.status, known.body.len()), (304, 0));
            }
        }
        let layer = &image.layers[0].digest;
        let absent = Digest::sha256(b"absent");
        for (target, expected) in [
            ("/v2/reads/app/manifests/2", (404, "MANIFEST_UNKNOWN")),
            ("/v2/reads/other/manifests/1", (404, "MANIFEST_UNKNOWN")),
            (&format!("/v2/reads/app/manifests/{absent}"), (404, "MANIFEST_UNKNOWN")),
            (&format!("/v2/reads/app/manifests/{layer}"), (404, "MANIFEST_UNKNOWN")),
            ("/v2/reads/app/manifests/sha256:12", (400, "DIGEST_INVALID")),
            ("/v2/reads/app/manifests/md5:00", (400, "DIGEST_INVALID")),
            ("/v2/reads/app/manifests/-x", (400, "TAG_INVALID")),
            (&format!("/v2/reads/app/manifests/{}", "t".repeat(129)), (400, "TAG_INVALID")),
            ("/v2/Reads/app/manifests/1", (400, "NAME_INVALID")),
            ("/v2/reads/../app/manifests/1", (400, "NAME_INVALID")),
            ("/v2/reads%2Fapp/manifests/1", (400, "NAME_INVALID")),
            ("/v2/reads/app", (404, "UNKNOWN")),
            ("/", (404, "UNKNOWN")),
        ] {
            let (status, code) = served.refused(target);
            assert_eq!((status, code.as_str()), expected, "{target}");
            // A HEAD has the same head.
            assert_eq!(served.head(target).status, status, "{target}");
        }
        if served.kind() == EngineKind::Layout {
            assert!(served.linkspan.log().contains("registry door listening on tcp://127.0.0.1:"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_with_the_image_of_one_platform_is_served_as_it_is() {
    for served in Served::everywhere("registry-sparse", &[]).await {
        let (here, there) = (image("here\n"), Image::foreign(&[Layer::new().file("a", "there").tar()]));
        let index = Image::index(&[here.clone(), there.clone()]);
        export(&*served.engine, &index, &names(&["sparse/app:1"])).await.unwrap();
        let got = served.get("/v2/sparse/app/manifests/1");
        assert_eq!((got.status, &got.body[..]), (200, &index.blobs[&index.root.digest][..]));
        for child in [&here, &there] {
            let got = served.get(&format!("/v2/sparse/app/manifests/{}", child.root.digest));
            assert_eq!((got.status, got.header("content-type")), (200, Some(MANIFEST)));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_are_read_whole_and_in_part() {
    for served in Served::everywhere("registry-blobs", &[]).await {
        let image = image("blobs\n");
        export(&*served.engine, &image, &names(&["blobs/app:1"])).await.unwrap();
        for blob in image.layers.iter().chain([&image.config, &image.root]) {
            let (target, bytes) = (format!("/v2/blobs/app/blobs/{}", blob.digest), &image.blobs[&blob.digest]);
            let (got, head) = (served.get(&target), served.head(&target));
            assert_eq!((got.status, head.status), (200, 200));
            assert!(got.body == *bytes, "{} has other bytes", blob.digest);
            for response in [&got, &head] {
                assert_eq!(response.header("content-length"), Some(blob.size.to_string().as_str()));
                assert_eq!(response.header("content-type"), Some("application/octet-stream"));
                assert_eq!(response.header("docker-content-digest"), Some(blob.digest.as_str()));
                assert_eq!(response.header("accept-ranges"), Some("bytes"));
            }
            let etag = format!("\"{}\"", blob.digest);
            assert_eq!(request(&served.address, "GET", &target, &[("If-None-Match", &etag)]).status, 304);
        }
        let layer = &image.layers[0];
        let (target, bytes) = (format!("/v2/blobs/app/blobs/{}", layer.digest), &image.blobs[&layer.digest]);
        let size = bytes.len();
        for (range, start, end) in [
            ("bytes=0-0", 0, 1),
            ("bytes=10-19", 10, 20),
            ("bytes=100-", 100, size),
            ("bytes=-7", size - 7, size),
            ("bytes=5-999999999999", 5, size),
            ("bytes=1000000-1500000", 1_000_000, size.min(1_500_001)),
        ] {
            let part = request(&served.address, "GET", &target, &[("Range", range)]);
            assert_eq!(part.status, 206, "{range}");
            assert!(part.body == bytes[start..end], "{range}");
            assert_eq!(part.header("content-range"), Some(format!("bytes {start}-{}/{size}", end - 1).as_str()));
            let head = request(&served.address, "HEAD", &target, &[("Range", range)]);
            assert_eq!(head.header("content-length"), Some(size.to_string().as_str()), "{range}");
            assert_eq!((head.status, head.header("content-range")), (200, None), "{range}");
        }
        for range in ["bytes=5-2", "bytes=-0", &format!("bytes={size}-")] {
            let refused = request(&served.address, "GET", &target, &[("Range", range)]);
            assert_eq!((refused.status, refused.code().as_str()), (416, "RANGE_INVALID"), "{range}");
            assert_eq!(refused.header("content-range"), Some(format!("bytes */{size}").as_str()));
            assert_eq!(request(&served.address, "HEAD", &target, &[("Range", range)]).status, 200, "{range}");
        }
        let several = request(&served.address, "GET", &target, &[("Range", "bytes=0-1,3-4")]);
        assert_eq!((several.status, several.body.len()), (200, size));
        for (digest, expected) in [
            (Digest::sha256(b"no such blob").to_string(), (404, "BLOB_UNKNOWN")),
            ("sha256:12".to_owned(), (400, "DIGEST_INVALID")),
            (layer.digest.as_str().to_uppercase(), (400, "DIGEST_INVALID")),
            ("sha256:..%2F..%2Fetc".to_owned(), (400, "NAME_INVALID")),
        ] {
            let (status, code) = served.refused(&format!("/v2/blobs/app/blobs/{digest}"));
            assert_eq!((status, code.as_str()), expected, "{digest}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_and_connections_are_those_of_http() {
    let served = Served::layout(&[]).await;
    for (method, target) in [
        ("POST", "/v2/app/blobs/uploads/"),
        ("GET", "/v2/app/blobs/uploads/7"),
        ("PUT", "/v2/app/manifests/1"),
        ("DELETE", "/v2/app/manifests/1"),
        ("PATCH", "/v2/app/blobs/uploads/7"),
        ("OPTIONS", "/v2/"),
    ] {
        let response = request(&served.address, method, target, &[]);
        assert_eq!((response.status, response.code().as_str()), (405, "UNSUPPORTED"), "{method} {target}");
        assert_eq!(response.header("allow"), Some("GET, HEAD"));
    }
    let old = exchange(&served.address, b"GET /v2/ HTTP/1.0\r\n\r\n", false);
    assert_eq!(old.status, 200);
    let status = served.get("/_linkspan/status").json();
    assert_eq!(status["door"]["kind"], "registry");
    assert_eq!(status["door"]["address"], format!("tcp://{}", served.address));
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_pause_hold_up_nobody() {
    for served in Served::everywhere("registry-pauses", &[]).await {
        // More than the buffers of a connection hold.
        let noise = format!("{:?}\n", served.kind()).repeat(3_000_000);
        let image = Image::new(&[Layer::new().file("noise", &noise).tar()]);
        export(&*served.engine, &image, &names(&["pauses:1"])).await.unwrap();
        let target = format!("/v2/pauses/blobs/{}", image.layers[0].digest);
        let paused: Vec<_> = (0..24).map(|_| begin(&served.address, &target)).collect();
        for target in ["/v2/pauses/tags/list", "/v2/pauses/manifests/1", &target] {
            assert_eq!(served.get(target).status, 200, "{:?}: {target}", served.kind());
        }
        drop(paused);
    }
}
