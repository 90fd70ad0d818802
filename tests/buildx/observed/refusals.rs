//! What is refused before an export begins is counted, by door and reason.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use linkspan::export_v1::proto::commit_response::Event;
use linkspan::export_v1::proto::exports_client::ExportsClient;
use linkspan::export_v1::proto::{
    CapabilitiesRequest, CommitRequest, Descriptor, Exporter, OpenRequest, Reason, Target,
};
use tonic::transport::Endpoint;
use tonic::{Code, Request};

use super::scrape::{exchange, parts};
use super::{Scrape, archive, image, serve};
use crate::common::{Linkspan, Stack, channel, linkspan, read_some, text, unix, until};

/// How long a response may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The credentials `ci:word`, and `ci:other`, which are wrong.
const RIGHT: &str = "Basic Y2k6d29yZA==";
const WRONG: &str = "Basic Y2k6b3RoZXI=";

/// How often clients were refused at a door for a reason.
fn refused(scrape: &Scrape, door: &str, reason: &str) -> f64 {
    scrape.get(&format!("linkspan_refusals_total{{door=\"{door}\",reason=\"{reason}\"}}"))
}

#[test]
fn refusals_of_builds_and_of_the_apis_are_counted() {
    let stack = Stack::shared();
    let (export, users) = (stack.fresh_path("-export.sock"), stack.fresh_path("-users"));
    fs::write(&users, format!("ci:{}\n", bcrypt::hash("word", 4).unwrap())).unwrap();
    let api = unix(&export);
    let args = [
        &stack.containerd_flags("observed-refusals")[..],
        &["--allow-name", "allowed.example/*", "--export-listen", &api, "--listen-htpasswd", text(&users)],
        &["--registry-listen", "tcp://127.0.0.1:0"],
    ];
    let (daemon, metrics) = serve(stack, &args.concat(), &[stack.buildkit_host()], &[]);
    let scrape = Scrape::of(&metrics);
    assert_eq!(scrape.sum("linkspan_refusals_total"), 0.0, "{scrape:?}");
    assert!(scrape.families.contains("linkspan_refusals_total"), "{scrape:?}");

    // A build whose name is not allowed, and one with an attribute that does not exist: neither becomes an export.
    let (builder, context) = (stack.builder(&daemon.address()), image(1, 2));
    let build = |output: &str| builder.build(context.path(), ["--provenance=false", "-o", output]).fails();
    build("type=linkspan,name=denied.example/x:1");
    build("type=linkspan,name=allowed.example/x:1,no-such-attribute=1");
    let of_builds = |scrape: &Scrape| ["policy", "input"].map(|reason| refused(scrape, "buildkit", reason));
    let is_counted = |scrape: &Scrape| of_builds(scrape).iter().all(|count| *count >= 1.0);
    until("refused builds", || Scrape::of(&metrics), is_counted);
    assert_eq!(Scrape::of(&metrics).sum("linkspan_exports_total"), 0.0);

    // A call of the API with a wrong value.
    linkspan(["images", "--to", &api]).ok();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let opened = async {
        ExportsClient::new(channel(&export, Endpoint::from_static("http://localhost")).await)
            .open(OpenRequest::default())
            .await
    };
    assert_eq!(runtime.block_on(opened).unwrap_err().code(), Code::InvalidArgument);
    until("a refused call", || refused(&Scrape::of(&metrics), "export", "input"), |count| *count == 1.0);

    // A client of the registry door without a password, and one that pushes where images are only read.
    let said = "registry door listening on tcp://";
    let log = until("the registry door", || daemon.log(), |log| log.contains(said));
    let address = log.split_once(said).unwrap().1.split_once(' ').unwrap().0.to_owned();
    let request = |method: &str, target: &str, headers: &str| {
        let stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        exchange(stream, method, target, headers).unwrap().split(' ').nth(1).unwrap().to_owned()
    };
    let password = format!("Authorization: {RIGHT}\r\n");
    assert_eq!(request("GET", "/v2/", ""), "401");
    assert_eq!(request("GET", "/v2/", &password), "200");
    assert_eq!(request("POST", "/v2/x/blobs/uploads/", &password), "405");
    assert_eq!(request("GET", "/v2/x/manifests/absent", &password), "404");
    let of_registry = |scrape: &Scrape| ["auth", "policy", "input"].map(|it| refused(scrape, "registry", it));
    until("refused requests", || Scrape::of(&metrics), |scrape| of_registry(scrape) == [1.0, 1.0, 0.0]);
}

#[test]
fn loads_that_policy_refuses_are_failures_of_that_kind() {
    let stack = Stack::shared();
    let listen = unix(&stack.fresh_path("-docker.sock"));
    let args = [&stack.docker_flags()[..], &["--docker-listen", &listen, "--allow-name", "allowed.example/*"]].concat();
    let (_linkspan, metrics) = serve(stack, &args, &[], &[]);
    let load = stack.docker(["load", "-i", text(&archive(stack, "oci"))]).env("DOCKER_HOST", &listen);
    load.fails();
    let failed = |scrape: &Scrape| scrape.get("linkspan_errors_total{kind=\"policy\"}");
    let scrape = until("a failed load", || Scrape::of(&metrics), |scrape| failed(scrape) == 1.0);
    assert_eq!(scrape.get("linkspan_errors_total{kind=\"docker\"}"), 0.0, "{scrape:?}");
    let ended = "linkspan_exports_total{door=\"docker\",engine=\"docker\",result=\"failed\"}";
    assert_eq!(scrape.get(ended), 1.0, "{scrape:?}");
}

#[test]
fn names_that_are_denied_at_a_commit_are_counted() {
    let stack = Stack::shared();
    let (folder, export) = (stack.fresh_path("-layout"), stack.fresh_path("-export.sock"));
    let api = unix(&export);
    let args =
        ["--engine", "layout", "--layout", text(&folder), "--export-listen", &api, "--allow-name", "allowed.example/*"];
    let (_daemon, metrics) = serve(stack, &args, &[], &[]);
    // It has no name yet when it is opened.
    let exporter = Exporter { id: "a".to_owned(), r#type: "image".to_owned(), ..Exporter::default() };
    let root = Descriptor {
        media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
        digest: format!("sha256:{}", "0".repeat(64)),
        size: 2,
        ..Descriptor::default()
    };
    let target = Target {
        exporter_id: exporter.id.clone(),
        root: Some(root),
        names: vec!["denied.example/x:1".to_owned()],
        ..Target::default()
    };
    let committed = async {
        let mut client = ExportsClient::new(channel(&export, Endpoint::from_static("http://localhost")).await);
        let request = OpenRequest { exporters: vec![exporter], ..OpenRequest::default() };
        let export_id = client.open(request).await.unwrap().into_inner().export.unwrap().id;
        let request = CommitRequest { export_id, targets: vec![target] };
        let mut responses = client.commit(request).await.unwrap().into_inner();
        loop {
            if let Event::Results(results) = responses.message().await.unwrap().unwrap().event.unwrap() {
                return results.results;
            }
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let results = runtime.block_on(committed);
    assert_eq!(results[0].error.as_ref().unwrap().reason(), Reason::NameDenied, "{results:?}");
    let scrape = Scrape::of(&metrics);
    assert_eq!(refused(&scrape, "export", "policy"), 1.0, "{scrape:?}");
    assert_eq!(scrape.sum("linkspan_refusals_total"), 1.0, "{scrape:?}");
}

/// A connection of a scraper that has had a response and stays open; `None` if it is closed instead.
fn kept_open(metrics: &Path) -> Option<UnixStream> {
    let mut stream = UnixStream::connect(metrics).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // It may be closed before it is written to.
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").ok()?;
    let (mut response, mut piece) = (Vec::new(), [0; 4096]);
    while !response.ends_with(b"see GET /metrics\n") {
        match read_some(&mut stream, &mut piece) {
            Ok(0) | Err(_) => {
                assert!(response.is_empty(), "half a response: {response:?}");
                return None;
            }
            Ok(count) => response.extend_from_slice(&piece[..count]),
        }
    }
    Some(stream)
}

#[test]
fn connections_of_scrapers_beyond_their_limit_are_counted() {
    let stack = Stack::shared();
    let (folder, export) = (stack.fresh_path("-layout"), unix(&stack.fresh_path("-export.sock")));
    let args = ["--engine", "layout", "--layout", text(&folder), "--export-listen", &export];
    let (daemon, metrics) = serve(stack, &args, &[], &[]);
    // As many as README.md has it stay, and are served again.
    let mut kept: Vec<_> = (0..16).map(|_| kept_open(&metrics).expect("it is closed")).collect();
    kept.rotate_left(1);
    let again = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    for stream in &mut kept[..15] {
        stream.write_all(again.as_bytes()).unwrap();
        stream.read_exact(&mut [0]).unwrap();
    }
    // One more takes the place of the one that has been quiet for longest.
    let scrape = Scrape::of(&metrics);
    assert_eq!(refused(&scrape, "metrics", "limit"), 1.0, "{scrape:?}");
    assert_eq!(read_some(&mut kept[15], &mut [0]).unwrap(), 0, "it stayed");
    // Those who are silent, or send half a request, keep no scraper out.
    let silent = |index: usize| {
        let mut stream = UnixStream::connect(&metrics).unwrap();
        stream.write_all(&again.as_bytes()[..index % 2 * 20]).unwrap();
        stream
    };
    let _silent: Vec<_> = (0..40).map(silent).collect();
    let scrape = Scrape::of(&metrics);
    assert!(refused(&scrape, "metrics", "limit") > 24.0, "{scrape:?}");
    assert_eq!(scrape.sum("linkspan_refusals_total"), refused(&scrape, "metrics", "limit"));
    assert!(daemon.log().contains("the connection limit is reached"), "{}", daemon.log());
}

/// What a client with a wrong password gets: the HTTP status of `target`, as a word of this test.
fn over_http(address: &str, target: &str) -> &'static str {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let response = exchange(stream, "GET", target, &format!("Authorization: {WRONG}\r\n")).unwrap();
    match parts(&response).0 {
        401 => "auth",
        429 => "limit",
        _ => panic!("{response}"),
    }
}

/// The same for a call of the exporter API.
fn over_grpc(address: &str) -> &'static str {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let called = async {
        let mut call = Request::new(CapabilitiesRequest {});
        call.metadata_mut().insert("authorization", WRONG.parse().unwrap());
        ExportsClient::connect(format!("http://{address}")).await.unwrap().capabilities(call).await
    };
    let status = runtime.block_on(called).unwrap_err();
    match status.code() {
        Code::Unauthenticated => "auth",
        Code::Unavailable => "limit",
        _ => panic!("{status:?}"),
    }
}

/// The `HOST:PORT` behind `words` in a daemon's log, once it is there.
fn address(daemon: &Linkspan, words: &str) -> String {
    let words = format!("{words} listening on tcp://");
    let log = until(&words, || daemon.log(), |log| log.contains(&words));
    let (_, rest) = log.split_once(&words).unwrap();
    rest.split(|end: char| !(end.is_ascii_digit() || end == '.' || end == ':')).next().unwrap().to_owned()
}

#[test]
fn clients_that_come_while_too_many_passwords_are_checked_are_counted() {
    let stack = Stack::shared();
    let (users, folder) = (stack.fresh_path("-users"), stack.fresh_path("-layout"));
    // A check takes long enough for all clients to be there meanwhile.
    fs::write(&users, format!("ci:{}\n", bcrypt::hash("word", 9).unwrap())).unwrap();
    let port = "tcp://127.0.0.1:0";
    let args = ["--engine", "layout", "--layout", text(&folder), "--listen-htpasswd", text(&users)];
    let args = [&args[..], &["--export-listen", port, "--registry-listen", port, "--metrics-listen", port]].concat();
    let daemon = Linkspan::spawned(stack, &args, &[], Vec::new(), &[]);
    let [export, registry, metrics] = ["export", "registry", "metrics"].map(|door| {
        address(&daemon, if door == "metrics" { door.to_owned() } else { format!("{door} door") }.as_str())
    });
    // Metrics have a limit of connections of their own, below which these stay.
    let clients = [("export", 10), ("registry", 20), ("metrics", 6)];
    let ask = |door: &str| match door {
        "export" => over_grpc(&export),
        "registry" => over_http(&registry, "/v2/"),
        _ => over_http(&metrics, "/metrics"),
    };
    let mut seen = BTreeMap::<_, f64>::new();
    let round = || {
        let all = clients.iter().flat_map(|(door, count)| std::iter::repeat_n(*door, *count));
        let barrier = Barrier::new(clients.iter().map(|(_, count)| count).sum());
        thread::scope(|scope| {
            let asked: Vec<_> = all
                .map(|door| {
                    let (barrier, ask) = (&barrier, &ask);
                    let asking = scope.spawn(move || {
                        barrier.wait();
                        ask(door)
                    });
                    (door, asking)
                })
                .collect();
            for (door, asking) in asked {
                *seen.entry((door, asking.join().unwrap())).or_default() += 1.0;
            }
        });
        seen.clone()
    };
    // Who comes first is checked, at whichever door.
    let is_every_door_busy =
        |seen: &BTreeMap<_, _>| clients.iter().all(|(door, _)| seen.contains_key(&(*door, "limit")));
    let seen = until("too many checks at each door", round, is_every_door_busy);
    let scraper = TcpStream::connect(&metrics).unwrap();
    scraper.set_read_timeout(Some(PATIENCE)).unwrap();
    let response = exchange(scraper, "GET", "/metrics", &format!("Authorization: {RIGHT}\r\n")).unwrap();
    let scrape = Scrape::parse(&parts(&response).2);
    for (door, reason) in clients.iter().flat_map(|(door, _)| [(*door, "limit"), (*door, "auth")]) {
        let expected = seen.get(&(door, reason)).copied().unwrap_or_default();
        assert_eq!(refused(&scrape, door, reason), expected, "{door} {reason}: {scrape:?}");
    }
}
