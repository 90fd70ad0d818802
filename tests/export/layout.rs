//! The same through the `layout` engine: no daemon, no root.

use std::fs;
use std::path::Path;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use linkspan::export_v1::proto::{AbortRequest, ExportState, GetRequest, OpenRequest, Reason, Standing};
use serde_json::Value;

use crate::client::{descriptors, exporter, success, target, write};
use crate::fixture::{Image, Layer};
use crate::server::Server;

fn image(content: &str) -> Image {
    Image::new(&[Layer::new().file("base", "base").tar(), Layer::new().file("etc/greeting", content).tar()])
}

/// The names in the index, and the digests that they point to.
fn names(layout: &Path) -> Vec<(String, String)> {
    let Ok(text) = fs::read(layout.join("index.json")) else { return Vec::new() };
    let index: Value = serde_json::from_slice(&text).unwrap();
    let name = |entry: &Value| {
        let name = entry["annotations"]["io.containerd.image.name"].as_str().unwrap_or("-");
        (name.to_owned(), entry["digest"].as_str().unwrap().to_owned())
    };
    index["manifests"].as_array().unwrap().iter().map(name).collect()
}

fn has(layout: &Path, digest: &linkspan::image::Digest) -> bool {
    layout.join("blobs/sha256").join(digest.hex()).exists()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_exported_and_the_next_one_needs_only_what_changed() {
    let (server, layout) = Server::layout();
    let client = server.client().await;
    let (before, after) = (image("before"), image("after"));
    let export = client.open(&["a"]).await;
    assert_eq!(client.send(&export, &before).await, 4);
    assert_eq!(names(&layout), [], "nothing is visible before the commit");
    let results = client.commit(&export, vec![target("a", &before, &["demo:1"])]).await.unwrap();
    assert_eq!(results.state(), ExportState::Committed);
    assert_eq!(success(&results).response["image.name"], "docker.io/library/demo:1");
    assert_eq!(names(&layout), [("docker.io/library/demo:1".to_owned(), before.root.digest.to_string())]);
    assert!(before.blobs.keys().all(|digest| has(&layout, digest)));

    let export = client.open(&["a"]).await;
    assert_eq!(client.send(&export, &after).await, 3, "a layer, the config and the manifest");
    success(&client.commit(&export, vec![target("a", &after, &["demo:1"])]).await.unwrap());
    assert_eq!(names(&layout), [("docker.io/library/demo:1".to_owned(), after.root.digest.to_string())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_outlives_a_crash_of_the_server() {
    let (mut server, layout) = Server::layout();
    let client = server.client().await;
    let image = Image::new(&[Layer::new().file("large", vec![7; 9 << 20]).tar(), Layer::new().file("b", "b").tar()]);
    let request =
        OpenRequest { exporters: vec![exporter("a")], idempotency_key: "crash".to_owned(), ..OpenRequest::default() };
    let opened = client.exports.clone().open(request.clone()).await.unwrap().into_inner().export.unwrap();
    let first = &image.layers[0].digest;
    write(client.content(&opened.id), first.as_str(), &image.blobs[first]).await.unwrap();
    server.linkspan.kill();
    server.restart();
    let client = server.client().await;
    let found = client.exports.clone().open(request).await.unwrap().into_inner();
    assert!(found.found);
    let found = found.export.unwrap();
    assert_eq!((&found.id, found.blobs, &found.exporters), (&opened.id, 1, &opened.exporters));
    let negotiated = client.negotiate(&found.id, descriptors(&image)).await.unwrap();
    let present: Vec<_> =
        negotiated.iter().filter(|it| it.standing() == Standing::Present).map(|it| it.digest.as_str()).collect();
    assert_eq!(present, [first.as_str()]);
    client.send(&found.id, &image).await;
    success(&client.commit(&found.id, vec![target("a", &image, &["crash"])]).await.unwrap());
    assert_eq!(names(&layout).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_small_blob_outlives_a_crash_of_the_server() {
    let (mut server, layout) = Server::layout();
    let client = server.client().await;
    // Many, of which some wait for a sync when it is killed.
    let layers: Vec<_> = (0..300).map(|n| Layer::new().file("number", n.to_string()).tar()).collect();
    let image = Image::new(&layers);
    let export = client.open(&["a"]).await;
    let writes = image.layers.iter().map(|layer| {
        let (content, bytes) = (client.content(&export), &image.blobs[&layer.digest]);
        async move { write(content, layer.digest.as_str(), bytes).await.map(|_| ()) }
    });
    stream::iter(writes).buffer_unordered(16).try_collect::<()>().await.unwrap();
    server.linkspan.kill();
    server.restart();
    let client = server.client().await;
    let get = GetRequest { export_id: export.clone() };
    assert_eq!(client.exports.clone().get(get).await.unwrap().into_inner().export.unwrap().blobs, 300);
    assert_eq!(client.send(&export, &image).await, 2, "the config and the manifest");
    success(&client.commit(&export, vec![target("a", &image, &["crash"])]).await.unwrap());
    assert!(image.blobs.keys().all(|digest| has(&layout, digest)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_leaves_nothing_visible() {
    let (server, layout) = Server::layout();
    let client = server.client().await;
    let image = image("missing");
    let export = client.open(&["a"]).await;
    write(client.content(&export), image.root.digest.as_str(), &image.blobs[&image.root.digest]).await.unwrap();
    let results = client.commit(&export, vec![target("a", &image, &["missing"])]).await.unwrap();
    let error = results.results[0].error.clone().unwrap();
    assert_eq!((error.reason(), error.violations.len()), (Reason::BlobsMissing, 3));
    assert_eq!(names(&layout), []);
    client.exports.clone().abort(AbortRequest { export_id: export.clone() }).await.unwrap();
    let get = GetRequest { export_id: export };
    let ended = client.exports.clone().get(get).await.unwrap().into_inner().export.unwrap();
    assert_eq!(ended.state(), ExportState::Aborted);
    // Its blobs are garbage now, and go when the collector thinks so.
    assert_eq!(names(&layout), []);
}
