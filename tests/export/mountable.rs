//! Blobs that another namespace of the same containerd holds: mountable for the engine, `ADOPTABLE` in the API.

use containerd_client::services::v1::{WriteAction, WriteContentRequest};
use futures_util::stream;
use linkspan::export_v1::proto::{CapabilitiesRequest, Descriptor, Negotiated, Standing};
use tonic::{Code, Status};

use crate::client::{Content, descriptors, success, target};
use crate::common::until;
use crate::containerd::Containerd;
use crate::fixture::{Image, Layer};
use crate::server::Server;

fn image(content: &str) -> Image {
    Image::new(&[Layer::new().file("one", content).tar(), Layer::new().file("two", content.repeat(5000)).tar()])
}

/// Exports `image` through `server`.
async fn export(server: &Server, image: &Image, name: &str) {
    let client = server.client().await;
    let export = client.open(&["a"]).await;
    client.send(&export, image).await;
    success(&client.commit(&export, vec![target("a", image, &[name])]).await.unwrap());
}

/// Takes a blob: one message without a byte of it.
async fn take(mut content: Content, blob: &Descriptor) -> Result<(), Status> {
    let message = WriteContentRequest {
        action: WriteAction::Commit.into(),
        r#ref: blob.digest.clone(),
        total: blob.size,
        expected: blob.digest.clone(),
        offset: blob.size,
        ..WriteContentRequest::default()
    };
    let mut responses = content.write(stream::iter([message])).await?.into_inner();
    let response = responses.message().await?.unwrap();
    assert_eq!((&response.digest, response.offset), (&blob.digest, blob.size));
    Ok(())
}

fn standings(negotiated: &[Negotiated]) -> Vec<Standing> {
    negotiated.iter().map(Negotiated::standing).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_of_another_namespace_is_taken_without_its_bytes() {
    let (here, there) = (Server::containerd("adopt-here"), Server::containerd("adopt-there"));
    let image = image("adopted");
    export(&there, &image, "adopted").await;
    let client = here.client().await;
    let (opened, blobs) = (client.open(&["a"]).await, descriptors(&image));
    let mut requested = blobs.clone();
    // Nobody has a blob of this size.
    requested[3].size += 1;
    let negotiated = client.negotiate(&opened, requested).await.unwrap();
    let adoptable = Standing::Adoptable;
    assert_eq!(standings(&negotiated), [adoptable, adoptable, adoptable, Standing::Missing]);
    assert!(negotiated.iter().all(|blob| blob.r#ref == blob.digest && blob.offset == 0));
    for blob in &blobs {
        take(client.content(&opened), blob).await.unwrap();
    }
    assert_eq!(standings(&client.negotiate(&opened, blobs).await.unwrap()), [Standing::Present; 4]);
    success(&client.commit(&opened, vec![target("a", &image, &["adopted"])]).await.unwrap());
    // It is an image of its own: that of the other namespace may go.
    there.until_released();
    let name = "docker.io/library/adopted:latest";
    there.stack.ctr("adopt-there", ["images", "rm", "--sync", name]).ok();
    until("the other one's blobs to go", || there.stack.blobs("adopt-there"), Vec::is_empty);
    assert_eq!(here.stack.image_of("adopt-here", name), Some(image.root.digest.to_string()));
    let layer = &image.layers[1].digest;
    let read = here.stack.ctr("adopt-here", ["content", "get", layer.as_str()]).ok().stdout;
    assert_eq!(read.as_bytes(), &image.blobs[layer][..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_gone_since_must_be_sent() {
    let server = Server::containerd("adopt-gone");
    let (client, image) = (server.client().await, image("gone"));
    let export = client.open(&["a"]).await;
    let status = take(client.content(&export), &descriptors(&image)[2]).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    assert_eq!(client.send(&export, &image).await, 4);
    success(&client.commit(&export, vec![target("a", &image, &["gone"])]).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_taken_where_namespaces_are_isolated() {
    let policy = "[plugins.\"io.containerd.metadata.v1.bolt\"]\ncontent_sharing_policy = \"isolated\"\n";
    let containerd = Containerd::start(policy);
    let address = containerd.address();
    let (here, there) = (Server::containerd_at(address, "here"), Server::containerd_at(address, "there"));
    let image = image("isolated");
    export(&there, &image, "isolated").await;
    let client = here.client().await;
    let capabilities = client.exports.clone().capabilities(CapabilitiesRequest {}).await.unwrap().into_inner();
    assert!(!capabilities.engine.unwrap().sharing.unwrap().namespaces);
    let (opened, blobs) = (client.open(&["a"]).await, descriptors(&image));
    assert_eq!(standings(&client.negotiate(&opened, blobs.clone()).await.unwrap()), [Standing::Missing; 4]);
    let status = take(client.content(&opened), &blobs[3]).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    drop((here, there));
    containerd.end();
}
