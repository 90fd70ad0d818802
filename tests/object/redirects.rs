//! Clients of the registry door read blobs at the store itself.

use crate::common::{Bucket, Linkspan, Minio, Run, Stack, text};
use crate::faulty::{Fault, Faulty};
use crate::fixture::{Image, Layer, compress, export, names};
use crate::http::{Response, request};
use linkspan::image::{Digest, Platform};

/// A door in front of `bucket`.
#[track_caller]
pub(crate) fn door(bucket: &Bucket, args: &[&str]) -> (Linkspan, String) {
    let flags = bucket.flags();
    let args = [&flags.each_ref().map(String::as_str)[..], args].concat();
    Linkspan::registry_with(Stack::shared(), &args, &bucket.variables())
}

/// An image whose layers are compressed, as crane wants them for its validation.
pub(crate) fn compressed(content: &str) -> Image {
    let plain = [Layer::busybox().tar(), Layer::new().file("etc/greeting", content).tar()];
    let diff_ids = plain.each_ref().map(|layer| Digest::sha256(layer));
    let layers = plain.map(|layer| ("+gzip", compress("+gzip", layer)));
    Image::compressed(&layers, &diff_ids, &Platform::host().architecture)
}

/// The host and the path to which a response leads.
#[track_caller]
pub(crate) fn location(response: &Response) -> (String, String) {
    let location = response.header("location").unwrap().strip_prefix("http://").unwrap();
    let (host, path) = location.split_once('/').unwrap();
    (host.to_owned(), format!("/{path}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_is_at_the_url_that_the_door_gives_for_a_while() {
    let bucket = Minio::shared().bucket();
    let (linkspan, address) = door(&bucket, &["--registry-redirect"]);
    let image = compressed("redirected\n");
    export(&*bucket.engine().await.unwrap().engine, &image, &names(&["app:1"])).await.unwrap();
    let layer = &image.layers[0];
    let (target, bytes) = (format!("/v2/app/blobs/{}", layer.digest), &image.blobs[&layer.digest]);
    let get = |headers: &[(&str, &str)]| request(&address, "GET", &target, headers);

    let response = get(&[]);
    assert_eq!((response.status, response.body.len()), (307, 0), "{response:?}");
    assert_eq!(response.header("docker-content-digest"), Some(layer.digest.as_str()));
    assert_eq!(response.header("cache-control"), Some("no-store"));
    let (host, path) = location(&response);
    assert!(bucket.endpoint.ends_with(&host) && path.contains("X-Amz-Expires=900"), "{path}");
    let read = |path: &str, headers: &[(&str, &str)]| {
        request(&host, "GET", path, &[&[("Host", host.as_str())], headers].concat())
    };
    let whole = read(&path, &[]);
    assert!(whole.status == 200 && whole.body == bytes[..], "{}", whole.status);
    let part = read(&path, &[("Range", "bytes=3-9")]);
    assert_eq!((part.status, &part.body[..]), (206, &bytes[3..10]));
    let forged = read(&path.replace("X-Amz-Expires=900", "X-Amz-Expires=90000"), &[]);
    assert_eq!(forged.status, 403);
    // It is for this blob.
    let other = path
        .replace(layer.digest.hex(), image.config.digest.hex())
        .replace(&format!("/{}/", &layer.digest.hex()[..2]), &format!("/{}/", &image.config.digest.hex()[..2]));
    assert_ne!(other, path);
    assert_eq!(read(&other, &[]).status, 403);

    // A HEAD, and what the client has, is answered here.
    let head = request(&address, "HEAD", &target, &[]);
    assert_eq!((head.status, head.header("content-length")), (200, Some(&*layer.size.to_string())));
    assert_eq!(get(&[("If-None-Match", &format!("\"{}\"", layer.digest))]).status, 304);
    assert_eq!(get(&[("Range", &format!("bytes={}-", layer.size))]).status, 416);
    let absent = request(&address, "GET", &format!("/v2/app/blobs/{}", Digest::sha256(b"absent")), &[]);
    assert_eq!((absent.status, absent.header("location")), (404, None));
    for manifest in ["1", image.root.digest.as_str()] {
        let manifest = request(&address, "GET", &format!("/v2/app/manifests/{manifest}"), &[]);
        assert_eq!((manifest.status, &manifest.body[..]), (200, &image.blobs[&image.root.digest][..]));
    }
    // A client that shows a password would show it to the store of the same host, too.
    let passed = get(&[("Host", "127.0.0.1:5000"), ("Authorization", "Basic dXNlcjpwYXNzd29yZA==")]);
    assert!(passed.status == 200 && passed.body == bytes[..], "{}", passed.status);
    let log = linkspan.log();
    assert!(!log.contains("X-Amz-Signature") && !log.contains("X-Amz-Credential"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_are_passed_through_unless_the_store_is_to_be_reached() {
    let bucket = Minio::shared().bucket();
    let image = compressed("passed through\n");
    export(&*bucket.engine().await.unwrap().engine, &image, &names(&["app:1"])).await.unwrap();
    let (_linkspan, address) = door(&bucket, &[]);
    let target = format!("/v2/app/blobs/{}", image.layers[0].digest);
    let response = request(&address, "GET", &target, &[]);
    assert!(response.status == 200 && response.body == image.blobs[&image.layers[0].digest][..]);
    // An engine that has no store of its own.
    let folder = tempfile::tempdir().unwrap();
    let args =
        ["serve", "--registry-listen", "tcp://127.0.0.1:0", "--registry-redirect", "--layout", text(folder.path())];
    let output = crate::common::linkspan(args).args(["--engine", "layout"]).fails();
    assert!(output.stderr.contains("--registry-redirect") && output.stderr.contains("layout"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_follow_to_the_store() {
    let (stack, bucket) = (Stack::shared(), Minio::shared().bucket());
    let proxy = Faulty::start(&bucket, |_, _| Fault::Pass).await;
    let (_linkspan, address) = door(&proxy.bucket(&bucket), &["--registry-redirect"]);
    let image = compressed("followed\n");
    export(&*bucket.engine().await.unwrap().engine, &image, &names(&["clients/followed:1"])).await.unwrap();
    let (name, digest) = (format!("{address}/clients/followed:1"), image.root.digest.as_str());
    // How many blobs were read by URLs since the last time.
    let mut before = 0;
    let mut followed = || {
        let all = proxy.seen().iter().filter(|line| line.contains("X-Amz-Signature")).count();
        all - std::mem::replace(&mut before, all)
    };
    stack.run("crane").args(["validate", "--remote", &name]).ok();
    assert!(followed() >= 3, "{:?}", proxy.seen());
    stack.run("crane").args(["pull", &format!("{address}/clients/followed@{digest}"), "/dev/null"]).ok();
    assert!(followed() >= 3, "{:?}", proxy.seen());
    let folder = tempfile::tempdir().unwrap();
    let to = format!("oci:{}:1", text(folder.path()));
    let copy = ["--insecure-policy", "copy", "--src-tls-verify=false", "--preserve-digests"];
    Run::new("skopeo").args(copy).args([&format!("docker://{name}"), &to]).ok();
    assert!(followed() >= 3, "{:?}", proxy.seen());
    stack.ctr("object-redirected", ["images", "pull", "--plain-http", &name]).ok();
    assert_eq!(stack.image_of("object-redirected", &name).as_deref(), Some(digest));
    // Its containerd may have the base from another test.
    assert!(followed() >= 2, "{:?}", proxy.seen());
    // Of the first image its containerd has all layers by now.
    let (other, name) = (compressed("by docker\n"), format!("{address}/clients/docker:1"));
    export(&*bucket.engine().await.unwrap().engine, &other, &names(&["clients/docker:1"])).await.unwrap();
    stack.docker(["pull", "--quiet", &name]).ok();
    assert_eq!(stack.docker(["run", "--rm", &name, "cat", "/etc/greeting"]).ok().stdout, "by docker\n");
    assert!(followed() >= 2, "{:?}", proxy.seen());
    if stack.find_program("oras").is_some() {
        let folder = tempfile::tempdir().unwrap();
        stack.run("oras").args(["copy", "--from-plain-http", "--to-oci-layout", &name, text(folder.path())]).ok();
        assert!(followed() >= 3, "{:?}", proxy.seen());
    }
}
