//! Versions that are deleted while they are read.

use linkspan::cache_v1::proto::*;
use linkspan::image::{Descriptor, Digest};

use crate::client::{Client, Server, target};
use crate::common::{text, until};
use crate::fixture::{INDEX, documents, held};

/// Daemons in front of each engine that stores caches, with the namespace of those in containerd.
fn servers(namespace: &'static str) -> [(&'static str, Server, Option<&'static str>); 3] {
    [
        ("layout", Server::layout().0, None),
        ("containerd", Server::containerd(namespace), Some(namespace)),
        ("docker", Server::docker(), Some("moby")),
    ]
}

async fn hold(client: &Client, reference: &str) -> String {
    let request = ResolveRequest { refs: vec![reference.to_owned()], ..ResolveRequest::default() };
    client.caches.clone().resolve(request).await.unwrap().into_inner().hold_id
}

fn layer(bytes: &str) -> Descriptor {
    Descriptor::new("layer", Digest::sha256(bytes.as_bytes()), bytes.len() as u64)
}

fn digests(layer: &str) -> Vec<String> {
    let (config, root) = documents(&[layer], INDEX);
    let all = [Digest::sha256(layer.as_bytes()), config.descriptor.digest, root.descriptor.digest];
    all.iter().map(ToString::to_string).collect()
}

/// The ids of a ref, as another process lists them.
fn listed(server: &Server, reference: &str) -> Vec<String> {
    server.command(&["cache", "ls", "-q", "--no-trunc", &format!("{reference}*")]).ok().lines()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_while_it_is_held_is_gone_for_every_process_and_stays_so_when_the_daemon_is_killed() {
    for (engine, mut server, namespace) in servers("retired") {
        for by in ["deleted", "replaced"] {
            let (reference, bytes) = (format!("retired/{by}"), format!("retired: {by}"));
            let mut client = server.client().await;
            client.export(vec![target("a", &reference, "")], &[&bytes]).await;
            let id = hold(&client, &reference).await;
            let left = match by {
                "deleted" => {
                    let request = DeleteRequest { r#ref: reference.clone(), ..DeleteRequest::default() };
                    client.caches.delete(request).await.unwrap();
                    Vec::new()
                }
                _ => client.export(vec![target("a", &reference, "")], &["retired: newer"]).await,
            };
            assert_eq!(listed(&server, &reference), left, "{engine}, {by}: another process lists it no longer");
            if let Some(namespace) = namespace {
                server.stack.collect_garbage(namespace);
            }
            assert_eq!(client.read(&id, &layer(&bytes)).await.unwrap(), bytes, "{engine}, {by}: it is held");

            server.linkspan.kill();
            assert_eq!(listed(&server, &reference), left, "{engine}, {by}: that is not undone");
            server.restart();
            let client = server.client().await;
            assert_eq!(hold(&client, &reference).await.is_empty(), left.is_empty(), "{engine}, {by}");
            if let Some(namespace) = namespace {
                let look = || {
                    server.stack.collect_garbage(namespace);
                    held(server.stack, namespace, &digests(&bytes))
                };
                until("its blobs to go", look, |held| held.iter().all(|held| !held));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_while_it_is_held_goes_when_the_hold_ends() {
    for (engine, server, namespace) in servers("retired-ends") {
        let (reference, bytes) = ("retired/ends", "retired: ends");
        let mut client = server.client().await;
        client.export(vec![target("a", reference, "")], &[bytes]).await;
        let holds = [hold(&client, reference).await, hold(&client, reference).await];
        let request = DeleteRequest { r#ref: reference.to_owned(), ..DeleteRequest::default() };
        client.caches.delete(request).await.unwrap();
        for id in holds {
            if let Some(namespace) = namespace {
                server.stack.collect_garbage(namespace);
            }
            assert_eq!(client.read(&id, &layer(bytes)).await.unwrap(), bytes, "{engine}");
            client.caches.release(ReleaseRequest { hold_id: id }).await.unwrap();
        }
        match namespace {
            Some(namespace) => {
                let look = || {
                    server.stack.collect_garbage(namespace);
                    held(server.stack, namespace, &digests(bytes))
                };
                until("its blobs to go", look, |held| held.iter().all(|held| !held));
            }
            None => server.until_released(),
        }
    }
}

/// After how many milliseconds of a deletion the daemon is killed: before it, at its steps, and after it.
const INSTANTS: [u64; 12] = [0, 2, 5, 10, 15, 20, 30, 45, 60, 90, 150, 300];

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_killed_while_it_deletes_leaves_a_version_whole_or_gone() {
    for (engine, mut server, namespace) in servers("retired-killed") {
        if engine == "docker" {
            // It deletes as containerd does, and has leases of other tests.
            continue;
        }
        let mut remained = 0;
        for (at, instant) in INSTANTS.into_iter().enumerate() {
            let (reference, bytes) = (format!("killed/{at}"), format!("killed: {at}"));
            let mut client = server.client().await;
            let id = client.export(vec![target("a", &reference, "")], &[&bytes]).await.remove(0);
            hold(&client, &reference).await;
            let request = DeleteRequest { r#ref: reference.clone(), ..DeleteRequest::default() };
            let deleting = tokio::spawn(async move { client.caches.delete(request).await });
            tokio::time::sleep(std::time::Duration::from_millis(instant)).await;
            server.linkspan.kill();
            let is_done = deleting.await.unwrap().is_ok();
            let left = listed(&server, &reference);
            assert!(left.is_empty() || !is_done, "{engine}, {instant}: what was said to be deleted is back");
            server.restart();
            assert_eq!(listed(&server, &reference), left, "{engine}, {instant}");
            match (namespace, left.is_empty()) {
                (Some(namespace), is_gone) => {
                    let look = || {
                        server.stack.collect_garbage(namespace);
                        (server.stack.leases(namespace), held(server.stack, namespace, &digests(&bytes)))
                    };
                    let expected = (left.clone(), vec![!is_gone; 3]);
                    until("the version whole, or nothing of it", look, |seen| *seen == expected);
                }
                (None, _) => server.until_released(),
            }
            if !left.is_empty() {
                remained += 1;
                assert_eq!(left, [id]);
                let to = server.stack.fresh_path("-whole");
                server.command(&["cache", "export", &reference, text(&to)]).ok();
                server.command(&["cache", "rm", &reference]).ok();
            }
        }
        eprintln!("{engine}: {remained} of {} versions remained", INSTANTS.len());
    }
}
