//! Watch: what happens to versions is reported to whoever watches.

use std::time::Duration;

use linkspan::cache_v1::proto::watch_response::Event;
use linkspan::cache_v1::proto::*;
use tokio::time::timeout;
use tonic::Streaming;

use crate::client::{Client, Server, reason, target};
use crate::common::until_called;

type Watch = Streaming<WatchResponse>;

async fn next(watch: &mut Watch) -> Option<Event> {
    let received = timeout(Duration::from_secs(60), watch.message()).await.unwrap();
    received.unwrap().map(|message| message.event.unwrap())
}

async fn watch(client: &Client, prefix: &str) -> Watch {
    let request = WatchRequest { prefix: prefix.to_owned() };
    let mut watch = client.caches.clone().watch(request).await.unwrap().into_inner();
    assert_eq!(next(&mut watch).await, Some(Event::Started(WatchStarted {})));
    watch
}

/// The next event: what has happened to which ref, and the id of the version.
async fn next_change(watch: &mut Watch) -> (VersionChange, String, String) {
    let Some(Event::Version(event)) = next(watch).await else { panic!("no version") };
    let version = event.version.clone().unwrap();
    assert!(event.time.is_some() && version.root.unwrap().digest.starts_with("sha256:"), "{event:?}");
    (event.change(), version.r#ref, version.id)
}

async fn delete(client: &Client, reference: &str) {
    let request = DeleteRequest { r#ref: reference.to_owned(), ..DeleteRequest::default() };
    client.caches.clone().delete(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_versions_by_any_process_are_reported() {
    use VersionChange::{Committed, Deleted, Pruned, Replaced};
    for (engine, mut server) in Server::each("api-watch") {
        let client = server.client().await;
        let before = client.export(vec![target("a", "team/app", "")], &["zero"]).await.remove(0);
        let mut team = watch(&client, "team/").await;
        let mut all = watch(&client, "").await;
        let first = client.export(vec![target("a", "team/app", "")], &["one"]).await.remove(0);
        let other = client.export(vec![target("a", "other", "")], &["one"]).await.remove(0);
        // Nothing is stored, so nothing is reported.
        client.export(vec![target("a", "team/app", "")], &["one"]).await;
        delete(&client, "team/app").await;
        let second = client.export(vec![target("a", "team/app", "")], &["two"]).await.remove(0);
        client
            .caches
            .clone()
            .prune(PruneRequest { refs: vec!["team/*".to_owned()], ..Default::default() })
            .await
            .unwrap();
        let expected = [
            (Committed, "team/app", &first),
            (Replaced, "team/app", &before),
            (Deleted, "team/app", &first),
            (Committed, "team/app", &second),
            (Pruned, "team/app", &second),
        ];
        for (change, reference, id) in expected {
            assert_eq!(next_change(&mut team).await, (change, reference.to_owned(), id.clone()), "{engine}");
        }
        for (change, id) in [(Committed, &first), (Replaced, &before), (Committed, &other)] {
            let (received_change, _, received_id) = next_change(&mut all).await;
            assert_eq!((received_change, &received_id), (change, id), "{engine}");
        }

        // Other processes change the same store.
        let folder = server.stack.fresh_path("-watched");
        server.command(&["cache", "export", "other", folder.to_str().unwrap()]).ok();
        server.command(&["cache", "import", folder.to_str().unwrap(), "team/imported"]).ok();
        let (change, reference, id) = next_change(&mut team).await;
        assert_eq!((change, reference.as_str()), (Committed, "team/imported"), "{engine}");
        server.command(&["cache", "rm", "team/imported"]).ok();
        assert_eq!(next_change(&mut team).await, (Deleted, "team/imported".to_owned(), id), "{engine}");

        // It ends with the server, which does not wait for it.
        assert!(server.linkspan.terminate().success(), "{engine}: {}", server.linkspan.log());
        assert_eq!(next(&mut team).await, None, "{engine}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_too_slowly_gets_the_number_of_missed_events() {
    let (server, _) = Server::layout();
    let client = server.client().await;
    // As little as a client may take before it reads, so that the rest waits in the server.
    let slow = server.client_with_window(65_535).await;
    let mut watch = watch(&slow, "").await;
    let (exports, targets) = (20, 16);
    for export in 0..exports {
        let name = |at: usize| format!("{export}-{at}-{}", "x".repeat(180));
        let targets = (0..targets).map(|at| target(&format!("t{at}"), &name(at), "")).collect();
        client.export(targets, &["one"]).await;
    }
    let pruned = client.caches.clone().prune(PruneRequest::default()).await.unwrap().into_inner();
    drop(pruned);
    let (mut seen, mut missed) = (0, 0);
    while seen + missed < 2 * i64::from(exports) * targets as i64 {
        match next(&mut watch).await.unwrap() {
            Event::Version(_) => seen += 1,
            Event::Missed(WatchMissed { events }) => missed += events,
            Event::Started(_) => panic!("it has begun"),
        }
    }
    assert!(seen > 0 && missed > 0, "{seen} seen, {missed} missed");
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_so_many_clients_watch() {
    let (server, _) = Server::layout();
    let client = server.client().await;
    let limits = client.caches.clone().capabilities(CapabilitiesRequest {}).await.unwrap().into_inner().limits.unwrap();
    let mut watches = Vec::new();
    for _ in 0..limits.watches {
        watches.push(watch(&client, "").await);
    }
    let refused = client.caches.clone().watch(WatchRequest::default()).await.unwrap_err();
    assert_eq!(reason(&refused), "LIMIT_EXCEEDED");
    drop(watches.pop());
    let again = async || client.caches.clone().watch(WatchRequest::default()).await.map(|_| ());
    until_called("the place of one that has ended", again, Result::is_ok).await.unwrap();
}
