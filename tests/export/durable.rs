//! Exports outlive their connections and the server.

use std::time::Duration;

use containerd_client::services::v1::{DeleteContentRequest, WriteAction, WriteContentRequest};
use futures_util::stream;
use linkspan::export_v1::proto::{CommitRequest, ExportState, GetRequest, OpenRequest, Standing};
use tokio::time::timeout;

use crate::client::{descriptor, descriptors, exporter, success, target, write};
use crate::common::until;
use crate::fixture::{Image, Layer};
use crate::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn an_export_outlives_a_crash_of_the_server() {
    let mut server = Server::containerd("crash");
    let client = server.client().await;
    // Of its own: blobs of another test's namespace need not be sent.
    let image = Image::new(&[Layer::new().file("one", "crash 1").tar(), Layer::new().file("two", "crash 2").tar()]);
    let mut one = exporter("a");
    one.attributes.insert("name".to_owned(), "crash:attr".to_owned());
    let request = OpenRequest {
        exporters: vec![one],
        idempotency_key: "crash".to_owned(),
        labels: [("build".to_owned(), "ä".repeat(5000))].into(),
        ..OpenRequest::default()
    };
    let opened = client.exports.clone().open(request.clone()).await.unwrap().into_inner().export.unwrap();
    // One layer is there, one half.
    let (first, second) = (&image.layers[0].digest, &image.layers[1].digest);
    write(client.content(&opened.id), first.as_str(), &image.blobs[first]).await.unwrap();
    let half = WriteContentRequest {
        action: WriteAction::Write.into(),
        r#ref: second.to_string(),
        total: image.layers[1].size as i64,
        expected: second.to_string(),
        data: image.blobs[second][..3000].to_vec(),
        ..WriteContentRequest::default()
    };
    let mut responses = client.content(&opened.id).write(stream::iter([half])).await.unwrap().into_inner();
    while responses.message().await.unwrap().is_some() {}

    server.linkspan.kill();
    server.restart();
    let client = server.client().await;
    let shown = server.ps();
    let principal = shown.iter().find(|export| export["id"] == opened.id.as_str()).map(|export| &export["principal"]);
    assert_eq!(principal, Some(&"uid 0, gid 0".into()), "{shown:?}");
    let found = client.exports.clone().open(request).await.unwrap().into_inner();
    assert!(found.found);
    let found = found.export.unwrap();
    assert_eq!((&found.id, &found.labels, &found.exporters), (&opened.id, &opened.labels, &opened.exporters));
    assert!((found.create_time.unwrap().seconds - opened.create_time.unwrap().seconds).abs() <= 1);
    assert_eq!((found.state(), found.blobs), (ExportState::Open, 1));
    let negotiated = client.negotiate(&found.id, descriptors(&image)).await.unwrap();
    let standing = |digest: &linkspan::image::Digest| {
        let entry = negotiated.iter().find(|entry| entry.digest == digest.to_string()).unwrap();
        (entry.standing(), entry.offset)
    };
    assert_eq!(standing(first), (Standing::Present, 0));
    assert_eq!(standing(second), (Standing::Partial, 3000));
    assert_eq!(client.send(&found.id, &image).await, 3);
    success(&client.commit(&found.id, vec![target("a", &image, &[])]).await.unwrap());
    assert_eq!(server.stack.image_of("crash", "docker.io/library/crash:attr"), Some(image.root.digest.to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_held_by_its_root_is_found_again() {
    let mut server = Server::containerd("crash-held");
    let client = server.client().await;
    let image = Image::new(&[Layer::new().file("one", "1").tar(), Layer::new().file("two", "2").tar()]);
    let export = client.open(&["a"]).await;
    client.send(&export, &image).await;
    success(&client.commit(&export, vec![target("a", &image, &["held"])]).await.unwrap());
    let export = client.open(&["a"]).await;
    client.negotiate(&export, descriptors(&image)).await.unwrap();
    server.linkspan.kill();
    server.stack.ctr("crash-held", ["images", "rm", "--sync", "docker.io/library/held:latest"]).ok();
    server.restart();
    let client = server.client().await;
    let request = GetRequest { export_id: export.clone() };
    let found = client.exports.clone().get(request).await.unwrap().into_inner().export.unwrap();
    assert_eq!(found.blobs, 4);
    success(&client.commit(&export, vec![target("a", &image, &["again"])]).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_held_blob_by_blob_is_found_again() {
    let mut server = Server::containerd("crash-pins");
    let client = server.client().await;
    let layers: Vec<_> = (0..40).map(|n| Layer::new().file("pinned", n.to_string()).tar()).collect();
    let image = Image::new(&layers);
    let export = client.open(&["a"]).await;
    client.send(&export, &image).await;
    success(&client.commit(&export, vec![target("a", &image, &["pins"])]).await.unwrap());

    // Without the documents that name them, in two calls, and one that is given up.
    let export = client.open(&["a"]).await;
    for layers in image.layers.chunks(25) {
        let negotiated = client.negotiate(&export, layers.iter().map(descriptor).collect()).await.unwrap();
        assert!(negotiated.iter().all(|blob| blob.standing() == Standing::Present));
    }
    let delete = |blob: &linkspan::image::Descriptor| DeleteContentRequest { digest: blob.digest.to_string() };
    client.content(&export).delete(delete(&image.layers[0])).await.unwrap();
    server.linkspan.kill();
    server.restart();
    let client = server.client().await;
    let request = GetRequest { export_id: export.clone() };
    let found = client.exports.clone().get(request).await.unwrap().into_inner().export.unwrap();
    assert_eq!(found.blobs, 39);
    // One more that is given up, by the process that found it.
    client.content(&export).delete(delete(&image.layers[1])).await.unwrap();
    // With its names the image goes, but for what is held.
    let name = "docker.io/library/pins:latest";
    server.stack.ctr("crash-pins", ["images", "rm", "--sync", name]).ok();
    let left = server.stack.blobs("crash-pins");
    let stays = |layer: &linkspan::image::Descriptor| left.iter().any(|blob| blob.contains(layer.digest.hex()));
    assert!(!stays(&image.layers[0]) && !stays(&image.layers[1]) && image.layers[2..].iter().all(stays));
    assert_eq!(client.send(&export, &image).await, 4, "two layers, the config and the manifest");
    success(&client.commit(&export, vec![target("a", &image, &["pins"])]).await.unwrap());
    assert_eq!(server.stack.image_of("crash-pins", name), Some(image.root.digest.to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_runs_to_its_end_without_its_client() {
    let server = Server::containerd("alone");
    let client = server.client().await;
    let image = Image::new(&[Layer::busybox().tar()]);
    let export = client.open(&["a"]).await;
    client.send(&export, &image).await;
    let targets = vec![target("a", &image, &["alone"])];
    let request = CommitRequest { export_id: export.clone(), targets: targets.clone() };
    // Accepted, and nobody listens any more.
    drop(client.exports.clone().commit(request).await.unwrap());
    drop(client);
    until("the image", || server.stack.image_of("alone", "docker.io/library/alone:latest"), Option::is_some);
    let client = server.client().await;
    let results = client.commit(&export, targets).await.unwrap();
    assert_eq!(results.state(), ExportState::Committed);
    success(&results);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_of_one_engine_leave_each_others_exports_alone() {
    for (engine, mut server) in Server::each("neighbours") {
        let image = Image::new(&[Layer::new().file("one", "neighbours").tar()]);
        let client = server.client().await;
        let export = client.open(&["a"]).await;
        client.send(&export, &image).await;
        let other = server.beside();
        let request = GetRequest { export_id: export.clone() };
        let status = other.client().await.exports.get(request.clone()).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::NotFound, "{engine}: {status}");
        // It may have been started after the one that it does not belong to.
        server.linkspan.kill();
        server.restart();
        let client = server.client().await;
        let found = client.exports.clone().get(request).await.unwrap().into_inner().export.unwrap();
        assert_eq!(found.blobs, 3, "{engine}");
        success(&client.commit(&export, vec![target("a", &image, &[])]).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_export_that_cannot_be_taken_up_stops_no_server() {
    let (mut server, layout) = Server::layout();
    let client = server.client().await;
    let (broken, whole) = (client.open(&["a"]).await, client.open(&["a"]).await);
    let image = Image::new(&[Layer::new().file("one", "taken up").tar()]);
    client.send(&whole, &image).await;
    // What it holds cannot be read at all: where the file was there is something else.
    let bytes = bytes::Bytes::from_static(b"{\"pinned\": \"by the broken one\"}");
    let digest = linkspan::image::Digest::sha256(&bytes);
    write(client.content(&broken), digest.as_str(), &bytes).await.unwrap();
    server.linkspan.kill();
    let lease = std::fs::read_dir(layout.join(".linkspan/leases")).unwrap().map(|entry| entry.unwrap().path());
    let lease = lease.filter(|path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).contains(&broken));
    for path in lease {
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, text.replace(digest.hex(), "nonsense")).unwrap();
    }
    server.restart();
    let client = server.client().await;
    let request = GetRequest { export_id: whole.clone() };
    let found = client.exports.clone().get(request).await.unwrap().into_inner().export.unwrap();
    assert_eq!(found.blobs, 3);
    success(&client.commit(&whole, vec![target("a", &image, &["taken"])]).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_reads_no_layers() {
    let (mut server, _) = Server::layout();
    let client = server.client().await;
    let export = client.open(&["a"]).await;
    let mut sent = 0;
    for n in 0..8 {
        let bytes = bytes::Bytes::from(vec![n; 3 << 20]);
        sent += bytes.len() as u64;
        let digest = linkspan::image::Digest::sha256(&bytes);
        write(client.content(&export), digest.as_str(), &bytes).await.unwrap();
    }
    server.linkspan.kill();
    server.restart();
    // The door is open by now.
    let status = std::fs::read_to_string(format!("/proc/{}/io", server.linkspan.pid().as_raw_nonzero())).unwrap();
    let read: u64 = status.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap();
    assert!(read < sent / 2, "{read} bytes were read, and {sent} are held");
    let client = server.client().await;
    let request = GetRequest { export_id: export };
    let found = client.exports.clone().get(request).await.unwrap().into_inner().export.unwrap();
    assert_eq!((found.blobs, found.bytes as u64), (8, sent));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_deleted_from_under_a_commit() {
    let (server, _) = Server::layout();
    let client = server.client().await;
    // Its files are read and hashed for a while.
    let image = Image::new(&[Layer::new().file("large", vec![7; 64 << 20]).tar()]);
    let request = OpenRequest { exporters: vec![crate::files::with("a", "tar", &[])], ..OpenRequest::default() };
    let export = client.exports.clone().open(request).await.unwrap().into_inner().export.unwrap().id;
    for blob in image.graph().descriptors() {
        let bytes = &image.blobs[&blob.digest];
        let mut messages: Vec<_> = bytes
            .chunks(8 << 20)
            .map(|chunk| WriteContentRequest {
                action: WriteAction::Write.into(),
                r#ref: blob.digest.to_string(),
                data: chunk.to_vec(),
                ..WriteContentRequest::default()
            })
            .collect();
        for (at, message) in messages.iter_mut().enumerate() {
            message.offset = (at * (8 << 20)) as i64;
        }
        let last = messages.last_mut().unwrap();
        (last.action, last.expected, last.total) =
            (WriteAction::Commit.into(), blob.digest.to_string(), blob.size as i64);
        let mut responses = client.content(&export).write(stream::iter(messages)).await.unwrap().into_inner();
        while responses.message().await.unwrap().is_some() {}
    }
    let committing = tokio::spawn({
        let (client, export, target) = (client.clone(), export.clone(), target("a", &image, &[]));
        async move { client.commit(&export, vec![target]).await.unwrap() }
    });
    let request = GetRequest { export_id: export.clone() };
    let state =
        async || client.exports.clone().get(request.clone()).await.unwrap().into_inner().export.unwrap().state();
    let begun = async {
        while state().await == ExportState::Open {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(180), begun).await.expect("the commit to begin");
    let delete = DeleteContentRequest { digest: image.root.digest.to_string() };
    let refused = client.content(&export).delete(delete).await.unwrap_err();
    assert_eq!(
        (refused.code(), crate::client::reason(&refused).as_str()),
        (tonic::Code::FailedPrecondition, "COMMIT_RUNNING")
    );
    success(&committing.await.unwrap());
}
