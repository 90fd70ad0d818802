//! From Open to Commit.

use linkspan::export_v1::proto::{
    AbortRequest, CapabilitiesRequest, ExportState, GetRequest, ListRequest, OpenRequest, Reason, RenewRequest,
    Standing,
};
use tonic::Code;

use crate::client::{descriptor, descriptors, exporter, reason, success, target, write};
use crate::common::until;
use crate::fixture::{Image, Layer, image};
use crate::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn docker_runs_what_was_exported() {
    let server = Server::docker();
    let client = server.client().await;
    let image = image("through the API\n");
    let export = client.open(&["a"]).await;
    assert!(client.send(&export, &image).await >= 3);
    assert_eq!(server.stack.tagged("moby", "api:1"), None, "nothing is visible before the commit");
    let results = client.commit(&export, vec![target("a", &image, &["api:1", "api:2"])]).await.unwrap();
    let result = success(&results);
    assert_eq!((result.id.as_str(), result.r#type.as_str()), ("a", "image"));
    assert_eq!(result.response["containerimage.digest"], image.root.digest.to_string());
    assert_eq!(result.response["containerimage.config.digest"], image.config.digest.to_string());
    assert_eq!(result.response["image.name"], "docker.io/library/api:1,docker.io/library/api:2");
    assert_eq!(results.state(), ExportState::Committed);
    for name in ["api:1", "api:2"] {
        let output = server.stack.run_image(name, &["cat", "/etc/greeting"]).ok().stdout;
        assert_eq!(output, "through the API\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_engine_holds_is_not_sent_and_is_held_by_its_root() {
    let server = Server::containerd("api-warm");
    let client = server.client().await;
    let image = image("warm");
    let export = client.open(&["a"]).await;
    assert_eq!(client.send(&export, &image).await, 4);
    success(&client.commit(&export, vec![target("a", &image, &["warm:1"])]).await.unwrap());
    until("the lease to go", || server.stack.leases("api-warm"), Vec::is_empty);

    let export = client.open(&["a"]).await;
    let negotiated = client.negotiate(&export, descriptors(&image)).await.unwrap();
    assert!(negotiated.iter().all(|blob| blob.standing() == Standing::Present), "{negotiated:?}");
    // Whatever happens to the image now, the export keeps it.
    server.stack.ctr("api-warm", ["images", "rm", "--sync", "docker.io/library/warm:1"]).ok();
    assert_eq!(server.stack.blobs("api-warm").len(), 4);
    let results = client.commit(&export, vec![target("a", &image, &["warm:2"])]).await.unwrap();
    success(&results);
    assert_eq!(server.stack.images("api-warm").len(), 1);
    server.stack.ctr("api-warm", ["images", "check"]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_image_needs_only_what_changed() {
    let server = Server::containerd("api-edit");
    let client = server.client().await;
    let (before, after) = (image("before"), image("after"));
    let export = client.open(&["a"]).await;
    client.send(&export, &before).await;
    success(&client.commit(&export, vec![target("a", &before, &["edit"])]).await.unwrap());
    let export = client.open(&["a"]).await;
    assert_eq!(client.send(&export, &after).await, 3, "a layer, the config and the manifest");
    success(&client.commit(&export, vec![target("a", &after, &["edit"])]).await.unwrap());
    let images = server.stack.images("api-edit");
    assert_eq!(images, [("docker.io/library/edit:latest".to_owned(), after.root.digest.to_string())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_exporter_has_its_own_result() {
    let server = Server::containerd("api-several");
    let client = server.client().await;
    let (good, bad) = (image("good"), image("bad"));
    let export = client.open(&["first", "second", "third"]).await;
    client.send(&export, &good).await;
    // Of the bad one the last layer is missing.
    for blob in [&bad.root, &bad.config] {
        write(client.content(&export), blob.digest.as_str(), &bad.blobs[&blob.digest]).await.unwrap();
    }
    let targets =
        vec![target("first", &good, &["good"]), target("second", &bad, &["bad"]), target("third", &good, &[])];
    let results = client.commit(&export, targets.clone()).await.unwrap();
    let ids: Vec<_> = results.results.iter().map(|result| (result.id.as_str(), result.error.is_some())).collect();
    assert_eq!(ids, [("first", false), ("second", true), ("third", false)]);
    let error = results.results[1].error.clone().unwrap();
    assert_eq!((error.reason(), error.code), (Reason::BlobsMissing, Code::FailedPrecondition as i32));
    let missing: Vec<_> = error.violations.iter().map(|violation| violation.field.clone()).collect();
    assert_eq!(missing, [bad.layers[1].digest.to_string()]);
    assert_eq!(results.state(), ExportState::Open);
    let dangling = format!("linkspan-dangling@{}", good.root.digest);
    let mut names: Vec<_> = server.stack.images("api-several").into_iter().map(|(name, _)| name).collect();
    names.sort();
    assert_eq!(names, ["docker.io/library/good:latest".to_owned(), dangling]);

    // What failed can be put right and tried again; what succeeded is not done again.
    client.send(&export, &bad).await;
    let again = client.commit(&export, targets.clone()).await.unwrap();
    assert_eq!(again.results[0], results.results[0]);
    assert!(again.results.iter().all(|result| result.error.is_none()), "{again:?}");
    assert_eq!(again.state(), ExportState::Committed);
    assert_eq!(server.stack.images("api-several").len(), 3);
    // A client that did not get the response tries again.
    assert_eq!(client.commit(&export, targets).await.unwrap(), again);
    let error = client.commit(&export, vec![target("first", &bad, &[])]).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::FailedPrecondition, "EXPORT_COMMITTED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_name_and_unpack() {
    let server = Server::containerd("api-attributes");
    let client = server.client().await;
    let image = image("attributes");
    let mut one = exporter("a");
    let attributes = [("name", "attr:1,attr:2"), ("name-canonical", "true"), ("unpack", "false")];
    one.attributes = attributes.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let request = OpenRequest { exporters: vec![one], ..OpenRequest::default() };
    let export = client.exports.clone().open(request).await.unwrap().into_inner().export.unwrap().id;
    client.send(&export, &image).await;
    success(&client.commit(&export, vec![target("a", &image, &["attr:3"])]).await.unwrap());
    let mut names: Vec<_> = server.stack.images("api-attributes").into_iter().map(|(name, _)| name).collect();
    names.sort();
    let canonical = format!("docker.io/library/attr@{}", image.root.digest);
    let expected = ["docker.io/library/attr:1", "docker.io/library/attr:2", "docker.io/library/attr:3", &canonical];
    assert_eq!(names, expected);
    assert_eq!(server.stack.snapshots("api-attributes"), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_with_a_foreign_platform_is_exported_whole() {
    let server = Server::containerd("api-index");
    let client = server.client().await;
    let index = Image::index(&[image("index"), Image::foreign(&[Layer::new().file("s390x", "1").tar()])]);
    let export = client.open(&["a"]).await;
    client.send(&export, &index).await;
    let results = client.commit(&export, vec![target("a", &index, &["index"])]).await.unwrap();
    assert_eq!(success(&results).root.clone().unwrap().digest, index.root.digest.to_string());
    assert_eq!(server.stack.blobs("api-index").len(), index.blobs.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_leaves_nothing() {
    let server = Server::containerd("api-abort");
    let client = server.client().await;
    let image = image("abort");
    let export = client.open(&["a"]).await;
    client.send(&export, &image).await;
    for _ in 0..2 {
        let request = AbortRequest { export_id: export.clone() };
        let aborted = client.exports.clone().abort(request).await.unwrap().into_inner().export.unwrap();
        assert_eq!(aborted.state(), ExportState::Aborted);
    }
    assert_eq!(server.stack.leases("api-abort"), [""; 0]);
    assert_eq!(server.stack.images("api-abort"), []);
    let error = client.commit(&export, vec![target("a", &image, &["x"])]).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::FailedPrecondition, "EXPORT_ABORTED"));
    let error = client.negotiate(&export, vec![descriptor(&image.root)]).await.unwrap_err();
    assert_eq!(reason(&error), "EXPORT_ABORTED");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_not_renewed_expires() {
    let server = Server::containerd("api-expiry");
    let client = server.client().await;
    let request = OpenRequest {
        exporters: vec![exporter("a")],
        ttl: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        ..OpenRequest::default()
    };
    let kept = client.exports.clone().open(request.clone()).await.unwrap().into_inner().export.unwrap();
    let renew = RenewRequest { export_id: kept.id.clone(), ttl: None };
    let renewed = client.exports.clone().renew(renew).await.unwrap().into_inner().export.unwrap();
    assert!(renewed.expire_time.unwrap().seconds > kept.expire_time.unwrap().seconds + 3000);
    assert_eq!(renewed.latest_expire_time, kept.latest_expire_time);
    let lost = client.exports.clone().open(request).await.unwrap().into_inner().export.unwrap().id;
    let state = async |id: &str| {
        let request = GetRequest { export_id: id.to_owned() };
        client.exports.clone().get(request).await.unwrap().into_inner().export.unwrap().state()
    };
    let look = || tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(state(&lost)));
    until("the export to expire", look, |state| *state == ExportState::Expired);
    assert_eq!(state(&kept.id).await, ExportState::Open);
    let image = image("expired");
    let error = client.negotiate(&lost, vec![descriptor(&image.root)]).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::FailedPrecondition, "EXPORT_EXPIRED"));
    let error = write(client.content(&lost), image.root.digest.as_str(), &image.blobs[&image.root.digest]).await;
    assert_eq!(reason(&error.unwrap_err()), "EXPORT_EXPIRED");
    until("the lease of the expired one to go", || server.stack.leases("api-expiry").len(), |count| *count == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_are_listed_in_pages_and_by_label() {
    let server = Server::containerd("api-list");
    let mut client = server.client().await.exports;
    for n in 0..5 {
        let request = OpenRequest {
            export_id: format!("list-{n}"),
            exporters: vec![exporter("a")],
            labels: [("build".to_owned(), format!("b{}", n % 2))].into(),
            ..OpenRequest::default()
        };
        client.open(request).await.unwrap();
    }
    let (mut seen, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListRequest { page_size: 2, page_token, ..ListRequest::default() };
        let page = client.list(request).await.unwrap().into_inner();
        assert!(page.exports.len() <= 2);
        seen.extend(page.exports.into_iter().map(|export| export.id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, ["list-0", "list-1", "list-2", "list-3", "list-4"]);
    let request = ListRequest { labels: [("build".to_owned(), "b1".to_owned())].into(), ..ListRequest::default() };
    let found: Vec<_> = client.list(request).await.unwrap().into_inner().exports;
    assert_eq!(found.iter().map(|export| export.id.as_str()).collect::<Vec<_>>(), ["list-1", "list-3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn capabilities_list_what_there_is() {
    let server = Server::containerd("api-capabilities");
    let mut client = server.client().await.exports;
    let found = client.capabilities(CapabilitiesRequest {}).await.unwrap().into_inner();
    assert_eq!(
        found.exporter_types.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(),
        ["image", "oci", "docker", "tar", "local"]
    );
    assert!(
        found.exporter_types.iter().all(|it| !it.documentation.is_empty()
            && it.attributes.iter().all(|attribute| !attribute.documentation.is_empty()))
    );
    let engine = found.engine.unwrap();
    assert_eq!((engine.kind.as_str(), engine.namespace.as_str()), ("containerd", "api-capabilities"));
    let info = server.stack.run("ctr").args(["info"]).ok().stdout;
    assert!(info.contains(&engine.id), "{info}: {}", engine.id);
    assert_eq!(engine.sharing.unwrap().containerd_id, engine.id);
    assert_eq!(found.limits.unwrap().message_bytes, 16 << 20);
    assert!(found.names.unwrap().may_move);
    assert_eq!(found.features, ["read-output", "references"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_that_commit_at_once_get_the_same_results() {
    let server = Server::containerd("api-joined");
    let client = server.client().await;
    let image = image("joined");
    let export = client.open(&["a"]).await;
    client.send(&export, &image).await;
    let (other_client, targets) = (server.client().await, vec![target("a", &image, &["joined"])]);
    let (one, other, different) = tokio::join!(
        client.commit(&export, targets.clone()),
        other_client.commit(&export, targets.clone()),
        other_client.commit(&export, vec![target("a", &image, &["different"])]),
    );
    // Which request came first is the race; whoever asked for the other thing was refused, or was the first.
    let results: Vec<_> = [&one, &other, &different].into_iter().filter_map(|it| it.as_ref().ok()).collect();
    assert!(!results.is_empty() && results.iter().all(|it| *it == results[0]), "{results:?}");
    for refused in [one, other, different].iter().filter_map(|it| it.as_ref().err()) {
        assert!(matches!(reason(refused).as_str(), "COMMIT_RUNNING" | "EXPORT_COMMITTED"), "{refused:?}");
    }
    assert_eq!(server.stack.images("api-joined").len(), 1);
    until("the lease to go", || server.stack.leases("api-joined"), Vec::is_empty);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_during_a_commit_leaves_all_or_nothing() {
    let server = Server::containerd("api-abort-race");
    let client = server.client().await;
    let image = image("race");
    for n in 0..5 {
        let export = client.open(&["a"]).await;
        client.send(&export, &image).await;
        let name = format!("race:{n}");
        let (committed, aborted) = tokio::join!(client.commit(&export, vec![target("a", &image, &[&name])]), async {
            client.exports.clone().abort(AbortRequest { export_id: export.clone() }).await
        });
        let visible = server.stack.tagged("api-abort-race", &name).is_some();
        match committed {
            Ok(results) => assert_eq!(results.results[0].error.is_none(), visible, "{results:?}"),
            Err(status) => assert_eq!((reason(&status).as_str(), visible), ("EXPORT_ABORTED", false)),
        }
        if let Err(status) = aborted {
            assert_eq!((reason(&status).as_str(), visible), ("EXPORT_COMMITTED", true));
        }
    }
    until("the leases to go", || server.stack.leases("api-abort-race"), Vec::is_empty);
}
