//! What happens when nobody comes for a while. The door is in this process, with a shorter while than the program's.

use std::sync::Arc;
use std::time::Duration;

use linkspan::build_outputs::OutputOptions;
use linkspan::door::{buildkit, docker};
use linkspan::engine::EngineKind;
use linkspan::engine::select::{Selection, select};
use linkspan::export::Exports;
use linkspan::net::{Address, Connection, Upstream};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::both_ways::{no_tunnels, tunnels};
use crate::common::{Context, Stack, until};

/// A docker door in front of the stack's dockerd, whose connections wait for `keep`.
async fn open(stack: &'static Stack, socket: &std::path::Path, keep: Duration) -> Arc<docker::Door> {
    let docker_host = Some(stack.docker_host().parse().unwrap());
    let containerd_address = Some(stack.containerd_address().into());
    let selection =
        Selection { kind: Some(EngineKind::Docker), docker_host, containerd_address, ..Selection::default() };
    let exports = Arc::new(Exports::new(select(&selection).await.unwrap().engine));
    let of_builders = Arc::clone(&exports);
    let services = move |builder, connections| {
        let settings = buildkit::Settings { builder, connections, outputs: OutputOptions::default() };
        Arc::new(buildkit::Door::new(settings, Arc::clone(&of_builders))) as _
    };
    let address: Address = stack.docker_host().parse().unwrap();
    let builders = Some(docker::BuilderSettings { services: Box::new(services), keep });
    let upstream = Upstream::new(address, None).unwrap();
    let door = Arc::new(docker::Door::new(docker::Settings { upstream, exports, builders }));
    let (listener, serving) = (UnixListener::bind(socket).unwrap(), Arc::clone(&door));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let connection = Connection { peer: stream.peer_cred().unwrap().into(), io: stream };
            tokio::spawn(Arc::clone(&serving).serve(connection, CancellationToken::new()));
        }
    });
    door
}

/// Runs `test` with a builder behind a door whose connections wait for `keep`, and with its container's name.
fn with_door(name: &str, keep: Duration, test: impl FnOnce(&crate::common::Builder<'_>, &str)) {
    let stack = Stack::shared();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let socket = stack.fresh_path("-idle.sock");
    let door = runtime.block_on(open(stack, &socket, keep));
    let builder = stack.container_builder(&format!("unix://{}", socket.display()), name);
    builder.buildx(["inspect", "--bootstrap"]).ok();
    test(&builder, &format!("buildx_buildkit_{name}0"));
    runtime.block_on(door.close());
}

fn execs(container: &str) -> String {
    Stack::shared().docker(["inspect", "-f", "{{json .ExecIDs}}", container]).ok().stdout.trim().to_owned()
}

fn no_execs(container: &str) {
    until("no exec to be listed", || execs(container), |execs| execs == "null" || execs == "[]");
}

#[test]
fn an_idle_builder_has_no_connections() {
    with_door("idle", Duration::from_millis(500), |builder, container| {
        let context = Context::new("FROM scratch\nCOPY a /a\n").file("a", "idle");
        for _ in 0..2 {
            builder.build(context.path(), ["--load", "-t", "idle:1"]).ok();
        }
        no_tunnels(Stack::shared(), container);
        no_execs(container);
        // The next command begins anew.
        let output = builder.build(context.path(), ["--load", "-t", "idle:1"]).ok();
        assert!(output.stderr.contains("0 blobs, 0B sent"), "{output}");
    });
}

#[test]
fn execs_that_are_not_started_do_not_pile_up() {
    with_door("pile", Duration::from_secs(3600), |builder, container| {
        for _ in 0..24 {
            builder.buildx(["du"]).ok();
        }
        // Sixteen were started late, while the connection waits all the same.
        until("few execs to be listed", || execs(container).matches(',').count() + 1, |count| *count <= 10);
        // The last of them may be about to end.
        until("one process to be left", || tunnels(Stack::shared(), container), |count| *count == 1);
    });
}
