//! Holds: listed, limited, and ended when nobody needs them.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{StreamExt as _, stream};
use linkspan::cache_v1::proto::lookup::What;
use linkspan::cache_v1::proto::*;
use linkspan::caches::{Caches, Part};
use linkspan::engine::select::{Selection, select};
use linkspan::image::{Descriptor, Digest};
use rustix::process::Signal;
use serde_json::{Value, json};
use tonic::Status;

use crate::client::{Client, Server, reason, target};
use crate::common::{Stack, linkspan, text, until, until_called};
use crate::fixture::{INDEX, caches, listing, name, origin, write};
use crate::resolve::write_image;

/// Holds at once.
const HOLDS: usize = 1024;

async fn resolve(client: &Client, refs: &[&str], seconds: i64) -> Result<ResolveResponse, Status> {
    let request = ResolveRequest {
        refs: refs.iter().map(|text| (*text).to_owned()).collect(),
        ttl: Some(prost_types::Duration { seconds, nanos: 0 }),
        ..ResolveRequest::default()
    };
    Ok(client.caches.clone().resolve(request).await?.into_inner())
}

async fn release(client: &Client, id: &str) {
    client.caches.clone().release(ReleaseRequest { hold_id: id.to_owned() }).await.unwrap();
}

/// What `linkspan ps` lists.
fn listed(server: &Server) -> Vec<Value> {
    let lines = linkspan(["ps", "--json", "--to", &server.linkspan.address()]).ok().lines();
    lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn holds_are_listed_with_whose_they_are_and_when_they_end() {
    for (engine, server) in Server::each("holds-listed") {
        let client = server.client().await;
        client.export(vec![target("a", "app", "")], &["held layer"]).await;
        client.export(vec![target("a", "other", "")], &["held layer"]).await;
        let found = resolve(&client, &["app", "none", "other"], 600).await.unwrap();
        let rows = listed(&server);
        let [row] = &rows[..] else { panic!("{engine}: {rows:?}") };
        let seen = ["id", "door", "state", "names"].map(|key| row[key].clone());
        let expected = [json!(found.hold_id), json!("cache"), json!("held"), json!(["cache app", "cache other"])];
        assert_eq!(seen, expected, "{engine}");
        assert!(row["principal"].as_str().unwrap().starts_with("uid "), "{row}");
        let expires = found.expire_time.unwrap().seconds;
        assert_eq!(row["expires"], expires, "{engine}");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
        assert!(row["created"].as_i64().unwrap() <= now && expires > now, "{row}");
        // Both caches have the same layer and the same config, and so the same root.
        let version = found.parts[0].version.as_ref().unwrap();
        assert_eq!((row["blobs"].as_u64(), row["bytes"].as_i64()), (Some(3), Some(version.bytes)), "{engine}");
        let table = linkspan(["ps", "--to", &server.linkspan.address()]).ok().stdout;
        assert!(table.contains("  held, ") && table.contains(" left  "), "{table}");

        let renew =
            RenewRequest { id: found.hold_id.clone(), ttl: Some(prost_types::Duration { seconds: 6000, nanos: 0 }) };
        let renewed = client.caches.clone().renew(renew).await.unwrap().into_inner().expire_time.unwrap().seconds;
        assert_eq!(listed(&server)[0]["expires"], renewed, "{engine}");
        release(&client, &found.hold_id).await;
        assert_eq!(listed(&server), Vec::<Value>::new(), "{engine}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_is_not_renewed_ends_with_its_lease() {
    for (engine, server) in Server::each("holds-expire") {
        let client = server.client().await;
        client.export(vec![target("a", "app", "")], &["held layer"]).await;
        let layer = Descriptor::new("layer", Digest::sha256(b"held layer"), 10);
        let renewed = resolve(&client, &["app"], 1).await.unwrap().hold_id;
        let renew = RenewRequest { id: renewed.clone(), ttl: Some(prost_types::Duration { seconds: 600, nanos: 0 }) };
        client.caches.clone().renew(renew).await.unwrap();
        let found = resolve(&client, &["app"], 2).await.unwrap();
        let look = async || client.read(&found.hold_id, &layer).await.err().map(|status| reason(&status));
        let ended = until_called("the hold to end", look, Option::is_some).await;
        assert_eq!(ended.as_deref(), Some("HOLD_ENDED"), "{engine}");
        let expires = found.expire_time.unwrap();
        assert!(SystemTime::try_from(expires).unwrap() <= SystemTime::now(), "{engine}: it ended before its time");
        assert_eq!(client.read(&renewed, &layer).await.unwrap(), "held layer", "{engine}");
        assert_eq!(listed(&server).len(), 1, "{engine}");
        release(&client, &renewed).await;
        match engine {
            // The version has a lease itself.
            "containerd" => drop(until("the leases to go", || server.stack.leases("holds-expire"), |it| it.len() == 1)),
            _ => server.until_released(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_at_most_1024_holds_until_some_end() {
    let (server, _) = Server::layout();
    let client = server.client().await;
    client.export(vec![target("a", "app", "")], &["held layer"]).await;
    let calls = (0..HOLDS + 50).map(|_| resolve(&client, &["app"], 600));
    let (mut held, mut refused) = (Vec::new(), Vec::new());
    for response in stream::iter(calls).buffer_unordered(64).collect::<Vec<_>>().await {
        match response {
            Ok(response) => held.push(response.hold_id),
            Err(status) => refused.push(status),
        }
    }
    assert_eq!((held.len(), refused.len()), (HOLDS, 50));
    for status in &refused {
        assert_eq!((status.code(), reason(status).as_str()), (tonic::Code::ResourceExhausted, "LIMIT_EXCEEDED"));
        assert!(status.message().contains("1024 holds are not released"), "{status}");
    }
    assert_eq!(listed(&server).len(), HOLDS);
    // A command says what to do.
    let to = server.stack.fresh_path("-full");
    let full = linkspan(["cache", "export", "app", text(&to), "--to", &server.linkspan.address()]).fails();
    assert!(full.stderr.contains("1024 holds") && full.stderr.contains("`linkspan ps"), "{full}");

    release(&client, &held.pop().unwrap()).await;
    resolve(&client, &["app"], 1).await.unwrap();
    // That one ends by itself.
    let look = async || resolve(&client, &["app"], 600).await.is_ok();
    until_called("room for another hold", look, |is_held| *is_held).await;
    eprintln!("{HOLDS} holds: {} bytes at most were resident", server.linkspan.peak_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_command_leaves_no_hold() {
    let (server, _) = Server::layout();
    let client = server.client().await;
    client.export(vec![target("a", "app", "")], &["held layer"]).await;
    for at in 0..60 {
        let to = server.stack.fresh_path("-interrupted");
        let exporting = linkspan(["cache", "export", "app", text(&to), "--to", &server.linkspan.address()]).spawn();
        tokio::time::sleep(Duration::from_micros(1500 * at)).await;
        exporting.signal(Signal::INT);
        exporting.wait();
    }
    // Far less than a hold's time.
    let rows = until("the holds to end", || listed(&server), Vec::is_empty);
    assert_eq!(rows, Vec::<Value>::new());
    server.until_released();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_of_several_images_and_caches_keeps_all_of_them() {
    let namespace = "holds-several";
    let server = Server::containerd(namespace);
    let client = server.client().await;
    client.export(vec![target("a", "app", "")], &["held layer"]).await;
    let folder = server.stack.fresh_path("-inline");
    write_image(&folder);
    server.command(&["load", "-i", text(&folder)]).ok();
    server.command(&["tag", "inline:api", "inline:other"]).ok();
    let found = resolve(&client, &["inline:api", "inline:other", "app"], 600).await.unwrap();
    assert_eq!((found.parts.len(), found.unknown_refs), (3, Vec::new()));
    // One lease for each image and one for the caches, beside that of the version.
    let leases = || server.stack.leases(namespace);
    until("all of it to be leased", leases, |leases| leases.len() == 4);
    release(&client, &found.hold_id).await;
    until("the leases to go", leases, |leases| leases.len() == 1);
}

/// Stores a cache with a config of at least so many bytes, and returns the digest of a step without inputs.
async fn store_long(caches: &Arc<Caches>, reference: &str, least: usize) -> String {
    let record = |at: usize| {
        let digest = Digest::sha256(format!("{}@0", step(at)).as_bytes());
        let results = json!([{"layer": 0, "createdAt": "2026-01-02T03:04:05Z"}]);
        match at {
            0 => json!({"digest": digest, "layers": results}),
            _ => json!({"digest": digest, "layers": results, "inputs": [[{"link": at - 1}]]}),
        }
    };
    let count = least / record(1).to_string().len() + 1;
    let layer = "long: layer";
    let records: Vec<_> = (0..count).map(record).collect();
    let config = json!({"layers": [{"blob": Digest::sha256(layer.as_bytes()), "parent": -1}], "records": records});
    let (config, root) = listing(&[layer], &config, INDEX);
    assert!(config.bytes.len() >= least);
    let export = caches.begin(&name(reference), &Part::default(), "max", 1, &origin()).await.unwrap();
    write(&*export.lease(), layer.as_bytes()).await;
    export.commit(config, root, Default::default()).await.unwrap();
    step(0)
}

fn step(at: usize) -> String {
    format!("step {at}")
}

#[tokio::test(flavor = "multi_thread")]
async fn configs_of_up_to_16_mib_are_imported_inspected_and_looked_up() {
    let (server, _) = Server::layout();
    let mut client = server.client().await;
    let folder = Stack::shared().fresh_path("-configs");
    let source = caches(&*select(&Selection::layout(&folder)).await.unwrap().engine);
    for mebibytes in [1, 2, 4, 8, 16] {
        let reference = format!("long/{mebibytes}");
        let digest = store_long(&source, &reference, mebibytes << 20).await;
        let address = server.linkspan.address();
        let import = ["cache", "import", "--tag", &reference, text(&folder), &reference, "--to", &address];
        linkspan(import).ok();
        let found = resolve(&client, &[&reference], 600).await.unwrap();
        let what = Some(What::Root(RootKey { digest, output: 0 }));
        let hold_id = found.hold_id.clone();
        let request = QueryRequest { hold_id, lookups: vec![Lookup { tag: 1, what }], ahead: 100 };
        let mut responses = client.caches.query(stream::iter([request])).await.unwrap().into_inner();
        let answer = responses.message().await.unwrap().unwrap().found.remove(0);
        assert_eq!((answer.keys.len(), answer.ahead.len()), (1, 100), "{mebibytes} MiB");
        let inspect = InspectRequest { r#ref: reference, ..InspectRequest::default() };
        let inspected = client.caches.inspect(inspect).await.unwrap().into_inner().versions.remove(0);
        assert!(inspected.records > 1000, "{mebibytes} MiB: {inspected:?}");
        release(&client, &found.hold_id).await;
        eprintln!("{mebibytes} MiB: {} bytes at most were resident", server.linkspan.peak_bytes());
    }
}
