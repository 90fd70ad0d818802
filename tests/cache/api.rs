//! `linkspan.cache.v1`: exports, holds and administration.

use linkspan::cache_v1::proto::*;
use linkspan::export_v1::proto::{ExportState, Reason};
use linkspan::image::{Descriptor, Digest};
use serde_json::json;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::client::{Client, Server, about, of, reason, target};
use crate::common::{until, until_called};
use crate::fixture::{INDEX, MANIFEST, documents};

async fn resolve(client: &Client, refs: &[&str]) -> ResolveResponse {
    let request = ResolveRequest { refs: refs.iter().map(|&it| it.to_owned()).collect(), ..Default::default() };
    client.caches.clone().resolve(request).await.unwrap().into_inner()
}

async fn listed(client: &Client, prefix: &str) -> Vec<String> {
    let request = ListRequest { prefix: prefix.to_owned(), ..ListRequest::default() };
    let versions = client.caches.clone().list(request).await.unwrap().into_inner().versions;
    versions.into_iter().map(|version| version.id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_was_exported_can_be_read_until_its_hold_ends() {
    for (engine, server) in Server::each("api-read") {
        let mut client = server.client().await;
        let nothing = resolve(&client, &["team/app"]).await;
        assert_eq!((nothing.hold_id.as_str(), nothing.unknown_refs), ("", vec!["team/app".to_owned()]), "{engine}");

        let targets = vec![target("a", "team/app", "linux/amd64"), target("b", "team/other", "linux/amd64")];
        let ids = client.export(targets, &["one", "two"]).await;
        let found = resolve(&client, &["team/app", "no/such", "team/other"]).await;
        assert_eq!(found.unknown_refs, ["no/such"]);
        let versions: Vec<_> = found.parts.iter().map(|part| part.version.clone().unwrap()).collect();
        assert_eq!(versions.iter().map(|it| it.id.clone()).collect::<Vec<_>>(), ids, "{engine}");
        assert_eq!((versions[0].title.as_str(), versions[0].layers), ("linux/amd64", 2));

        let (config, root) = documents(&["one", "two"], INDEX);
        assert_eq!(found.parts[0].root, Some(of(&root)));
        let hold = &found.hold_id;
        assert_eq!(client.size(hold, &config.descriptor.digest).await.unwrap(), config.descriptor.size as i64);
        assert_eq!(client.read(hold, &root.descriptor).await.unwrap(), root.bytes);
        let layer = Descriptor::new("", Digest::sha256(b"two"), 3);
        assert_eq!(client.read(hold, &layer).await.unwrap(), "two");
        // What is held stays, and is no longer offered to others.
        let request = DeleteRequest { r#ref: "team/app".to_owned(), ..DeleteRequest::default() };
        assert_eq!(client.caches.delete(request).await.unwrap().into_inner().versions.len(), 1);
        assert_eq!(client.read(hold, &layer).await.unwrap(), "two");
        assert_eq!(resolve(&client, &["team/app"]).await.parts, []);

        // A hold is only read, and never longer than it lasts.
        for refused in only_read(&client, hold).await {
            assert_eq!((refused.code(), reason(&refused).as_str()), (Code::PermissionDenied, "OPERATION_DENIED"));
            let info = refused.get_error_details().error_info().unwrap().clone();
            assert_eq!(info.metadata["allowed"], "Info, Read", "{refused}");
        }
        let renewed = RenewRequest { id: hold.clone(), ..RenewRequest::default() };
        client.caches.renew(renewed.clone()).await.unwrap();
        client.caches.release(ReleaseRequest { hold_id: hold.clone() }).await.unwrap();
        client.caches.release(ReleaseRequest { hold_id: hold.clone() }).await.unwrap();
        let ended = client.read(hold, &layer).await.unwrap_err();
        assert_eq!((ended.code(), reason(&ended).as_str()), (Code::FailedPrecondition, "HOLD_ENDED"));
        assert_eq!(reason(&client.caches.renew(renewed).await.unwrap_err()), "HOLD_ENDED");
    }
}

/// The refusals of all calls that a hold does not take.
async fn only_read(client: &Client, hold: &str) -> Vec<tonic::Status> {
    use containerd_client::services::v1::{
        AbortRequest, DeleteContentRequest, ListContentRequest, ListStatusesRequest, StatusRequest, UpdateRequest,
    };
    let (digest, name) = (Digest::sha256(b"two").to_string(), "two".to_owned());
    let mut content = client.content.clone();
    vec![
        client.write(hold, b"three").await.unwrap_err(),
        content.delete(about(hold, DeleteContentRequest { digest })).await.unwrap_err(),
        content.update(about(hold, UpdateRequest::default())).await.unwrap_err(),
        content.list(about(hold, ListContentRequest::default())).await.unwrap_err(),
        content.status(about(hold, StatusRequest { r#ref: name.clone() })).await.unwrap_err(),
        content.list_statuses(about(hold, ListStatusesRequest::default())).await.unwrap_err(),
        content.abort(about(hold, AbortRequest { r#ref: name })).await.unwrap_err(),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_expires() {
    let (server, _) = Server::layout();
    let mut client = server.client().await;
    client.export(vec![target("a", "app", "")], &["one"]).await;
    let ttl = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let request = ResolveRequest { refs: vec!["app".to_owned()], ttl, ..ResolveRequest::default() };
    let hold = client.caches.resolve(request).await.unwrap().into_inner().hold_id;
    let (config, _) = documents(&["one"], INDEX);
    let size = async || client.size(&hold, &config.descriptor.digest).await;
    let ended = until_called("the hold to end", size, Result::is_err).await;
    assert_eq!(reason(&ended.unwrap_err()), "HOLD_ENDED");
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_succeed_and_fail_one_by_one_and_can_be_committed_again() {
    for (engine, server) in Server::each("api-commit") {
        let mut client = server.client().await;
        let first = client.export(vec![target("a", "app", "")], &["one"]).await.remove(0);
        let (config, root) = documents(&["one", "two"], MANIFEST);
        let moved = Target {
            expect_current: Some(Expectation { version_id: "linkspan-cache-other".to_owned() }),
            ..target("moved", "app", "")
        };
        let export = client.open(vec![moved, target("new", "app", "linux/arm64")]).await;
        for bytes in [b"two", &config.bytes[..], &root.bytes] {
            client.write(&export, bytes).await.unwrap();
        }
        let results = client.commit(&export, &[("moved", &root), ("new", &root)]).await.unwrap();
        let errors: Vec<_> = results.results.iter().map(|result| result.error.clone().unwrap()).collect();
        assert_eq!(errors.iter().map(|error| error.reason()).collect::<Vec<_>>(), [Reason::BlobsMissing; 2]);
        assert_eq!(errors[0].violations[0].field, Digest::sha256(b"one").to_string());

        // The engine has it: it need not be sent.
        assert_eq!(client.write(&export, b"one").await.unwrap_err().code(), Code::AlreadyExists, "{engine}");
        let results = client.commit(&export, &[("moved", &root), ("new", &root)]).await.unwrap();
        let error = results.results[0].error.clone().unwrap();
        assert_eq!((error.reason(), error.metadata["current"].as_str()), (Reason::CurrentChanged, first.as_str()));
        let new = results.results[1].version.clone().unwrap();
        assert_eq!((results.state(), results.results[1].r#type.as_str()), (ExportState::Open, "cache"));
        // What has succeeded is remembered.
        let again = client.commit(&export, &[("new", &root)]).await.unwrap();
        assert_eq!(again.results[0].version, Some(new));

        let aborted = client.caches.abort(AbortRequest { export_id: export.clone() }).await.unwrap().into_inner();
        assert_eq!(aborted.export.unwrap().state(), ExportState::Aborted);
        let ended = client.write(&export, b"more").await.unwrap_err();
        assert_eq!((ended.code(), reason(&ended).as_str()), (Code::FailedPrecondition, "EXPORT_ABORTED"));
        assert_eq!(reason(&client.commit(&export, &[("moved", &root)]).await.unwrap_err()), "EXPORT_ABORTED");
        assert_eq!(listed(&client, "app").await.len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_leaves_one_lease_for_each_version() {
    let server = Server::containerd("api-leases");
    let client = server.client().await;
    let ids = client.export(vec![target("a", "app", ""), target("b", "other", "")], &["one"]).await;
    // The same again stores nothing.
    assert_eq!(client.export(vec![target("a", "app", "")], &["one"]).await, ids[..1]);
    let mut expected = ids.clone();
    expected.sort();
    until(
        "the exports to be released",
        || server.stack.leases("api-leases"),
        |leases| {
            let mut leases = leases.clone();
            leases.sort();
            leases == expected
        },
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_can_be_repeated() {
    let (server, _) = Server::layout();
    let mut client = server.client().await;
    let request = OpenRequest {
        targets: vec![target("a", "app", "")],
        idempotency_key: "build-7".to_owned(),
        ..OpenRequest::default()
    };
    let opened = client.caches.open(request.clone()).await.unwrap().into_inner();
    let again = client.caches.open(request.clone()).await.unwrap().into_inner();
    assert_eq!((opened.found, again.found), (false, true));
    let id = opened.export.unwrap().id;
    assert_eq!(again.export.unwrap().id, id);
    let other = OpenRequest { targets: vec![target("a", "other", "")], ..request.clone() };
    assert_eq!(reason(&client.caches.open(other).await.unwrap_err()), "EXPORT_CONFLICT");

    // The results of a Commit are sent again when all is done.
    let (config, root) = documents(&["one"], INDEX);
    for bytes in [b"one", &config.bytes[..], &root.bytes] {
        client.write(&id, bytes).await.unwrap();
    }
    let results = client.commit(&id, &[("a", &root)]).await.unwrap();
    assert_eq!(results.state(), ExportState::Committed);
    assert_eq!(client.commit(&id, &[("a", &root)]).await.unwrap(), results);
    let got = client.caches.get(GetRequest { export_id: id }).await.unwrap().into_inner().export.unwrap();
    assert_eq!((got.state(), got.results), (ExportState::Committed, results.results));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_make_no_sense_are_refused_with_all_that_is_wrong() {
    let (server, _) = Server::layout();
    let mut client = server.client().await;
    let wrong = Target { mode: "all".to_owned(), keep: -1, ..target("", "-app", "") };
    let request = OpenRequest { targets: vec![wrong], ..OpenRequest::default() };
    let refused = client.caches.open(request).await.unwrap_err();
    let details = refused.get_error_details();
    let fields = details.bad_request().unwrap().field_violations.iter().map(|it| it.field.as_str());
    let expected = ["targets[0].id", "targets[0].mode", "targets[0].keep", "targets[0].ref"];
    assert_eq!(fields.collect::<Vec<_>>(), expected);
    let twice = OpenRequest { targets: vec![target("a", "app", ""), target("b", "app", "")], ..Default::default() };
    assert_eq!(reason(&client.caches.open(twice).await.unwrap_err()), "INVALID_FIELD");
    let refs = (0..17).map(|at| format!("app-{at}")).collect();
    let refused = client.caches.resolve(ResolveRequest { refs, ..ResolveRequest::default() }).await.unwrap_err();
    assert_eq!(reason(&refused), "LIMIT_EXCEEDED");

    // A document that is no cache's.
    let export = client.open(vec![target("a", "app", "")]).await;
    let (_, mut root) = documents(&["one"], INDEX);
    root.bytes = r#"{"schemaVersion":2,"manifests":[]}"#.into();
    root.descriptor = Descriptor::new(INDEX, Digest::sha256(&root.bytes), root.bytes.len() as u64);
    client.write(&export, &root.bytes).await.unwrap();
    let results = client.commit(&export, &[("a", &root)]).await.unwrap();
    let error = results.results[0].error.clone().unwrap();
    assert_eq!(error.reason(), Reason::DocumentInvalid, "{error:?}");
    let info = containerd_client::services::v1::InfoRequest { digest: root.descriptor.digest.to_string() };
    let unnamed = client.content.info(info.clone()).await.unwrap_err();
    assert_eq!(reason(&unnamed), "EXPORT_REQUIRED");
    let mut both = about(&export, info);
    both.metadata_mut().insert("linkspan-export", "e".parse().unwrap());
    assert_eq!(reason(&client.content.info(both).await.unwrap_err()), "EXPORT_REQUIRED");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_sees_what_there_is_and_what_it_takes() {
    let (server, _) = Server::layout();
    let mut client = server.client().await;
    for (reference, layers) in
        [("b/two", ["common", "two"]), ("a/one", ["common", "one"]), ("b/three", ["common", "x"])]
    {
        client.export(vec![target("a", reference, "")], &layers).await;
    }
    // Two pages.
    let first = ListRequest { page_size: 2, ..ListRequest::default() };
    let page = client.caches.list(first.clone()).await.unwrap().into_inner();
    let refs = |page: &ListResponse| page.versions.iter().map(|it| it.r#ref.clone()).collect::<Vec<_>>();
    assert_eq!(refs(&page), ["a/one", "b/three"]);
    let next = ListRequest { page_token: page.next_page_token, ..first };
    let page = client.caches.list(next).await.unwrap().into_inner();
    assert_eq!((refs(&page), page.next_page_token.as_str()), (vec!["b/two".to_owned()], ""));
    assert_eq!(listed(&client, "b/").await.len(), 2);

    let inspect = InspectRequest { r#ref: "a/one".to_owned(), ..InspectRequest::default() };
    let inspected = client.caches.inspect(inspect).await.unwrap().into_inner().versions.remove(0);
    let (config, root) = documents(&["common", "one"], INDEX);
    let unique = config.descriptor.size + root.descriptor.size + 3;
    assert_eq!((inspected.unique_bytes as u64, inspected.shared_bytes, inspected.missing_layers), (unique, 6, 0));
    let usage = client.caches.usage(UsageRequest {}).await.unwrap().into_inner();
    assert_eq!((usage.refs, usage.versions), (3, 3));

    let prune = PruneRequest { refs: vec!["b/*".to_owned()], dry_run: true, ..PruneRequest::default() };
    let mut pruned = client.caches.prune(prune.clone()).await.unwrap().into_inner();
    let mut events = Vec::new();
    while let Some(message) = pruned.message().await.unwrap() {
        events.push(message.event.unwrap());
    }
    let Some(prune_response::Event::Total(total)) = events.pop() else { panic!("{events:?}") };
    assert_eq!((events.len(), total.versions, total.denied), (2, 2, 0));
    assert_eq!(listed(&client, "").await.len(), 3, "nothing was deleted");
    client.caches.prune(PruneRequest { dry_run: false, ..prune }).await.unwrap();
    let after = client.caches.usage(UsageRequest {}).await.unwrap().into_inner();
    assert_eq!((after.versions, after.bytes), (1, usage.bytes - total.bytes));

    let unknown = DeleteRequest { r#ref: "b/two".to_owned(), ..DeleteRequest::default() };
    assert_eq!(reason(&client.caches.delete(unknown).await.unwrap_err()), "CACHE_UNKNOWN");
    let unknown = InspectRequest { r#ref: "b/two".to_owned(), ..InspectRequest::default() };
    assert_eq!(reason(&client.caches.inspect(unknown).await.unwrap_err()), "CACHE_UNKNOWN");
}

#[tokio::test(flavor = "multi_thread")]
async fn refs_that_policy_does_not_allow_are_neither_written_nor_deleted() {
    let (server, _) = Server::layout_with(&["--allow-cache", "team/*"]);
    let mut client = server.client().await;
    let capabilities = client.caches.capabilities(CapabilitiesRequest {}).await.unwrap().into_inner();
    assert_eq!(capabilities.allowed_refs, ["team/*"]);
    client.export(vec![target("a", "team/app", "")], &["one"]).await;
    let request = OpenRequest { targets: vec![target("a", "other/app", "")], ..OpenRequest::default() };
    let denied = client.caches.open(request).await.unwrap_err();
    assert_eq!((denied.code(), reason(&denied).as_str()), (Code::PermissionDenied, "NAME_DENIED"));
    let request = DeleteRequest { r#ref: "other/app".to_owned(), ..DeleteRequest::default() };
    assert_eq!(reason(&client.caches.delete(request).await.unwrap_err()), "NAME_DENIED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_copied_with_its_part_and_without_what_is_lost() {
    for (engine, server) in Server::each("api-copy") {
        let mut client = server.client().await;
        let capabilities = client.caches.capabilities(CapabilitiesRequest {}).await.unwrap().into_inner();
        assert_eq!(capabilities.features, ["usage", "inspect-version", "copies", "dropped"]);
        let first = client.export(vec![target("a", "app", "linux/amd64")], &["one", "two"]).await.remove(0);
        let request = ListRequest { usage: true, ..ListRequest::default() };
        let listed = client.caches.list(request).await.unwrap().into_inner();
        let (version, usage) = (listed.versions[0].clone(), listed.usage[0]);
        assert_eq!((usage.unique_bytes, usage.shared_bytes, usage.exceeding), (version.bytes, 0, false), "{engine}");

        let copied_part = Some(CopiedPart { key: version.part.clone(), title: "of its own".to_owned() });
        let copy = Target { copied_part, part: None, ..target("copy", "app", "") };
        let (config, root) = documents(&["two", "lost"], MANIFEST);
        let export = client.open(vec![copy.clone()]).await;
        for bytes in [&config.bytes[..], &root.bytes] {
            client.write(&export, bytes).await.unwrap();
        }
        assert_eq!(client.write(&export, b"two").await.unwrap_err().code(), Code::AlreadyExists);
        let mut absent = vec!["lost".to_owned()];
        let commit = |absent: &[String]| CommitRequest {
            export_id: export.clone(),
            targets: vec![CommitTarget {
                target_id: "copy".to_owned(),
                root: Some(of(&root)),
                absent_layers: absent.to_vec(),
            }],
        };
        let refused = client.caches.commit(commit(&absent)).await.unwrap_err();
        assert_eq!(reason(&refused), "INVALID_FIELD", "{refused}");
        absent = vec![Digest::sha256(b"lost").to_string()];
        let mut responses = client.caches.commit(commit(&absent)).await.unwrap().into_inner();
        let results = loop {
            match responses.message().await.unwrap().unwrap().event.unwrap() {
                commit_response::Event::Results(results) => break results.results,
                commit_response::Event::Progress(_) => {}
            }
        };
        let result = &results[0];
        assert_eq!(result.replaced.as_ref().map(|version| &version.id), Some(&first), "{engine}: {result:?}");
        let stored = result.version.clone().unwrap();
        assert_eq!((&stored.part, stored.title.as_str()), (&version.part, "of its own"));

        let inspect = InspectRequest { r#ref: "app".to_owned(), version_id: stored.id.clone() };
        let inspected = client.caches.inspect(inspect.clone()).await.unwrap().into_inner().versions;
        assert_eq!((inspected.len(), inspected[0].layers.len(), inspected[0].missing_layers), (1, 2, 1));
        let gone = InspectRequest { version_id: first.clone(), ..inspect };
        assert_eq!(reason(&client.caches.inspect(gone).await.unwrap_err()), "CACHE_UNKNOWN");

        // Its stored root can be read beside the one that lists what is there.
        let refs = vec!["app".to_owned()];
        let request = ResolveRequest { refs: refs.clone(), version_ids: vec![stored.id], ..Default::default() };
        let found = client.caches.resolve(request).await.unwrap().into_inner();
        assert_ne!(found.parts[0].root, Some(of(&root)));
        assert_eq!(client.read(&found.hold_id, &root.descriptor).await.unwrap(), root.bytes);
        client.caches.release(ReleaseRequest { hold_id: found.hold_id }).await.unwrap();
        let request = ResolveRequest { refs, version_ids: vec![first], ..Default::default() };
        let none = client.caches.resolve(request).await.unwrap().into_inner();
        assert_eq!((none.parts.len(), none.unknown_refs), (0, vec!["app".to_owned()]));

        for wrong in [
            Target { part: Some(PartName::default()), ..copy.clone() },
            Target { copied_part: Some(CopiedPart { key: "xyz".to_owned(), title: String::new() }), ..copy.clone() },
            Target { copied_part: Some(CopiedPart { key: String::new(), title: "a\nb".to_owned() }), ..copy.clone() },
        ] {
            let request = OpenRequest { targets: vec![wrong], ..OpenRequest::default() };
            assert_eq!(reason(&client.caches.open(request).await.unwrap_err()), "INVALID_FIELD");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_of_caches_are_listed_with_how_far_they_are() {
    let (server, _) = Server::layout();
    let mut client = server.client().await;
    let export = client.open(vec![target("a", "app", "")]).await;
    let address = server.linkspan.address();
    let ps = |args: &[&str]| crate::common::linkspan(["ps", "--to", &address]).args(args).ok().stdout;
    let seen = || -> Vec<serde_json::Value> {
        let row: serde_json::Value = serde_json::from_str(&ps(&["--json"])).unwrap();
        ["id", "door", "state", "blobs", "bytes", "names"].map(|key| row[key].clone()).to_vec()
    };
    let row = |state: &str, blobs: u64, bytes: u64| {
        vec![json!(export), json!("cache"), json!(state), json!(blobs), json!(bytes), json!(["cache app"])]
    };
    assert_eq!(seen(), row("open", 0, 0));
    client.write(&export, b"one").await.unwrap();
    client.write(&export, b"three").await.unwrap();
    assert_eq!(seen(), row("transferring", 2, 8));
    let table = ps(&[]);
    let words: Vec<_> = table.lines().nth(1).unwrap().split("  ").map(str::trim).filter(|it| !it.is_empty()).collect();
    assert!(words.contains(&"transferring") && words.contains(&"2") && words.contains(&"8B"), "{table}");
    client.caches.abort(AbortRequest { export_id: export.clone() }).await.unwrap();
    assert_eq!(ps(&["-q"]), "");
}
