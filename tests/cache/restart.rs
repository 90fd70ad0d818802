//! Exports and holds, and a restart of the server.

use containerd_client::services::v1::{StatusRequest, WriteAction, WriteContentRequest};
use futures_util::stream;
use linkspan::cache_v1::proto::*;
use linkspan::export_v1::proto::ExportState;
use linkspan::image::Digest;
use tonic::Code;

use crate::client::{Client, Server, about, reason, target};
use crate::common::until;
use crate::fixture::{INDEX, documents};
use crate::put::{put, record};

fn open() -> OpenRequest {
    let target = Target { mode: "max".to_owned(), keep: 2, ..target("a", "app", "linux/amd64") };
    OpenRequest {
        targets: vec![target],
        idempotency_key: "build-7".to_owned(),
        builder: "restarted".to_owned(),
        ..OpenRequest::default()
    }
}

/// Sends the first half of a blob.
async fn half(client: &Client, export: &str, bytes: &[u8]) {
    let message = WriteContentRequest {
        action: WriteAction::Write.into(),
        r#ref: "half".to_owned(),
        total: bytes.len() as i64,
        expected: Digest::sha256(bytes).to_string(),
        data: bytes[..bytes.len() / 2].to_vec(),
        ..WriteContentRequest::default()
    };
    let mut responses =
        client.content.clone().write(about(export, stream::iter([message]))).await.unwrap().into_inner();
    while responses.message().await.unwrap().is_some() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_survives_its_server_and_is_found_by_its_key() {
    let second = "two ".repeat(2000);
    for (engine, mut server) in Server::each("api-restart") {
        let client = server.client().await;
        let opened = client.caches.clone().open(open()).await.unwrap().into_inner().export.unwrap();
        client.write(&opened.id, b"restart: one").await.unwrap();
        half(&client, &opened.id, second.as_bytes()).await;

        server.linkspan.kill();
        server.restart();
        if engine == "containerd" {
            server.stack.collect_garbage("api-restart");
        }
        let client = server.client().await;
        let found = client.caches.clone().open(open()).await.unwrap().into_inner();
        let export = found.export.unwrap();
        assert_eq!((found.found, &export.id, &export.targets), (true, &opened.id, &opened.targets), "{engine}");
        assert_eq!((export.state(), export.blobs), (ExportState::Open, 1), "{engine}");
        let other = OpenRequest { builder: "another".to_owned(), ..open() };
        assert_eq!(reason(&client.caches.clone().open(other).await.unwrap_err()), "EXPORT_CONFLICT");

        // What was sent is there, and what was half sent goes on.
        let status = StatusRequest { r#ref: "half".to_owned() };
        let status =
            client.content.clone().status(about(&export.id, status)).await.unwrap().into_inner().status.unwrap();
        assert_eq!(status.offset as usize, second.len() / 2, "{engine}");
        let rest = WriteContentRequest {
            action: WriteAction::Commit.into(),
            r#ref: "half".to_owned(),
            total: second.len() as i64,
            expected: Digest::sha256(second.as_bytes()).to_string(),
            offset: status.offset,
            data: second.as_bytes()[second.len() / 2..].to_vec(),
            ..WriteContentRequest::default()
        };
        let responses = client.content.clone().write(about(&export.id, stream::iter([rest]))).await.unwrap();
        assert!(responses.into_inner().message().await.unwrap().is_some());
        let (config, root) = documents(&["restart: one", &second], INDEX);
        for bytes in [&config.bytes, &root.bytes] {
            client.write(&export.id, bytes).await.unwrap();
        }
        let results = client.commit(&export.id, &[("a", &root)]).await.unwrap();
        let version = results.results[0].version.clone().unwrap_or_else(|| panic!("{engine}: {results:?}"));
        assert_eq!(
            (version.title.as_str(), version.mode.as_str(), version.builder.as_str()),
            ("linux/amd64", "max", "restarted")
        );
        assert_eq!(results.state(), ExportState::Committed);

        // One that is committed is forgotten with the process: the same request opens another, which changes nothing.
        assert!(server.linkspan.terminate().success(), "{engine}: {}", server.linkspan.log());
        server.restart();
        let client = server.client().await;
        let gone = client.caches.clone().get(GetRequest { export_id: export.id.clone() }).await.unwrap_err();
        assert_eq!((gone.code(), reason(&gone).as_str()), (Code::NotFound, "EXPORT_NOT_FOUND"), "{engine}");
        let again = client.caches.clone().open(open()).await.unwrap().into_inner();
        assert!(!again.found);
        let id = again.export.unwrap().id;
        for bytes in [b"restart: one", second.as_bytes(), &config.bytes, &root.bytes] {
            assert_eq!(client.write(&id, bytes).await.unwrap_err().code(), Code::AlreadyExists, "{engine}");
        }
        let results = client.commit(&id, &[("a", &root)]).await.unwrap().results;
        assert!(results[0].unchanged, "{engine}: {results:?}");
        if engine == "containerd" {
            let is_left = |leases: &Vec<String>| *leases == [version.id.clone()];
            until("the exports to be released", || server.stack.leases("api-restart"), is_left);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_do_not_survive_and_are_never_taken_for_all_of_them() {
    for (engine, mut server) in Server::each("api-restart-put") {
        let client = server.client().await;
        let export = client.caches.clone().open(open()).await.unwrap().into_inner().export.unwrap().id;
        put(&client, &export, vec![record(1, "base", &[], &["records: one"])]).await.unwrap();
        client.write(&export, b"records: one").await.unwrap();
        assert!(server.linkspan.terminate().success(), "{engine}: {}", server.linkspan.log());
        server.restart();
        let client = server.client().await;
        let lost = put(&client, &export, vec![record(2, "build", &[], &["records: one"])]).await.unwrap_err();
        assert_eq!((lost.code(), reason(&lost).as_str()), (Code::FailedPrecondition, "RECORDS_LOST"), "{engine}");
        let targets = vec![CommitTarget { target_id: "a".to_owned(), ..CommitTarget::default() }];
        let request = CommitRequest { export_id: export.clone(), targets };
        assert_eq!(reason(&client.caches.clone().commit(request).await.unwrap_err()), "RECORDS_LOST", "{engine}");

        // Its layers are there while another one takes its place.
        let again = client.open(vec![target("a", "app", "")]).await;
        let standings = put(&client, &again, vec![record(1, "base", &[], &["records: one"])]).await.unwrap();
        assert_eq!(standings, [Standing::Present], "{engine}");
        let aborted = client.caches.clone().abort(AbortRequest { export_id: export }).await.unwrap().into_inner();
        assert_eq!(aborted.export.unwrap().state(), ExportState::Aborted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn holds_end_with_their_server_and_leave_nothing() {
    for (engine, mut server) in Server::each("api-restart-hold") {
        let client = server.client().await;
        let (config, _) = documents(&["hold: one"], INDEX);
        client.export(vec![target("a", "app", "")], &["hold: one"]).await;
        let request = ResolveRequest { refs: vec!["app".to_owned()], ..ResolveRequest::default() };
        let hold = client.caches.clone().resolve(request.clone()).await.unwrap().into_inner().hold_id;
        let delete = DeleteRequest { r#ref: "app".to_owned(), ..DeleteRequest::default() };
        client.caches.clone().delete(delete).await.unwrap();
        client.size(&hold, &config.descriptor.digest).await.unwrap();
        assert!(server.linkspan.terminate().success(), "{engine}: {}", server.linkspan.log());
        server.restart();
        let client = server.client().await;
        let ended = client.size(&hold, &config.descriptor.digest).await.unwrap_err();
        assert_eq!((ended.code(), reason(&ended).as_str()), (Code::FailedPrecondition, "HOLD_ENDED"), "{engine}");
        // It was deleted while it was held, and went when the server ended.
        assert_eq!(client.caches.clone().resolve(request).await.unwrap().into_inner().parts, [], "{engine}");
        if engine == "containerd" {
            until("the leases to go", || server.stack.leases("api-restart-hold"), Vec::is_empty);
        }
    }
}
