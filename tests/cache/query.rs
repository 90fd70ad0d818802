//! Lookups of records, without the documents.

use futures_util::stream;
use linkspan::cache_v1::proto::lookup::What;
use linkspan::cache_v1::proto::*;
use linkspan::image::Digest;
use serde_json::json;

use crate::client::{Client, Server, reason, target};
use crate::fixture::{INDEX, listing};

/// BuildKit's name for the first output of a step.
fn record(step: &str) -> String {
    Digest::sha256(format!("{step}@0").as_bytes()).to_string()
}

/// A cache of three steps: `base`, `build` on it, and `test` on `build`. The results of the first two are layers.
async fn export(client: &Client) {
    let blob = |text: &str| Digest::sha256(text.as_bytes());
    let config = json!({
        "layers": [{"blob": blob("one"), "parent": -1}, {"blob": blob("two"), "parent": 0}],
        "records": [
            {"digest": record("base"), "layers": [{"layer": 0, "createdAt": "2026-01-02T03:04:05Z"}]},
            {"digest": record("build"), "inputs": [[{"selector": "src", "link": 0}]], "layers": [{"layer": 1}]},
            {"digest": record("test"), "inputs": [[{"link": 1}]]},
        ],
    });
    let (config, root) = listing(&["one", "two"], &config, INDEX);
    let export = client.open(vec![target("a", "app", "")]).await;
    for bytes in [b"one", &b"two"[..], &config.bytes, &root.bytes] {
        client.write(&export, bytes).await.unwrap();
    }
    assert_eq!(client.commit(&export, &[("a", &root)]).await.unwrap().results[0].error, None);
}

async fn hold(client: &Client) -> String {
    let request = ResolveRequest { refs: vec!["app".to_owned()], ..ResolveRequest::default() };
    client.caches.clone().resolve(request).await.unwrap().into_inner().hold_id
}

async fn query(client: &Client, hold: &str, what: Vec<What>, ahead: i32) -> Vec<Found> {
    let numbered = what.into_iter().zip(7..);
    let lookups = numbered.map(|(what, tag)| Lookup { tag, what: Some(what) }).collect();
    let message = QueryRequest { hold_id: hold.to_owned(), lookups, ahead };
    let mut responses = client.caches.clone().query(stream::iter([message])).await.unwrap().into_inner();
    responses.message().await.unwrap().unwrap().found
}

fn root(step: &str) -> What {
    What::Root(RootKey { digest: step.to_owned(), output: 0 })
}

fn link(from: &[u8], step: &str, selector: &str) -> What {
    let (digest, selector) = (step.to_owned(), selector.to_owned());
    What::Link(Link { from_key: from.to_vec(), digest, selector, ..Link::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_is_followed_from_step_to_step_to_its_layers() {
    let (server, _) = Server::layout();
    let client = server.client().await;
    export(&client).await;
    let hold = hold(&client).await;
    let found = query(&client, &hold, vec![root("base"), root("build"), root("no")], 0).await;
    assert_eq!(found.iter().map(|it| (it.tag, it.keys.len())).collect::<Vec<_>>(), [(7, 1), (8, 0), (9, 0)]);
    let base = &found[0].keys[0].key;
    let lookups = vec![link(base, "build", "src"), link(base, "build", ""), link(b"none", "build", "src")];
    let found = query(&client, &hold, lookups, 0).await;
    assert_eq!(found.iter().map(|it| it.keys.len()).collect::<Vec<_>>(), [1, 0, 0]);
    let build = found[0].keys[0].key.clone();

    let keys = vec![base.clone(), build, b"none".to_vec()];
    let request = RecordsRequest { hold_id: hold.clone(), keys };
    let records = client.caches.clone().records(request).await.unwrap().into_inner().records;
    let results: Vec<_> = records.iter().map(|it| it.results.len()).collect();
    assert_eq!(results, [1, 1, 0]);
    assert_eq!(records[0].results[0].create_time.unwrap().to_string(), "2026-01-02T03:04:05Z");
    let result = &records[1].results[0];
    assert_eq!((result.layers, result.bytes, result.present), (2, 6, true));
    let request = LoadRequest { hold_id: hold.clone(), result_id: result.id.clone() };
    let chain = client.caches.clone().load(request).await.unwrap().into_inner().chain;
    let expected = ["one", "two"].map(|text| Digest::sha256(text.as_bytes()).to_string());
    assert_eq!(chain.into_iter().map(|layer| layer.digest).collect::<Vec<_>>(), expected);

    let unknown = LoadRequest { hold_id: hold.clone(), result_id: "0.9.9".to_owned() };
    assert_eq!(reason(&client.caches.clone().load(unknown).await.unwrap_err()), "INVALID_FIELD");
    let ended = LoadRequest { hold_id: "hold-none".to_owned(), result_id: "0.0.0".to_owned() };
    assert_eq!(reason(&client.caches.clone().load(ended).await.unwrap_err()), "HOLD_ENDED");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_comes_with_the_response() {
    let (server, _) = Server::layout();
    let client = server.client().await;
    export(&client).await;
    let hold = hold(&client).await;
    let found = query(&client, &hold, vec![root("base")], 10).await.remove(0);
    let ahead: Vec<_> = found.ahead.iter().map(|it| (it.record_digest.clone(), it.selector.as_str())).collect();
    assert_eq!(ahead, [(record("build"), "src"), (record("test"), "")]);
    let keys: Vec<_> = found.ahead.iter().map(|it| it.key.clone().unwrap()).collect();
    assert_eq!(
        (found.ahead[1].from_key.clone(), keys[0].has_results, keys[1].has_results),
        (keys[0].key.clone(), true, false)
    );
    assert_eq!(query(&client, &hold, vec![root("base")], 1).await[0].ahead.len(), 1);
}
