//! Exports of processes that were killed.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use linkspan::caches::Part;
use linkspan::image::Digest;

use crate::common::Stack;
use crate::fixture::{INDEX, caches, containerd, documents, held, name, origin, write};

/// How far an export comes before it is killed.
const STAGES: [&str; 4] = ["begun", "layer", "config", "root"];

/// The process that is killed: it writes what the stage says, as a commit would, and then waits for its end.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "only the test below runs it, as a process of its own"]
async fn exporter() {
    let variable = |name: &str| std::env::var(name).unwrap();
    let (address, stage) = (variable("LINKSPAN_TEST_CONTAINERD"), variable("LINKSPAN_TEST_STAGE"));
    let selection = linkspan::engine::select::Selection {
        kind: Some(linkspan::engine::EngineKind::Containerd),
        containerd_address: Some(address.into()),
        namespace: Some("killed".to_owned()),
        ..Default::default()
    };
    let engine = linkspan::engine::select::select(&selection).await.unwrap().engine;
    let export = caches(&*engine).begin(&name("app"), &Part::default(), "", 1, &origin()).await.unwrap();
    let (config, root) = documents(&["layer"], INDEX);
    let writes = [b"layer".to_vec(), config.bytes.to_vec(), root.bytes.to_vec()];
    let count = STAGES.iter().position(|known| *known == stage).unwrap();
    for bytes in &writes[..count] {
        write(&*export.lease(), bytes).await;
    }
    eprintln!("\nready");
    std::thread::sleep(std::time::Duration::from_secs(600));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_export_left_is_released_by_the_next_start() {
    let stack = Stack::shared();
    let engine = containerd(stack, "killed").await;
    let (config, root) = documents(&["layer"], INDEX);
    let blobs = [Digest::sha256(b"layer"), config.descriptor.digest, root.descriptor.digest];
    let blobs: Vec<_> = blobs.iter().map(ToString::to_string).collect();
    for (written, stage) in STAGES.into_iter().enumerate() {
        let (mark, state) = stack.mark();
        let mut exporter = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "killed::exporter", "--ignored", "--nocapture"])
            .env("LINKSPAN_TEST_CONTAINERD", stack.containerd_address())
            .env("LINKSPAN_TEST_STAGE", stage)
            .env(mark, state)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(exporter.stderr.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "ready"), "{stage}");
        let caches = caches(&*engine);
        caches.start().await.unwrap();
        stack.collect_garbage("killed");
        let expected: Vec<_> = (0..blobs.len()).map(|at| at < written).collect();
        assert_eq!(held(stack, "killed", &blobs), expected, "{stage}: its process lives");
        assert!(caches.versions(None).await.unwrap().is_empty(), "{stage}: it is not complete");
        assert_eq!(engine.recover().await.unwrap(), 0);

        exporter.kill().unwrap();
        exporter.wait().unwrap();
        caches.start().await.unwrap();
        stack.collect_garbage("killed");
        assert_eq!(stack.leases("killed"), Vec::<String>::new(), "{stage}");
        assert_eq!(stack.ingests("killed"), Vec::<String>::new(), "{stage}");
        assert!(held(stack, "killed", &blobs).into_iter().all(|held| !held), "{stage}");
    }
}
