//! `GET /_linkspan/status` on every door.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use linkspan::export_v1::proto::exports_client::ExportsClient;
use linkspan::export_v1::proto::{Exporter, OpenRequest};
use linkspan::running::{First, Probe, probe};
use linkspan::status::{Kind, Status};
use serde_json::Value;

use crate::common::{Linkspan, Part, Run, Stack};
use crate::unix;

/// The response to `request`, up to the end of the connection.
fn exchange(path: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

fn get(path: &Path, target: &str) -> (String, Value) {
    let response = exchange(path, &format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), serde_json::from_str(body).unwrap_or_default())
}

/// What the door at `path` says over HTTP/2.
fn over_http2(path: &Path) -> Status {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match runtime.block_on(probe(&unix(path).parse().unwrap(), First::Http2)) {
        Probe::Linkspan(status) => *status,
        other => panic!("{other:?}"),
    }
}

/// The response of the door at `path` to a GET over HTTP/2: its status, that of gRPC, and its document if it has one.
fn get_over_http2(path: &Path, target: &str) -> (StatusCode, Option<String>, Value) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let exchange = async {
        let stream = TokioIo::new(tokio::net::UnixStream::connect(path).await.unwrap());
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get(format!("http://localhost{target}")).body(Empty::<Bytes>::new()).unwrap();
        let (head, body) = sender.send_request(request).await.unwrap().into_parts();
        let grpc = head.headers.get("grpc-status").map(|status| status.to_str().unwrap().to_owned());
        let body = body.collect().await.unwrap().to_bytes();
        (head.status, grpc, serde_json::from_slice(&body).unwrap_or_default())
    };
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), exchange).await.unwrap() })
}

#[test]
fn every_door_reports_what_it_belongs_to() {
    let stack = Stack::shared();
    let (docker, export, secret) = (stack.fresh_path(".sock"), stack.fresh_path(".sock"), "a-name-that-is-allowed");
    let listen = (unix(&docker), unix(&export));
    let mut args = stack.docker_flags().to_vec();
    args.extend(["--docker-listen", &listen.0, "--export-listen", &listen.1, "--plain-is-load"]);
    args.extend(["--allow-name", secret, "--allow-cache", secret, "--cache-max-bytes", "20GB"]);
    args.extend(["--cache-max-age", "30d", "--cache-max-count", "50"]);
    let daemon = Linkspan::start(stack, &args, &[stack.buildkit_host()]);
    let buildkit = daemon.doors()[0].clone();

    let (head, document) = get(&docker, "/_linkspan/status");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("Content-Type: application/json"), "{head}");
    assert_eq!(document["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(document["pid"], daemon.pid().as_raw_nonzero().get());
    assert_eq!(document["engine"]["kind"], "docker");
    assert_eq!(document["engine"]["address"], stack.docker_host());
    assert_eq!(document["engine"]["namespace"], "moby");
    assert_eq!(document["policy"]["plain_is_load"], true);
    assert_eq!(document["policy"]["names_restricted"], true);
    assert_eq!(document["policy"]["deny_tag_move"], false);
    assert_eq!(document["policy"]["caches_restricted"], true);
    let limits = ["cache_max_bytes", "cache_max_age", "cache_max_count"].map(|key| &document["policy"][key]);
    assert_eq!(limits, [20_000_000_000_u64, 30 * 24 * 3600, 50].map(Value::from).each_ref());
    let [builder] = &document["builders"].as_array().unwrap()[..] else { panic!("{document}") };
    assert_eq!((&builder["address"], &builder["door"]), (&stack.buildkit_host().into(), &unix(&buildkit).into()));
    assert!(!document.to_string().contains(secret), "{document}");

    // The same of the other doors, each with its own place.
    for (path, kind) in [(&buildkit, Kind::Buildkit), (&export, Kind::Export)] {
        let status = over_http2(path);
        assert_eq!((status.door.kind, status.door.address.as_str()), (kind, unix(path).as_str()));
        assert_eq!(status.instance.as_str(), document["instance"]);
        assert_eq!(status.doors.len(), 3);
    }

    // Whatever is not this very request is dockerd's.
    for target in ["/_linkspan/status/", "/_linkspan", "/v1.44/_linkspan/status", "/_linkspan/status?x=1"] {
        let (ours, theirs) = (get(&docker, target), get(Path::new(&stack.docker_host()[7..]), target));
        assert_eq!(ours.1, theirs.1, "{target}");
        assert!(ours.0.starts_with("HTTP/1.1 404"), "{}", ours.0);
    }
    let refused = exchange(
        &docker,
        "POST /_linkspan/status HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    );
    assert!(refused.starts_with("HTTP/1.1 404"), "{refused}");
    stack.buildctl(["--addr", &unix(&buildkit), "debug", "workers"]).ok();
}

#[test]
fn a_door_reports_it_while_its_builder_is_gone() {
    let stack = Stack::start(&[Part::Containerd, Part::Dockerd, Part::Buildkitd]);
    let daemon = Linkspan::docker(&stack);
    stack.kill(Part::Buildkitd);
    let status = over_http2(&daemon.doors()[0]);
    assert_eq!(status.builder().unwrap().address, stack.buildkit_host());
    let refused = stack.buildctl(["--addr", &daemon.address(), "debug", "workers"]).fails();
    assert!(refused.stderr.contains("linkspan: "), "{refused}");
}

#[test]
fn an_export_that_outlives_its_server_began_when_it_was_opened() {
    let (stack, door) = (Stack::shared(), Stack::shared().fresh_path(".sock"));
    let start = || Linkspan::export(stack, &stack.docker_flags(), &[], door.clone());
    let mut daemon = start();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let opened = runtime.block_on(async {
        let path = door.clone();
        let connect = move |_: tonic::transport::Uri| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
        };
        let endpoint = tonic::transport::Endpoint::from_static("http://localhost");
        let channel = endpoint.connect_with_connector(tower::service_fn(connect)).await.unwrap();
        let exporter = Exporter { id: "one".to_owned(), r#type: "image".to_owned(), ..Exporter::default() };
        let request = OpenRequest { exporters: vec![exporter], ..OpenRequest::default() };
        ExportsClient::new(channel).open(request).await.unwrap().into_inner().export.unwrap()
    });
    daemon.kill();
    // Times are listed in whole seconds.
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let daemon = start();
    let listed = over_http2(&door).exports;
    let found = listed.iter().find(|export| export.id == opened.id).unwrap();
    let created = u64::try_from(opened.create_time.unwrap().seconds).unwrap();
    assert!(found.created.unwrap().abs_diff(created) <= 1, "{found:?} {created}");

    // On a terminal the table is cut to its width.
    let on_terminal = |args: &str| {
        let command = format!("{} ps --to {} {args}", env!("CARGO_BIN_EXE_linkspan"), daemon.address());
        let script = format!("stty cols 80 rows 24; exec {command}");
        Run::new("script").args(["-qec", &script, "/dev/null"]).env("SHELL", "/bin/sh").ok().stdout
    };
    let (cut, whole) = (on_terminal(""), on_terminal("--no-trunc"));
    assert!(cut.lines().all(|line| line.trim_end().chars().count() <= 80), "{cut}");
    assert!(cut.contains(&opened.id[..6]) && !cut.contains(&opened.id) && whole.contains(&opened.id), "{cut}{whole}");
}

#[test]
fn an_export_door_serves_nothing_else_beside_grpc() {
    let stack = Stack::shared();
    let daemon = Linkspan::export(stack, &stack.docker_flags(), &[], stack.fresh_path(".sock"));
    let door = &daemon.doors()[0];
    assert_eq!(over_http2(door).door.kind, Kind::Export);
    let (served, _, document) = get_over_http2(door, "/_linkspan/status");
    assert_eq!((served, document.is_object()), (StatusCode::OK, true));
    for path in ["/", "/metrics", "/_linkspan/other", "/linkspan.export.v1.Exports/Unknown"] {
        let (status, grpc, document) = get_over_http2(door, path);
        // gRPC's UNIMPLEMENTED comes with 200.
        let is_refused = status == StatusCode::NOT_FOUND || grpc.as_deref() == Some("12");
        assert!(is_refused && document.is_null(), "{path}: {status} {grpc:?} {document}");
    }
    let output = stack.run(env!("CARGO_BIN_EXE_linkspan")).args(["ps", "--to", &daemon.address(), "--json"]).output();
    assert!(output.status.success(), "{output}");
    assert_eq!(output.stdout, "", "an object for each export, of which there are none: {output}");
}
