//! The programs of the crate's documentation, as they run: a layout into an engine, the API in a server of one's own, and a copy
//! from a registry, which here is a layout behind the registry door.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use linkspan::door::registry::{Door, Settings};
use linkspan::engine::{Engine, select};
use linkspan::export::Exports;
use linkspan::export_v1::proto::exports_client::ExportsClient;
use linkspan::export_v1::proto::{
    CapabilitiesRequest, CommitRequest, Exporter, NegotiateRequest, OpenRequest, Standing, Target,
};
use linkspan::image::Descriptor;
use linkspan::net::{Connection, Principal};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{artifact, copy, layout, program, serve};

/// A layout with an image called `demo:1`.
async fn layout_with_image(folder: &Path) -> Descriptor {
    let mut blobs = HashMap::new();
    let root = artifact(&mut blobs);
    program::export(folder, root.clone(), program::Memory(blobs)).await.unwrap();
    root
}

async fn engine(folder: &Path) -> Arc<dyn Engine> {
    select::select(&select::Selection::layout(folder)).await.unwrap().engine
}

#[tokio::test]
async fn a_layout_is_exported_into_an_engine() {
    let [from, to] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let root = layout_with_image(from.path()).await;
    let selection = select::Selection::layout(to.path());
    for expected in [(3, 0), (0, 3)] {
        let outcome = layout::export_layout(from.path(), "demo:1", &selection).await.unwrap();
        assert_eq!((outcome.sent_blobs, outcome.present_blobs), expected);
    }
    let images = engine(to.path()).await.images().unwrap();
    assert_eq!(images.resolve(&"demo:1".parse().unwrap()).await.unwrap().map(|it| it.digest), Some(root.digest));
    let missing = layout::export_layout(from.path(), "another:1", &selection).await.unwrap_err();
    assert_eq!(missing.to_string(), "the layout has no image of this name");
}

#[tokio::test]
async fn the_api_is_served_in_a_server_of_ones_own() {
    let folder = tempfile::tempdir().unwrap();
    let root = layout_with_image(folder.path()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let end = CancellationToken::new();
    let engine = engine(folder.path()).await;
    let client = async {
        let channel = tonic::transport::Endpoint::new(address).unwrap().connect().await.unwrap();
        let mut exports = ExportsClient::new(channel);
        let capabilities = exports.capabilities(CapabilitiesRequest {}).await.unwrap().into_inner();
        assert_eq!(capabilities.engine.unwrap().kind, "layout");
        let exporter = Exporter { id: "image".to_owned(), r#type: "image".to_owned(), ..Exporter::default() };
        let opened = exports.open(OpenRequest { exporters: vec![exporter], ..OpenRequest::default() }).await;
        let export_id = opened.unwrap().into_inner().export.unwrap().id;
        let target = Target { exporter_id: "image".to_owned(), root: Some(message(&root)), ..Target::default() };
        let target = Target { names: vec!["demo:2".to_owned()], ..target };
        // The blobs are there: asking for them takes them into the export.
        let requests = NegotiateRequest { export_id: export_id.clone(), descriptors: vec![message(&root)] };
        let mut negotiated = exports.negotiate(tokio_stream::once(requests)).await.unwrap().into_inner();
        let found = negotiated.message().await.unwrap().unwrap();
        assert_eq!(found.blobs[0].standing(), Standing::Present);
        let commit = CommitRequest { export_id, targets: vec![target] };
        let mut committing = exports.commit(commit).await.unwrap().into_inner();
        while committing.message().await.unwrap().is_some() {}
        end.cancel();
    };
    let (served, ()) = tokio::join!(serve::serve(engine, listener, end.clone()), client);
    served.unwrap();
    let images = self::engine(folder.path()).await.images().unwrap();
    assert_eq!(images.resolve(&"demo:2".parse().unwrap()).await.unwrap().map(|it| it.digest), Some(root.digest));
}

fn message(descriptor: &Descriptor) -> linkspan::export_v1::proto::Descriptor {
    linkspan::export_v1::proto::Descriptor {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.to_string(),
        size: descriptor.size as i64,
        ..Default::default()
    }
}

#[tokio::test]
async fn an_image_is_copied_from_a_registry() {
    let [from, to] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let root = layout_with_image(from.path()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let registry = listener.local_addr().unwrap();
    let end = CancellationToken::new();
    let settings = Settings {
        exports: Arc::new(Exports::new(engine(from.path()).await)),
        mirror_tags: false,
        catalog: false,
        redirect: false,
        passwords: None,
        writable: None,
    };
    let door = Arc::new(Door::open(settings, end.clone()).await.unwrap());
    let drain = end.clone();
    let serving = tokio::spawn(async move {
        loop {
            let (io, address) = listener.accept().await.unwrap();
            let connection = Connection { io, peer: Principal::Anonymous { address } };
            tokio::spawn(door.clone().serve(connection, drain.clone()));
        }
    });
    let target = engine(to.path()).await;
    let outcome = copy::copy(&format!("{registry}/demo:1"), target.clone()).await.unwrap();
    assert_eq!((outcome.sent_blobs, outcome.present_blobs), (3, 0));
    let name = format!("{registry}/demo:1").parse().unwrap();
    let copied = target.images().unwrap().resolve(&name).await.unwrap();
    assert_eq!(copied.map(|it| it.digest), Some(root.digest));
    end.cancel();
    serving.abort();
}
