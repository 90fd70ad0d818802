//! The Content service is the export's own store.

use bytes::Bytes;
use containerd_client::services::v1::{
    AbortRequest, DeleteContentRequest, InfoRequest, ListContentRequest, ListStatusesRequest, ReadContentRequest,
    StatusRequest, WriteAction, WriteContentRequest,
};
use futures_util::stream;
use linkspan::export_v1::proto::Standing;
use linkspan::image::Digest;
use tonic::Code;

use crate::client::{Client, Content, descriptor, reason, small_image, success, target, write};
use crate::server::Server;

async fn info(content: &mut Content, digest: &Digest) -> Result<i64, Code> {
    let response = content.info(InfoRequest { digest: digest.to_string() }).await;
    response.map(|response| response.into_inner().info.unwrap().size).map_err(|status| status.code())
}

async fn digests(content: &mut Content, filters: &[&str]) -> Vec<String> {
    let filters = filters.iter().map(|&filter| filter.to_owned()).collect();
    let mut responses = content.list(ListContentRequest { filters }).await.unwrap().into_inner();
    let mut found = Vec::new();
    while let Some(response) = responses.message().await.unwrap() {
        found.extend(response.info.into_iter().map(|info| info.digest));
    }
    found
}

async fn read(content: &mut Content, digest: &Digest, offset: i64, size: i64) -> Result<Vec<u8>, Code> {
    let request = ReadContentRequest { digest: digest.to_string(), offset, size };
    let mut responses = content.read(request).await.map_err(|status| status.code())?.into_inner();
    let mut bytes = Vec::new();
    while let Some(response) = responses.message().await.map_err(|status| status.code())? {
        bytes.extend(response.data);
    }
    Ok(bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_outside_the_scope_does_not_exist() {
    let server = Server::containerd("scope");
    let client = server.client().await;
    let image = small_image("scope");
    let export = client.open(&["a"]).await;
    client.send(&export, &image).await;
    success(&client.commit(&export, vec![target("a", &image, &["scope"])]).await.unwrap());

    let (layer, bytes) = (&image.layers[0].digest, &image.blobs[&image.layers[0].digest]);
    let export = client.open(&["a"]).await;
    let mut content = client.content(&export);
    assert_eq!(info(&mut content, layer).await, Err(Code::NotFound));
    assert_eq!(read(&mut content, layer, 0, 0).await, Err(Code::NotFound));
    assert_eq!(digests(&mut content, &[]).await, [""; 0]);
    let delete = DeleteContentRequest { digest: layer.to_string() };
    assert_eq!(content.delete(delete.clone()).await.unwrap_err().code(), Code::NotFound);

    // Whoever can name it has it.
    let status = write(client.content(&export), layer.as_str(), bytes).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);
    assert_eq!(info(&mut content, layer).await, Ok(bytes.len() as i64));
    assert_eq!(read(&mut content, layer, 0, 0).await.unwrap(), bytes[..]);
    assert_eq!(read(&mut content, layer, 10, 20).await.unwrap(), bytes[10..30]);
    assert_eq!(read(&mut content, layer, bytes.len() as i64, 0).await.unwrap(), b"");
    assert_eq!(read(&mut content, layer, bytes.len() as i64 + 1, 0).await, Err(Code::OutOfRange));
    assert_eq!(digests(&mut content, &[]).await, [layer.to_string()]);
    assert_eq!(digests(&mut content, &[&format!("digest!={layer}")]).await, [""; 0]);

    // Deleting leaves the scope, and the image as it was.
    content.delete(delete).await.unwrap();
    assert_eq!(info(&mut content, layer).await, Err(Code::NotFound));
    server.stack.ctr("scope", ["images", "check"]).ok();
    assert_eq!(server.stack.blobs("scope").len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_export_is_no_missing_blob() {
    let server = Server::containerd("lost");
    let client = server.client().await;
    let digest = Digest::sha256(b"x").to_string();
    let status = client.content("nothing").info(InfoRequest { digest: digest.clone() }).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "EXPORT_NOT_FOUND"));
    let mut bare = containerd_client::services::v1::content_client::ContentClient::new(client.channel.clone());
    let status = bare.info(InfoRequest { digest }).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "EXPORT_REQUIRED"));
}

/// Begins a blob and goes away.
async fn begin(client: &Client, export: &str, name: &str, digest: &Digest, bytes: &[u8], total: usize) {
    let first = WriteContentRequest {
        action: WriteAction::Write.into(),
        r#ref: name.to_owned(),
        total: total as i64,
        expected: digest.to_string(),
        data: bytes.to_vec(),
        ..WriteContentRequest::default()
    };
    let mut responses = client.content(export).write(stream::iter([first])).await.unwrap().into_inner();
    assert_eq!(responses.message().await.unwrap().unwrap().offset, bytes.len() as i64);
    while responses.message().await.unwrap().is_some() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_is_resumed_where_it_was_left() {
    let server = Server::containerd("partial");
    let client = server.client().await;
    let image = small_image("partial");
    let (layer, bytes) = (&image.layers[0].digest, image.blobs[&image.layers[0].digest].clone());
    let export = client.open(&["a"]).await;
    begin(&client, &export, layer.as_str(), layer, &bytes[..4000], bytes.len()).await;
    let other = client.open(&["a"]).await;
    let mut content = client.content(&other);
    assert_eq!(content.list_statuses(ListStatusesRequest::default()).await.unwrap().into_inner().statuses, []);
    let status = content.status(StatusRequest { r#ref: layer.to_string() }).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "refs belong to their export");

    let negotiated = client.negotiate(&export, vec![descriptor(&image.layers[0])]).await.unwrap();
    assert_eq!((negotiated[0].standing(), negotiated[0].offset), (Standing::Partial, 4000));
    assert_eq!(negotiated[0].r#ref, layer.to_string());
    let mut content = client.content(&export);
    let status = content.status(StatusRequest { r#ref: layer.to_string() }).await.unwrap().into_inner().status.unwrap();
    assert_eq!((status.offset, status.r#ref.as_str()), (4000, layer.as_str()));
    let rest = WriteContentRequest {
        action: WriteAction::Commit.into(),
        r#ref: layer.to_string(),
        total: bytes.len() as i64,
        expected: layer.to_string(),
        offset: 4000,
        data: bytes[4000..].to_vec(),
        ..WriteContentRequest::default()
    };
    let mut responses = content.write(stream::iter([rest])).await.unwrap().into_inner();
    assert_eq!(responses.message().await.unwrap().unwrap().digest, layer.to_string());
    assert_eq!(info(&mut content, layer).await, Ok(bytes.len() as i64));

    begin(&client, &export, "another", &Digest::sha256(b"y"), b"half", 10).await;
    content.abort(AbortRequest { r#ref: "another".to_owned() }).await.unwrap();
    assert_eq!(content.abort(AbortRequest { r#ref: "another".to_owned() }).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(content.list_statuses(ListStatusesRequest::default()).await.unwrap().into_inner().statuses, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_may_have_sixteen_mebibytes_and_no_more() {
    let server = Server::containerd("large");
    let client = server.client().await;
    let export = client.open(&["a"]).await;
    let bytes = Bytes::from(vec![7; (16 << 20) - 1024]);
    let digest = Digest::sha256(&bytes);
    write(client.content(&export), digest.as_str(), &bytes).await.unwrap();
    let bytes = Bytes::from(vec![7; 16 << 20]);
    let status = write(client.content(&export), Digest::sha256(&bytes).as_str(), &bytes).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_of_another_namespace_needs_no_bytes() {
    let (here, there) = (Server::containerd("take-here"), Server::containerd("take-there"));
    let image = small_image("adopt");
    let (layer, size) = (&image.layers[0].digest, image.layers[0].size as i64);
    let client = there.client().await;
    let export = client.open(&["a"]).await;
    client.send(&export, &image).await;

    let client = here.client().await;
    let export = client.open(&["a"]).await;
    let first = WriteContentRequest {
        action: WriteAction::Stat.into(),
        r#ref: layer.to_string(),
        total: size,
        expected: layer.to_string(),
        ..WriteContentRequest::default()
    };
    let commit = WriteContentRequest { action: WriteAction::Commit.into(), offset: size, ..first.clone() };
    let mut content = client.content(&export);
    let mut responses = content.write(stream::iter([first, commit])).await.unwrap().into_inner();
    assert_eq!(responses.message().await.unwrap().unwrap().offset, size);
    assert_eq!(responses.message().await.unwrap().unwrap().digest, layer.to_string());
    assert_eq!(read(&mut content, layer, 0, 0).await.unwrap(), image.blobs[layer][..]);
}
