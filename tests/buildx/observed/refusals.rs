//! What is refused before an export begins is counted, by door and reason.

use std::fs;
use std::net::TcpStream;
use std::time::Duration;

use linkspan::export_v1::proto::OpenRequest;
use linkspan::export_v1::proto::exports_client::ExportsClient;
use tonic::Code;
use tonic::transport::Endpoint;

use super::scrape::exchange;
use super::{Scrape, archive, image, serve};
use crate::common::{Stack, channel, linkspan, text, unix, until};

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
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        exchange(stream, method, target, headers).unwrap().split(' ').nth(1).unwrap().to_owned()
    };
    let password = "Authorization: Basic Y2k6d29yZA==\r\n";
    assert_eq!(request("GET", "/v2/", ""), "401");
    assert_eq!(request("GET", "/v2/", password), "200");
    assert_eq!(request("POST", "/v2/x/blobs/uploads/", password), "405");
    assert_eq!(request("GET", "/v2/x/manifests/absent", password), "404");
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
