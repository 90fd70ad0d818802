//! What is refused, and that it changes nothing.

use bytes::Bytes;
use linkspan::export_v1::proto::{Exporter, OpenRequest, Reason, Standing};
use tonic::Code;
use tonic_types::StatusExt;

use crate::client::{descriptor, descriptors, exporter, fields, reason, success, target, write};
use crate::fixture::{Image, Layer};
use crate::server::Server;

fn image(content: &str) -> Image {
    Image::new(&[Layer::new().file("etc/greeting", content).tar(), Layer::new().file("other", content).tar()])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_names_everything_that_is_wrong() {
    let server = Server::containerd("bad-open");
    let mut client = server.client().await.exports;
    let mut wrong = exporter("x y");
    wrong.attributes = [("push", "true"), ("unpack", "maybe"), ("name", "UPPER")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    let request = OpenRequest {
        export_id: "Not An Id".to_owned(),
        exporters: vec![wrong, exporter("a"), exporter("a")],
        ..OpenRequest::default()
    };
    let status = client.open(request).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
    let mut found = fields(&status);
    found.sort();
    assert_eq!(
        found,
        [
            "export_id",
            "exporters[0].attributes[name]",
            "exporters[0].attributes[push]",
            "exporters[0].attributes[unpack]",
            "exporters[0].id",
            "exporters[2].id",
        ]
    );
    let status = client.open(OpenRequest::default()).await.unwrap_err();
    assert_eq!(fields(&status), ["exporters"]);
    let unknown = Exporter { r#type: "flatpak".to_owned(), ..exporter("a") };
    let status = client.open(OpenRequest { exporters: vec![unknown], ..OpenRequest::default() }).await.unwrap_err();
    assert_eq!(reason(&status), "UNKNOWN_EXPORTER_TYPE");
    assert_eq!(status.get_error_details().error_info().unwrap().metadata["available"], "image,oci,docker,tar,local");
    assert!(status.message().contains("flatpak") && status.message().contains("image"), "{}", status.message());
    let long = [("x".to_owned(), "y".repeat(40_000))].into();
    let request = OpenRequest { exporters: vec![exporter("a")], labels: long, ..OpenRequest::default() };
    let status = client.open(request).await.unwrap_err();
    assert_eq!(status.get_error_details().error_info().unwrap().metadata["limit"], "record_bytes");
    assert_eq!(server.stack.leases("bad-open"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_finds_the_same_export() {
    let server = Server::containerd("bad-key");
    let mut client = server.client().await.exports;
    let request =
        OpenRequest { exporters: vec![exporter("a")], idempotency_key: "build 1".to_owned(), ..OpenRequest::default() };
    let (one, other) =
        tokio::join!(async { client.clone().open(request.clone()).await.unwrap().into_inner() }, async {
            client.clone().open(request.clone()).await.unwrap().into_inner()
        });
    assert_eq!(one.export.unwrap().id, other.export.unwrap().id);
    assert_ne!(one.found, other.found, "one of them opened it");
    let status = client.open(OpenRequest { exporters: vec![exporter("b")], ..request }).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::AlreadyExists, "EXPORT_CONFLICT"));
    assert_eq!(server.stack.leases("bad-key").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_missing_blobs_are_listed() {
    let server = Server::containerd("bad-missing");
    let client = server.client().await;
    let image = image("missing");
    let export = client.open(&["a"]).await;
    write(client.content(&export), image.root.digest.as_str(), &image.blobs[&image.root.digest]).await.unwrap();
    let results = client.commit(&export, vec![target("a", &image, &["missing"])]).await.unwrap();
    let error = results.results[0].error.clone().unwrap();
    assert_eq!(error.reason(), Reason::BlobsMissing);
    let mut expected: Vec<_> = image.layers.iter().chain([&image.config]).map(|blob| blob.digest.to_string()).collect();
    expected.sort();
    let found: Vec<_> = error.violations.iter().map(|violation| violation.field.clone()).collect();
    assert_eq!(found, expected);
    assert_eq!(server.stack.images("bad-missing"), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_does_not_match_is_refused_and_can_be_sent_again() {
    let server = Server::containerd("bad-blob");
    let client = server.client().await;
    let image = image("corrupt");
    let export = client.open(&["a"]).await;
    let digest = image.layers[0].digest.as_str();
    let good = &image.blobs[&image.layers[0].digest];
    let mut bytes = good.to_vec();
    bytes[0] ^= 1;
    let status = write(client.content(&export), digest, &Bytes::from(bytes)).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "BLOB_CORRUPT"));
    assert_eq!(fields(&status), [digest]);
    client.send(&export, &image).await;
    success(&client.commit(&export, vec![target("a", &image, &["mended"])]).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_contradicts_itself_never_becomes_visible() {
    let server = Server::containerd("bad-document");
    let client = server.client().await;
    let mut image = image("both");
    let mut json: serde_json::Value = serde_json::from_slice(&image.blobs[&image.root.digest]).unwrap();
    json["manifests"] = serde_json::json!([]);
    let bytes = Bytes::from(serde_json::to_vec(&json).unwrap());
    let export = client.open(&["a"]).await;
    client.send(&export, &image).await;
    image.root.digest = linkspan::image::Digest::sha256(&bytes);
    image.root.size = bytes.len() as u64;
    write(client.content(&export), image.root.digest.as_str(), &bytes).await.unwrap();
    let results = client.commit(&export, vec![target("a", &image, &["both"])]).await.unwrap();
    let error = results.results[0].error.clone().unwrap();
    assert_eq!((error.reason(), error.code), (Reason::DocumentInvalid, Code::InvalidArgument as i32), "{error:?}");
    assert_eq!(server.stack.images("bad-document"), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_names_every_wrong_field() {
    let server = Server::containerd("bad-commit");
    let client = server.client().await;
    let image = image("fields");
    let export = client.open(&["a", "b"]).await;
    let layer = descriptor(&image.layers[0]);
    let mut wrong = target("b", &image, &["UPPER"]);
    wrong.root = Some(layer);
    let status = client.commit(&export, vec![target("nobody", &image, &[]), wrong]).await.unwrap_err();
    assert_eq!(fields(&status), ["targets[0].exporter_id", "targets[1].root.media_type", "targets[1].names[0]"]);
    let status = client.commit(&export, Vec::new()).await.unwrap_err();
    assert_eq!(fields(&status), ["targets"]);
    let status = client.commit("nothing", vec![target("a", &image, &[])]).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "EXPORT_NOT_FOUND"));
    let status = client.commit("", vec![target("a", &image, &[])]).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "EXPORT_REQUIRED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_size_is_negotiated_as_missing_and_refused_at_last() {
    let server = Server::containerd("bad-size");
    let client = server.client().await;
    let image = image("size");
    let export = client.open(&["a"]).await;
    client.send(&export, &image).await;
    success(&client.commit(&export, vec![target("a", &image, &["size"])]).await.unwrap());
    let export = client.open(&["a"]).await;
    let mut wrong = descriptor(&image.layers[0]);
    wrong.size += 1;
    let negotiated = client.negotiate(&export, vec![wrong.clone(), descriptor(&image.config)]).await.unwrap();
    let standing: Vec<_> = negotiated.iter().map(|blob| blob.standing()).collect();
    assert_eq!(standing, [Standing::Missing, Standing::Present], "the standing of the others is reported");
    wrong.digest = "sha256:../../etc/passwd".to_owned();
    wrong.size = -1;
    let status = client.negotiate(&export, vec![wrong]).await.unwrap_err();
    assert_eq!(fields(&status), ["descriptors[0].digest", "descriptors[0].size"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_damaged_blob_of_the_engine_is_missing_and_the_rest_is_there() {
    let (server, layout) = Server::layout();
    let client = server.client().await;
    let image = Image::new(&[Layer::new().file("one", "first").tar(), Layer::new().file("two", "second").tar()]);
    let export = client.open(&["a"]).await;
    client.send(&export, &image).await;
    success(&client.commit(&export, vec![target("a", &image, &["damaged"])]).await.unwrap());
    let file = |digest: &linkspan::image::Digest| layout.join("blobs/sha256").join(digest.hex());
    let expected = |absent: &linkspan::image::Digest| {
        let standing = |blob: &linkspan::image::Descriptor| match blob.digest == *absent {
            true => Standing::Missing,
            false => Standing::Present,
        };
        image.graph().descriptors().map(standing).collect::<Vec<_>>()
    };
    let negotiated = async || {
        let export = client.open(&["a"]).await;
        let negotiated = client.negotiate(&export, descriptors(&image)).await.unwrap();
        negotiated.iter().map(|blob| blob.standing()).collect::<Vec<_>>()
    };
    // Too short, as after a power loss.
    let layer = &image.layers[0].digest;
    let whole = std::fs::read(file(layer)).unwrap();
    std::fs::write(file(layer), &whole[..100]).unwrap();
    assert_eq!(negotiated().await, expected(layer));
    std::fs::write(file(layer), whole).unwrap();
    // A manifest of the right length and other bytes.
    let root = &image.root.digest;
    std::fs::write(file(root), vec![b' '; image.root.size as usize]).unwrap();
    assert_eq!(negotiated().await, expected(root));
}
