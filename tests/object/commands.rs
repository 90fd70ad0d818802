//! The commands on a bucket.

use crate::common::{Minio, Stack, text};
use crate::fixture::{Image, export, image, names};

/// Name and digest of each image.
const LISTED: &str = "{{.Repository}}:{{.Tag}} {{.Digest}}";

/// An OCI layout with `image` as `name`, for commands to read.
pub(crate) async fn layout(image: &Image, name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let engine = crate::names::layout(folder.path()).await;
    export(&*engine, image, &names(&[name])).await.unwrap();
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_copied_into_a_bucket_listed_and_copied_back() {
    let bucket = Minio::shared().bucket();
    let (image, digest) = (image("in a bucket\n"), image("in a bucket\n").root.digest.to_string());
    let folder = layout(&image, "demo:1").await;
    let from = format!("oci:{}:demo:1", text(folder.path()));
    let to = format!("{}:", bucket.address());
    let first = bucket.with(["copy", &from, &to, "--json"]).ok();
    let again = bucket.with(["copy", &from, &to, "--json"]).ok();
    let sent = |output: &str| serde_json::from_str::<serde_json::Value>(output).unwrap();
    assert_ne!(sent(&first.stdout), sent(&again.stdout), "the second one had nothing to send");

    let listed = bucket.linkspan(["images", "--format", LISTED]).ok().stdout;
    assert_eq!(listed.trim(), format!("demo:1 {digest}"));
    let inspected = bucket.linkspan(["inspect", "demo:1"]).ok().stdout;
    assert!(inspected.contains(&digest), "{inspected}");

    let archive = Stack::shared().fresh_path(".tar");
    bucket.linkspan(["save", "-o", text(&archive), "demo:1"]).ok();
    let other = Minio::shared().bucket();
    other.linkspan(["load", "-i", text(&archive)]).ok();
    let back = tempfile::tempdir().unwrap();
    let to = format!("oci:{}:back:1", text(back.path()));
    other.with(["copy", &format!("{}:demo:1", other.address()), &to]).ok();
    let resolved = crate::names::layout(back.path()).await.resolve(&names(&["back:1"])[0]).await.unwrap();
    assert_eq!(resolved.as_ref(), Some(&image.root.digest));

    let at = |name: &str| format!("{}:{name}", bucket.address());
    bucket.with(["copy", &at("demo:1"), &at("ghcr.io/o/demo:2")]).ok();
    bucket.linkspan(["rm", "demo:1"]).ok();
    let listed = bucket.linkspan(["images", "--format", LISTED]).ok().stdout;
    assert_eq!(listed.trim(), format!("ghcr.io/o/demo:2 {digest}"));
    assert!(!bucket.keys().iter().any(|key| key.starts_with("_linkspan/leases/")), "no lease is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_without_a_name_is_kept_and_found_by_its_digest() {
    let bucket = Minio::shared().bucket();
    let image = image("without a name\n");
    let engine = bucket.engine().await.unwrap().engine;
    export(&*engine, &image, &[]).await.unwrap();
    let listed = bucket.linkspan(["images", "--format", LISTED]).ok().stdout;
    assert!(listed.contains(image.root.digest.as_str()), "{listed}");
    engine.tag(&image.root, &names(&["named:1"])[0]).await.unwrap();
    let records = engine.images().unwrap().list(&linkspan::engine::images::Query::default()).await.unwrap().records;
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!(records[0].name.as_deref(), Some("docker.io/library/named:1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_bucket_is_said_with_what_to_do() {
    use crate::common::refusal;
    let bucket = Minio::shared().bucket();
    let mut none = bucket.clone();
    none.name = "no-such-bucket".to_owned();
    let output = none.linkspan(["images"]).fails();
    assert!(
        refusal(&output).contains("s3://no-such-bucket/some/prefix") && output.stderr.contains("create the bucket")
    );
    let output = bucket.linkspan(["images"]).env("AWS_SECRET_ACCESS_KEY", "wrong").fails();
    assert!(refusal(&output).contains("credentials"), "{output}");
    let output = bucket.linkspan(["images"]).without_env("AWS_ALLOW_HTTP").fails();
    assert!(refusal(&output).contains("AWS_ALLOW_HTTP"), "{output}");
    let output = bucket.linkspan(["images"]).env("AWS_ENDPOINT_URL", "127.0.0.1:39000").fails();
    assert!(refusal(&output).contains("the endpoint `127.0.0.1:39000` needs http:// or https://"), "{output}");
    let nothing = tempfile::tempdir().unwrap();
    std::fs::write(nothing.path().join("none.pem"), "").unwrap();
    let without = bucket.linkspan(["images"]).env("SSL_CERT_FILE", nothing.path().join("none.pem"));
    let output = without.env("SSL_CERT_DIR", nothing.path()).fails();
    assert!(refusal(&output).contains("this system has no certificate authorities"), "{output}");
    assert!(output.stderr.contains("hint: install them (package ca-certificates)"), "{output}");
    let output = bucket.with(["images", "--object", "s3://Upper"]).fails();
    assert!(output.stderr.contains("s3://Upper"), "{output}");
    let output = bucket.with(["images", "--engine", "object"]).fails();
    assert!(output.stderr.contains("--object s3://"), "{output}");
    // A name that no registry's path can hold.
    let folder = layout(&image("with a port\n"), "registry:5000/app:1").await;
    let from = format!("oci:{}:registry:5000/app:1", text(folder.path()));
    let output = bucket.with(["copy", &from, &format!("{}:", bucket.address())]).fails();
    assert!(refusal(&output).contains("registry:5000/app:1"), "{output}");
}
