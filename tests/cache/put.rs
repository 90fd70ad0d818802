//! Records in place of documents: the server says what it lacks, and makes the documents.

use futures_util::stream;
use linkspan::cache_v1::proto::lookup::What;
use linkspan::cache_v1::proto::*;
use linkspan::export_v1::proto::Descriptor;
use linkspan::image::Digest;

use crate::client::{Client, Server, reason, target};

fn layer(text: &str) -> Descriptor {
    Descriptor {
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
        digest: Digest::sha256(text.as_bytes()).to_string(),
        size: text.len() as i64,
        ..Descriptor::default()
    }
}

pub(crate) fn record(number: u32, step: &str, inputs: &[u32], layers: &[&str]) -> NewRecord {
    let alternative = |record: &u32| Alternative { record: *record, selector: String::new() };
    let input = |record: &u32| Input { alternatives: vec![alternative(record)] };
    let result = NewResult { chain: layers.iter().map(|text| layer(text)).collect(), create_time: None };
    NewRecord {
        number,
        record_digest: Digest::sha256(format!("{step}@0").as_bytes()).to_string(),
        inputs: inputs.iter().map(input).collect(),
        results: if layers.is_empty() { Vec::new() } else { vec![result] },
    }
}

pub(crate) async fn put(
    client: &Client,
    export: &str,
    records: Vec<NewRecord>,
) -> Result<Vec<Standing>, tonic::Status> {
    let message = PutRequest { export_id: export.to_owned(), records };
    let mut responses = client.caches.clone().put(stream::iter([message])).await?.into_inner();
    let layers = responses.message().await?.unwrap().layers;
    Ok(layers.iter().map(PutLayer::standing).collect())
}

/// Commits the only target with the records that were put.
pub(crate) async fn commit(client: &Client, export: &str) -> TargetResult {
    let targets = vec![CommitTarget { target_id: "a".to_owned(), ..CommitTarget::default() }];
    let request = CommitRequest { export_id: export.to_owned(), targets };
    let mut responses = client.caches.clone().commit(request).await.unwrap().into_inner();
    loop {
        if let commit_response::Event::Results(results) = responses.message().await.unwrap().unwrap().event.unwrap() {
            return results.results.into_iter().next().unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_is_made_of_records_and_the_layers_that_were_sent() {
    for (engine, server) in Server::each("api-put") {
        let mut client = server.client().await;
        client.export(vec![target("a", "other", "")], &["put one"]).await;
        let export = client.open(vec![target("a", "app", "")]).await;
        let first = put(&client, &export, vec![record(5, "base", &[], &["put one"])]).await.unwrap();
        assert_eq!(first, [Standing::Present], "{engine}");
        let records = vec![
            record(7, "build", &[5], &["put one", "put two"]),
            record(8, "test", &[7], &[]),
            record(9, "unsent", &[7], &["put one", "put two", "put three"]),
        ];
        let standings = put(&client, &export, records).await.unwrap();
        assert_eq!(standings, [Standing::Present, Standing::Wanted, Standing::Wanted]);
        client.write(&export, b"put two").await.unwrap();
        let stored = commit(&client, &export).await;
        assert_eq!((stored.error, stored.version.unwrap().layers), (None, 2));

        // The result of which a layer was not sent is not there; its record is.
        let request = InspectRequest { r#ref: "app".to_owned(), ..InspectRequest::default() };
        let inspected = client.caches.inspect(request).await.unwrap().into_inner().versions.remove(0);
        assert_eq!((inspected.records, inspected.results, inspected.missing_layers), (4, 2, 0));
        let request = ResolveRequest { refs: vec!["app".to_owned()], ..ResolveRequest::default() };
        let hold_id = client.caches.resolve(request).await.unwrap().into_inner().hold_id;
        let what = Some(What::Root(RootKey { digest: "base".to_owned(), output: 0 }));
        let request = QueryRequest { hold_id, lookups: vec![Lookup { tag: 1, what }], ahead: 10 };
        let mut responses = client.caches.query(stream::iter([request])).await.unwrap().into_inner();
        assert_eq!(responses.message().await.unwrap().unwrap().found[0].ahead.len(), 3);

        // The same records make the same cache.
        let again = client.open(vec![target("a", "app", "")]).await;
        let records = vec![record(1, "base", &[], &["put one"]), record(2, "build", &[1], &["put one", "put two"])];
        put(&client, &again, records).await.unwrap();
        let rest = vec![record(3, "test", &[2], &[]), record(4, "unsent", &[2], &["put one", "put two", "put three"])];
        put(&client, &again, rest).await.unwrap();
        assert!(commit(&client, &again).await.unchanged, "{engine}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_make_no_sense_are_refused_whole() {
    let (server, _) = Server::layout();
    let client = server.client().await;
    let export = client.open(vec![target("a", "app", "")]).await;
    let unnamed = vec![record(1, "base", &[], &[]), record(2, "build", &[3], &[])];
    assert_eq!(reason(&put(&client, &export, unnamed).await.unwrap_err()), "INVALID_FIELD");
    let twice = vec![record(1, "base", &[], &[]), record(1, "build", &[], &[])];
    assert_eq!(reason(&put(&client, &export, twice).await.unwrap_err()), "INVALID_FIELD");
    assert_eq!(put(&client, &export, vec![record(1, "base", &[], &[])]).await.unwrap(), []);
    let nothing = CommitRequest {
        export_id: client.open(vec![target("a", "app", "")]).await,
        targets: vec![CommitTarget { target_id: "a".to_owned(), ..CommitTarget::default() }],
    };
    assert_eq!(reason(&client.caches.clone().commit(nothing).await.unwrap_err()), "INVALID_FIELD");
}
