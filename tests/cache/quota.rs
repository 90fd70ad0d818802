//! What does not fit the limits.

use linkspan::cache_v1::proto::*;
use linkspan::export_v1::proto::{ExportState, Reason};
use tonic::Code;

use crate::client::{Client, Server, target};
use crate::fixture::{INDEX, documents};
use crate::put::{commit, put, record};

async fn versions(client: &Client) -> Vec<String> {
    let listed = client.caches.clone().list(ListRequest::default()).await.unwrap().into_inner().versions;
    listed.into_iter().map(|version| version.r#ref).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_alone_exceeds_the_limit_is_refused_and_nothing_else_goes() {
    for (engine, server) in Server::each_with("api-quota", &["--cache-max-bytes", "2KiB"]) {
        let client = server.client().await;
        client.export(vec![target("a", "small", "")], &["one"]).await;
        let long = "x".repeat(3000);
        let (config, root) = documents(&[&long], INDEX);
        let export = client.open(vec![target("a", "long", "")]).await;
        for bytes in [long.as_bytes(), &config.bytes, &root.bytes] {
            client.write(&export, bytes).await.unwrap();
        }
        let results = client.commit(&export, &[("a", &root)]).await.unwrap();
        let error = results.results[0].error.clone().unwrap();
        assert_eq!(
            (error.code, error.reason()),
            (Code::ResourceExhausted as i32, Reason::Quota),
            "{engine}: {error:?}"
        );
        let bytes = 3000 + config.descriptor.size + root.descriptor.size;
        let metadata = (error.metadata["bytes"].clone(), error.metadata["limit"].clone());
        assert_eq!(metadata, (bytes.to_string(), "2048".to_owned()));
        assert!(error.metadata["hint"].contains("--cache-max-bytes"), "{error:?}");
        assert_eq!(
            (results.state(), versions(&client).await),
            (ExportState::Open, vec!["small".to_owned()]),
            "{engine}"
        );

        // What fits takes the place of what was not used for longest.
        let half = "y".repeat(1200);
        client.export(vec![target("a", "half", "")], &[&half]).await;
        assert_eq!(versions(&client).await, ["half"], "{engine}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_exceed_the_limit_are_unwanted_and_the_rest_is_stored_without_them() {
    for (engine, server) in Server::each_with("api-unwanted", &["--cache-max-bytes", "2KiB"]) {
        let client = server.client().await;
        let export = client.open(vec![target("a", "app", "")]).await;
        let (long, next) = ("x".repeat(3000), "z".repeat(1500));
        let records = vec![
            record(1, "base", &[], &["unwanted: base"]),
            record(2, "build", &[1], &["unwanted: base", &long]),
            record(3, "next", &[1], &["unwanted: base", &next]),
            record(4, "over", &[3], &["unwanted: base", &next, &"w".repeat(900)]),
        ];
        let standings = put(&client, &export, records).await.unwrap();
        let expected = [Standing::Wanted, Standing::Unwanted, Standing::Wanted, Standing::Unwanted];
        assert_eq!(standings, expected, "{engine}");
        client.write(&export, b"unwanted: base").await.unwrap();
        let stored = commit(&client, &export).await;
        assert_eq!((stored.error, stored.version.unwrap().layers), (None, 1), "{engine}");
        let request = InspectRequest { r#ref: "app".to_owned(), ..InspectRequest::default() };
        let inspected = client.caches.clone().inspect(request).await.unwrap().into_inner().versions.remove(0);
        assert_eq!((inspected.records, inspected.results), (4, 1), "{engine}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_versions_are_kept_and_a_part_replaces_those_that_it_covers() {
    for (engine, server) in Server::each_with("api-count", &["--cache-max-count", "3"]) {
        let client = server.client().await;
        for platform in ["linux/amd64", "linux/arm64", "linux/s390x"] {
            client.export(vec![target("a", "app", platform)], &["common", platform]).await;
        }
        client.export(vec![target("a", "app", "linux/arm64,linux/amd64")], &["common", "both"]).await;
        let inspect = InspectRequest { r#ref: "app".to_owned(), ..InspectRequest::default() };
        let inspected = client.caches.clone().inspect(inspect).await.unwrap().into_inner().versions;
        let titles: Vec<_> = inspected.into_iter().map(|it| it.version.unwrap().title).collect();
        assert_eq!(titles, ["linux/arm64,linux/amd64", "linux/s390x"], "{engine}");

        for reference in ["one", "two"] {
            client.export(vec![target("a", reference, "")], &["common", reference]).await;
        }
        let usage = client.caches.clone().usage(UsageRequest {}).await.unwrap().into_inner();
        assert_eq!((usage.versions, usage.max_versions), (3, 3), "{engine}");
        assert_eq!(versions(&client).await, ["app", "one", "two"], "{engine}");
        let request = ResolveRequest { refs: vec!["app".to_owned()], ..ResolveRequest::default() };
        let parts = client.caches.clone().resolve(request).await.unwrap().into_inner().parts;
        let titles: Vec<_> = parts.into_iter().map(|part| part.version.unwrap().title).collect();
        assert_eq!(titles, ["linux/arm64,linux/amd64"], "{engine}: what was not used for longest went");
    }
}
