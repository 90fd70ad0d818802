//! Exports of the API into a cluster whose nodes stop, leave, are made again or lose what they had.

use std::path::Path;

use linkspan::export_v1::proto::{AbortRequest, ExportState, GetRequest, OpenRequest, Reason};
use tonic::Code;

use super::nodes::{Cluster, ctr};
use crate::client::{Client, exporter, reason, small_image, success, target};
use crate::common::{Linkspan, Stack, full_name, linkspan, unix, until};

/// A daemon in front of `cluster`, whose door is `door`.
fn serve(cluster: &Cluster<'_>, door: &Path) -> Linkspan {
    let address = cluster.address();
    let flags = ["--engine", &address, "--docker-host", cluster.stack.docker_host()];
    Linkspan::export(cluster.stack, &flags, &["--log-level", "debug"], door.to_owned())
}

async fn abort(client: &Client, export: &str) -> Result<(), tonic::Status> {
    client.exports.clone().abort(AbortRequest { export_id: export.to_owned() }).await.map(drop)
}

#[tokio::test]
async fn an_export_that_was_aborted_while_a_node_was_away_has_ended_there_too() {
    let stack = Stack::shared();
    let cluster = Cluster::start(stack, "aborted");
    let door = stack.fresh_path("-export.sock");
    let mut daemon = serve(&cluster, &door);
    let client = Client::connect(&door).await;
    let stop = || stack.docker(["stop", "--timeout", "5", cluster.worker()]).ok();
    let start = || {
        stack.docker(["start", cluster.worker()]).ok();
        cluster.until_up();
    };
    // The daemon that runs releases it when the node is back.
    let export = client.open(&["one"]).await;
    client.send(&export, &small_image("first")).await;
    stop();
    assert_eq!(abort(&client, &export).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(abort(&client, &export).await.unwrap_err().code(), Code::Unavailable, "it is still there");
    start();
    abort(&client, &export).await.unwrap();
    cluster.until_released();

    // So does the next one.
    let export = client.open(&["one"]).await;
    client.send(&export, &small_image("second")).await;
    stop();
    abort(&client, &export).await.unwrap_err();
    daemon.kill();
    start();
    let leases = ctr(stack, cluster.worker(), &["leases", "ls", "-q"]).ok().stdout;
    assert!(leases.contains(&export), "{leases}");
    let daemon = serve(&cluster, &door);
    let client = Client::connect(&door).await;
    let found = client.exports.clone().get(GetRequest { export_id: export }).await.unwrap_err();
    assert_eq!(reason(&found), "EXPORT_NOT_FOUND", "{}", daemon.log());
    cluster.until_released();
}

#[tokio::test]
async fn a_node_that_was_removed_or_made_again_has_no_part_of_an_open_export() {
    let stack = Stack::shared();
    let mut cluster = Cluster::start(stack, "leaving");
    let door = stack.fresh_path("-export.sock");
    let daemon = serve(&cluster, &door);
    let client = Client::connect(&door).await;
    for (number, is_made_again) in [(1, false), (2, true)] {
        let image = small_image(&format!("leaving {number}"));
        let (committed, written, aborted) =
            (client.open(&["one"]).await, client.open(&["one"]).await, client.open(&["one"]).await);
        client.send(&committed, &image).await;
        cluster.lose_worker();
        if is_made_again {
            cluster.join("worker");
        }
        let name = format!("docker.io/library/cl-leaving:{number}");
        let results = client.commit(&committed, vec![target("one", &image, &[&name])]).await.unwrap();
        success(&results);
        assert!(
            cluster.contents(cluster.control_plane(), &format!("cl-leaving:{number}")).is_usable,
            "{}",
            daemon.log()
        );
        let other = small_image(&format!("written {number}"));
        assert_ne!(client.send(&written, &other).await, 0, "{}", daemon.log());
        abort(&client, &written).await.unwrap();
        abort(&client, &aborted).await.unwrap();
        if !is_made_again {
            cluster.join("worker");
        }
    }
    cluster.until_released();
}

#[tokio::test]
async fn an_export_whose_lease_a_node_has_lost_ends() {
    let stack = Stack::shared();
    let cluster = Cluster::start(stack, "losing");
    let door = stack.fresh_path("-export.sock");
    let _daemon = serve(&cluster, &door);
    let client = Client::connect(&door).await;
    let image = small_image("lost");
    let open = || async {
        let exporters = vec![exporter("one")];
        let request = OpenRequest { exporters, idempotency_key: "losing".to_owned(), ..OpenRequest::default() };
        let opened = client.exports.clone().open(request).await.unwrap().into_inner();
        (opened.export.unwrap().id, opened.found)
    };
    let (export, _) = open().await;
    client.send(&export, &image).await;
    ctr(stack, cluster.worker(), &["leases", "rm", &format!("linkspan-{export}")]).ok();
    let targets = || vec![target("one", &image, &[&full_name("cl-losing:1")])];
    let results = client.commit(&export, targets()).await.unwrap();
    let error = results.results[0].error.clone().unwrap();
    assert_eq!((error.reason(), results.state()), (Reason::ExportExpired, ExportState::Expired), "{error:?}");
    // What is left of it goes, and whoever opens it again gets another one.
    let (again, found) = open().await;
    assert!(!found && again != export);
    client.send(&again, &image).await;
    success(&client.commit(&again, targets()).await.unwrap());
    for node in cluster.nodes() {
        assert!(cluster.contents(node, "cl-losing:1").is_usable, "{node}");
    }
    cluster.until_released();
}

#[tokio::test]
async fn an_export_is_told_that_a_node_was_paused_in_its_middle() {
    let stack = Stack::shared();
    let cluster = Cluster::start(stack, "paused");
    let door = stack.fresh_path("-export.sock");
    let daemon = serve(&cluster, &door);
    let client = Client::connect(&door).await;
    let (export, image) = (client.open(&["one"]).await, small_image("paused"));
    client.send(&export, &image).await;
    stack.docker(["pause", cluster.worker()]).ok();
    let committed = client.commit(&export, vec![target("one", &image, &[&full_name("cl-paused:1")])]).await;
    let said = match committed {
        Ok(results) => format!("{:?}", results.results[0].error),
        Err(status) => status.to_string(),
    };
    assert!(said.contains("paused-worker") && said.contains("it is paused"), "{said} {}", daemon.log());
    // Whoever looks at images is told, too.
    let images = linkspan(["digest", "cl-paused:1", "--to", &unix(&door)]).fails();
    assert!(images.stderr.contains("paused-worker does not run (it is paused)"), "{images}");
    assert!(images.stderr.contains("`docker unpause paused-worker`"), "{images}");
    stack.docker(["unpause", cluster.worker()]).ok();
    success(&client.commit(&export, vec![target("one", &image, &[&full_name("cl-paused:1")])]).await.unwrap());
    cluster.until_released();
}

#[test]
fn a_daemon_waits_at_its_start_for_nodes() {
    let stack = Stack::shared();
    let mut cluster = Cluster::start(stack, "awaited");
    let address = cluster.address();
    let start = |address: &str, timeout: &str| {
        let flags = ["--engine", address, "--docker-host", stack.docker_host(), "--engine-timeout", timeout];
        let door = stack.fresh_path("-export.sock");
        let listen = crate::common::unix(&door);
        Linkspan::spawned(stack, &[&flags[..], &["--export-listen", &listen]].concat(), &[], vec![door], &[])
    };
    let waits = |daemon: &Linkspan| until("it to wait", || daemon.log(), |log| log.contains("waiting for the engine"));
    let is_up = |daemon: &Linkspan| until("it to listen", || daemon.log(), |log| log.contains("listening on"));
    // One that does not run.
    stack.docker(["stop", "--timeout", "5", cluster.worker()]).ok();
    let daemon = start(&address, "600");
    waits(&daemon);
    stack.docker(["start", cluster.worker()]).ok();
    is_up(&daemon);
    drop(daemon);
    // One that has no containerd yet.
    let starting = cluster.begin("starting");
    let daemon = start(&address, "600");
    waits(&daemon);
    stack.docker(["rm", "--force", &starting]).ok();
    is_up(&daemon);
    drop(daemon);
    // None at all, and then one.
    let named = format!("{address}?nodes=awaited-later");
    let daemon = start(&named, "600");
    waits(&daemon);
    cluster.join("later");
    is_up(&daemon);
    let never = start("kind://nonesuch", "0");
    until("it to give up", || never.log(), |log| log.contains("has no nodes of such a cluster"));
}
