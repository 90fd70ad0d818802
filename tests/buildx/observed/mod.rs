//! What an operator sees: metrics with the right numbers after real builds, loads and pushes; traces from buildx on; lines of
//! JSON.

mod collector;
mod refusals;
mod scrape;
mod secure;
mod traces;

use std::collections::BTreeSet;
use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use linkspan::export_v1::proto::exports_client::ExportsClient;
use linkspan::export_v1::proto::{AbortRequest, Exporter, OpenRequest};
use rustix::process::Signal;
use serde_json::Value;
use tonic::transport::Endpoint;

use crate::common::{Context, Linkspan, Output, Stack, channel, linkspan, text, unix, until};
use scrape::{Scrape, respond};

/// A number that no other run has: blobs of other tests must not be those of this one.
fn random() -> u64 {
    RandomState::new().hash_one(0)
}

/// An image of two layers that nobody has, the second of which is `top`.
fn image(bottom: u64, top: u64) -> Context {
    Context::new("FROM scratch\nCOPY a /a\nCOPY b /b\n").noise("a", 100_000, bottom).noise("b", 50_000, top)
}

/// A daemon of its own with metrics at a socket.
fn serve(stack: &Stack, args: &[&str], builders: &[&str], variables: &[(String, String)]) -> (Linkspan, PathBuf) {
    let metrics = stack.fresh_path("-metrics.sock");
    let listen = unix(&metrics);
    let args = [args, &["--metrics-listen", &listen, "--log-format", "json", "--log-level", "debug"]].concat();
    let doors = builders.iter().map(|_| stack.fresh_path(".sock")).collect();
    let linkspan = Linkspan::spawned(stack, &args, builders, doors, variables);
    until("metrics to be served", || linkspan.log(), |log| log.contains(&format!("metrics listening on {listen}")));
    (linkspan, metrics)
}

/// The lines of a log, which are all JSON.
fn lines(log: &str) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    // The last one may be on its way.
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(parse).collect()
}

/// The sum of a field of all lines with the message `message`.
fn sum_of(log: &str, message: &str, field: &str) -> f64 {
    let lines = lines(log);
    let of_message = lines.iter().filter(|line| line["fields"]["message"] == message);
    of_message.map(|line| line["fields"][field].as_f64().unwrap_or_default()).sum()
}

/// How many lines have the message `message`.
fn count_of(log: &str, message: &str) -> usize {
    lines(log).iter().filter(|line| line["fields"]["message"] == message).count()
}

#[test]
fn builds_are_counted_and_their_lines_say_which_export() {
    let stack = Stack::shared();
    let (name, bottom) = (format!("observed.example/b{}", random()), random());
    let args = [&stack.containerd_flags("observed")[..], &["--deny-tag-move"]].concat();
    let (linkspan, metrics) = serve(stack, &args, &[stack.buildkit_host()], &[]);
    let builder = stack.builder(&linkspan.address());
    let build = |context: &Context, tag: &str| {
        let output = format!("type=linkspan,name={name}:{tag}");
        builder.build(context.path(), ["--provenance=false", "-o", &output])
    };
    let first = image(bottom, random());
    build(&first, "1").ok();
    build(&first, "1").ok();
    let changed = image(bottom, random());
    build(&changed, "2").ok();
    // Names must not move here.
    build(&changed, "1").fails();
    let ended = |scrape: &Scrape| scrape.sum("linkspan_exports_total");
    let scrape = until("four exports to have ended", || Scrape::of(&metrics), |scrape| ended(scrape) == 4.0);
    let exports = |result: &str| {
        scrape.get(&format!("linkspan_exports_total{{door=\"buildkit\",engine=\"containerd\",result=\"{result}\"}}"))
    };
    assert_eq!(
        [exports("exported"), exports("unchanged"), exports("failed"), exports("cancelled")],
        [2.0, 1.0, 1.0, 0.0]
    );
    assert_eq!(scrape.get("linkspan_errors_total{kind=\"policy\"}"), 1.0);
    assert_eq!(scrape.sum("linkspan_errors_total"), 1.0);
    assert_eq!(scrape.get("linkspan_export_duration_seconds_count{door=\"buildkit\"}"), 4.0);
    // The manifest, the config and two layers; then all but the lower layer. The image that was complete has four as well.
    let blobs = |how: &str| scrape.get(&format!("linkspan_blobs_total{{door=\"buildkit\",how=\"{how}\"}}"));
    assert_eq!([blobs("sent"), blobs("present"), blobs("adopted")], [4.0 + 3.0, 4.0 + 1.0, 0.0]);
    let bytes = |what: &str| scrape.get(&format!("linkspan_{what}_bytes_total{{door=\"buildkit\"}}"));
    let is_logged = |log: &String| count_of(log, "exported") == 3;
    let log = until("the lines of three exports", || linkspan.log(), is_logged);
    assert_eq!(bytes("sent"), sum_of(&log, "exported", "sent_bytes"));
    assert_eq!(bytes("spared"), sum_of(&log, "exported", "spared_bytes"));
    assert!(bytes("sent") > 200_000.0 && bytes("spared") > 100_000.0, "{scrape:?}");
    let states =
        |state: &str| scrape.get(&format!("linkspan_export_state_duration_seconds_count{{state=\"{state}\"}}"));
    assert_eq!(["open", "planned", "transferring", "ready"].map(states), [2.0; 4]);
    assert!(scrape.get("linkspan_upstream_connections_total{peer=\"builder\"}") >= 4.0, "{scrape:?}");
    assert!(scrape.get("linkspan_upstream_connections_open{peer=\"engine\"}") >= 1.0, "{scrape:?}");
    assert!(scrape.sum("linkspan_sessions_split_total") >= 3.0, "{scrape:?}");
    assert_eq!(scrape.sum("linkspan_exports_live"), 0.0);
    until("leases to be released", || Scrape::of(&metrics), |scrape| scrape.sum("linkspan_leases_open") == 0.0);

    // Lines of an export, by whichever part of the program, say which it is.
    let lines = lines(&log);
    let exported: Vec<_> = lines.iter().filter(|line| line["fields"]["message"] == "exported").collect();
    assert_eq!(exported.len(), 3);
    let within = |line: &&Value| line["spans"].as_array().is_some_and(|it| it.iter().any(|it| it["name"] == "export"));
    let of_exports: Vec<_> = lines.iter().filter(within).chain(exported).collect();
    assert!(of_exports.len() > 6, "{log}");
    for line in of_exports {
        let id = line["export"].as_str().unwrap_or_else(|| panic!("no export: {line}"));
        assert!(!id.is_empty() && line["door"] == "buildkit" && line["engine"] == "containerd", "{line}");
        assert!(line["principal"].as_str().is_some_and(|who| who.starts_with("uid ")), "{line}");
    }
}

#[test]
fn caches_that_builds_ask_for_are_counted() {
    let stack = Stack::shared();
    let (linkspan, metrics) = serve(stack, &stack.containerd_flags("observed-cache"), &[stack.buildkit_host()], &[]);
    let builder = stack.builder(&linkspan.address());
    let bottom = random();
    let (context, cache) = (image(bottom, random()), format!("type=linkspan,ref=observed.example/c{}", random()));
    let build = |args: &[&str]| builder.build(context.path(), args.iter().copied()).ok();
    let lookups = || {
        ["hit", "miss"].map(|it| Scrape::of(&metrics).get(&format!("linkspan_cache_lookups_total{{result=\"{it}\"}}")))
    };
    assert_eq!(lookups(), [0.0, 0.0]);
    build(&["--cache-from", &cache, "--cache-to", &cache]);
    until("a miss", lookups, |lookups| *lookups == [0.0, 1.0]);
    build(&["--cache-from", &cache]);
    until("a hit", lookups, |lookups| *lookups == [1.0, 1.0]);
    let sent = || Scrape::of(&metrics).get("linkspan_blobs_total{door=\"cache\",how=\"sent\"}");
    until("the layers of the cache", sent, |sent| *sent >= 2.0);
    // Of the next cache one layer is there, and one is new.
    let before = sent();
    let spared = || Scrape::of(&metrics).get("linkspan_spared_bytes_total{door=\"cache\"}");
    assert_eq!(spared(), 0.0);
    let changed = image(bottom, random());
    builder.build(changed.path(), ["--cache-to", &cache]).ok();
    until("a layer that was there", spared, |bytes| *bytes > 100_000.0);
    let scrape = Scrape::of(&metrics);
    let blobs = |how: &str| scrape.get(&format!("linkspan_blobs_total{{door=\"cache\",how=\"{how}\"}}"));
    assert_eq!([blobs("sent") - before, blobs("present")], [1.0, 1.0], "{scrape:?}");
    let message = "a build cache is exported";
    let log = until("the lines of caches", || linkspan.log(), |log| count_of(log, message) == 2);
    for line in lines(&log).iter().filter(|line| line["fields"]["message"] == message) {
        assert!(line["export"].is_string() && line["principal"].is_string(), "{line}");
        assert!(line["door"] == "buildkit" && line["engine"] == "containerd", "{line}");
    }
}

/// An archive of an image that nobody has.
fn archive(stack: &Stack, kind: &str) -> PathBuf {
    let path = stack.fresh_path(".tar");
    let context = Context::new("FROM scratch\nCOPY a /a\nCOPY b /b\n").noise("a", 3_000_000, random());
    let context = context.noise("b", 2_000_000, random());
    let output = format!("type={kind},dest={},name=observed.example/archive:{}", path.display(), random());
    stack.builder(stack.buildkit_host()).build(context.path(), ["--provenance=false", "-o", &output]).ok();
    path
}

#[test]
fn loads_into_docker_are_counted_and_listed() {
    let stack = Stack::shared();
    let (docker, export) = (stack.fresh_path("-docker.sock"), stack.fresh_path("-export.sock"));
    let (listen, api) = (unix(&docker), unix(&export));
    let args = [&stack.docker_flags()[..], &["--docker-listen", &listen, "--export-listen", &api]].concat();
    let (linkspan, metrics) = serve(stack, &args, &[], &[]);
    let archive = archive(stack, "oci");
    let load = || stack.docker(["load", "-i", text(&archive)]).env("DOCKER_HOST", &listen).ok();
    load();
    load();
    let scrape = until("two loads", || Scrape::of(&metrics), |scrape| scrape.sum("linkspan_exports_total") == 2.0);
    // The second one changes nothing.
    let ended = |result: &str| {
        scrape.get(&format!("linkspan_exports_total{{door=\"docker\",engine=\"docker\",result=\"{result}\"}}"))
    };
    assert_eq!([ended("exported"), ended("unchanged")], [1.0, 1.0], "{scrape:?}");
    let is_loaded = |log: &String| count_of(log, "loaded") == 2;
    let log = until("the lines of two loads", || linkspan.log(), is_loaded);
    for (field, sample) in [
        ("spared_blobs", "linkspan_blobs_total{door=\"docker\",how=\"present\"}"),
        ("spared_bytes", "linkspan_spared_bytes_total{door=\"docker\"}"),
    ] {
        let expected = sum_of(&log, "loaded", field);
        assert!(expected > 0.0, "{log}");
        assert_eq!(scrape.get(sample), expected, "{sample}");
    }
    assert_eq!(scrape.get("linkspan_sent_bytes_total{door=\"docker\"}"), sum_of(&log, "loaded", "sent_bytes"));
    // Both layers were new, and large enough for Linkspan to store them.
    assert!(scrape.get("linkspan_sent_bytes_total{door=\"docker\"}") >= 5_000_000.0, "{scrape:?}");
    let loaded = lines(&log).into_iter().find(|line| line["fields"]["message"] == "loaded").unwrap();
    assert!(loaded["door"] == "docker" && loaded["engine"] == "docker" && loaded["export"].is_string(), "{loaded}");
    // What is said of its images while they are unpacked says whose they are.
    let message = "an image of an archive is unpacked before docker sets its name";
    let unpacked: Vec<_> = lines(&log).into_iter().filter(|line| line["fields"]["message"] == message).collect();
    assert_eq!(unpacked.len(), 1, "{log}");
    assert!(unpacked[0]["export"] == loaded["export"] && unpacked[0]["principal"] == loaded["principal"], "{log}");
    assert!(scrape.get("linkspan_connections_total{door=\"docker\"}") >= 2.0, "{scrape:?}");

    // A load that has begun and not ended is listed, as exports through all doors are.
    let slow = stack.docker(["load"]).env("DOCKER_HOST", &listen);
    let pipe = stack.fresh_path(".fifo");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let loading = slow.args(["-i", text(&pipe)]).spawn();
    // Opened for both, it is there whether docker has opened it or not.
    let writer = fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    let listed = || linkspan_ps(&api);
    until("the load to be listed", listed, |output| {
        output.stdout.contains("docker") && output.stdout.contains("loading")
    });
    assert_eq!(Scrape::of(&metrics).get("linkspan_exports_live{door=\"docker\"}"), 1.0);
    drop(writer);
    loading.wait();
    until("the load to be listed no longer", listed, |output| !output.stdout.contains("loading"));
}

#[test]
fn exports_that_are_given_up_are_cancelled_and_no_failures() {
    let stack = Stack::shared();
    let (docker, export) = (stack.fresh_path("-docker.sock"), stack.fresh_path("-export.sock"));
    let (listen, api) = (unix(&docker), unix(&export));
    let args = [&stack.docker_flags()[..], &["--docker-listen", &listen, "--export-listen", &api]].concat();
    let (linkspan, metrics) = serve(stack, &args, &[], &[]);
    let cancelled = |door: &str| {
        let labels = format!("door=\"{door}\",engine=\"docker\",result=\"cancelled\"");
        Scrape::of(&metrics).get(&format!("linkspan_exports_total{{{labels}}}"))
    };

    // A load whose client is interrupted within the archive.
    let (whole, pipe) = (fs::read(archive(stack, "oci")).unwrap(), stack.fresh_path(".fifo"));
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let loading = stack.docker(["load", "-i", text(&pipe)]).env("DOCKER_HOST", &listen).spawn();
    let mut writer = fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    writer.write_all(&whole[..whole.len() / 2]).unwrap();
    until("the load to be listed", || linkspan_ps(&api), |output| output.stdout.contains("loading"));
    loading.signal(Signal::INT);
    until("the load to be counted", || cancelled("docker"), |count| *count == 1.0);
    // docker has closed its connection, and still waits for the pipe.
    drop(writer);
    loading.wait();

    // An export of the API that its client aborts.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let channel = channel(&export, Endpoint::from_static("http://localhost")).await;
        let mut exports = ExportsClient::new(channel);
        let exporter = Exporter { id: "a".to_owned(), r#type: "image".to_owned(), ..Exporter::default() };
        let request = OpenRequest { exporters: vec![exporter], ..OpenRequest::default() };
        let opened = exports.open(request).await.unwrap().into_inner();
        let request = AbortRequest { export_id: opened.export.unwrap().id };
        exports.abort(request.clone()).await.unwrap();
        // Once more is nothing new.
        exports.abort(request).await.unwrap();
    });
    until("the export to be counted", || cancelled("export"), |count| *count == 1.0);
    let scrape = Scrape::of(&metrics);
    assert_eq!(scrape.sum("linkspan_exports_total"), 2.0, "{scrape:?}");
    assert_eq!(scrape.sum("linkspan_errors_total"), 0.0, "{scrape:?}");
    let log = linkspan.log();
    for message in ["not loaded", "not exported"] {
        let found: Vec<_> = lines(&log).into_iter().filter(|line| line["fields"]["message"] == message).collect();
        assert!(found.len() == 1 && found[0]["level"] == "INFO" && found[0]["principal"].is_string(), "{found:?}");
    }
}

fn linkspan_ps(to: &str) -> Output {
    linkspan(["ps", "--to", to]).ok()
}

#[test]
fn pushes_and_exports_through_the_apis_are_counted() {
    let stack = Stack::shared();
    let (export, registry) = (stack.fresh_path("-export.sock"), stack.fresh_path("-layout"));
    let api = unix(&export);
    let args = [
        "--engine",
        "layout",
        "--layout",
        text(&registry),
        "--export-listen",
        &api,
        "--registry-listen",
        "tcp://127.0.0.1:0",
        "--registry-writable",
    ];
    let (daemon, metrics) = serve(stack, &args, &[], &[]);
    let said = "registry door listening on tcp://";
    let log = until("the registry door", || daemon.log(), |log| log.contains(said));
    let registry = log.split_once(said).unwrap().1.split_once(' ').unwrap().0.to_owned();
    let blobs = |door: &str| {
        let scrape = Scrape::of(&metrics);
        ["sent", "present"].map(|how| scrape.get(&format!("linkspan_blobs_total{{door=\"{door}\",how=\"{how}\"}}")))
    };
    // Of each image: a manifest, a config and two layers.
    let (one, other) = (archive(stack, "oci"), archive(stack, "oci"));
    // A client has its answer before what it did is counted.
    let counted = |door: &str, expected| until("blobs to be counted", || blobs(door), |blobs| *blobs == expected);
    let load = |name: &str| linkspan(["load", "-i", text(&one), "--to", &api, "-t", name]).ok();
    load("observed.example/one:1");
    counted("export", [4.0, 0.0]);
    load("observed.example/one:2");
    counted("export", [4.0, 4.0]);
    let push = |archive: &Path, tag: &str| {
        let (from, to) = (format!("oci-archive:{}", archive.display()), format!("docker://{registry}/observed:{tag}"));
        linkspan(["copy", &from, &to]).ok();
    };
    push(&other, "other");
    counted("registry", [4.0, 0.0]);
    push(&one, "one");
    counted("registry", [4.0, 4.0]);
    let put = "linkspan_registry_requests_total{method=\"PUT\",route=\"manifest\",status=\"2xx\"}";
    let is_over = |scrape: &Scrape| scrape.sum("linkspan_exports_total") == 4.0 && scrape.get(put) == 2.0;
    let scrape = until("all to be counted", || Scrape::of(&metrics), is_over);
    for door in ["export", "registry"] {
        let sample = format!("linkspan_exports_total{{door=\"{door}\",engine=\"layout\",result=\"exported\"}}");
        assert_eq!(scrape.get(&sample), 2.0, "{scrape:?}");
    }
    let requests = |method: &str, route: &str, class: &str| {
        let labels = format!("method=\"{method}\",route=\"{route}\",status=\"{class}\"");
        scrape.get(&format!("linkspan_registry_requests_total{{{labels}}}"))
    };
    assert_eq!(requests("PUT", "manifest", "2xx"), 2.0, "{scrape:?}");
    assert!(requests("HEAD", "blob", "2xx") >= 3.0 && requests("HEAD", "blob", "4xx") >= 3.0, "{scrape:?}");
    for family in ["linkspan_sent_bytes_total", "linkspan_spared_bytes_total"] {
        assert!(scrape.get(&format!("{family}{{door=\"registry\"}}")) > 5_000_000.0, "{scrape:?}");
    }
    assert!(scrape.get("linkspan_sent_bytes_total{door=\"export\"}") > 5_000_000.0, "{scrape:?}");
}

#[test]
fn metrics_are_served_at_one_path_in_both_formats() {
    let stack = Stack::shared();
    let folder = stack.fresh_path("-layout");
    let export = unix(&stack.fresh_path("-export.sock"));
    let args = ["--engine", "layout", "--layout", text(&folder), "--export-listen", &export];
    let (_linkspan, metrics) = serve(stack, &args, &[], &[]);
    for (method, target, expected) in [
        ("GET", "/", 404),
        ("GET", "/metrics/", 404),
        ("GET", "/_linkspan/status", 404),
        ("POST", "/metrics", 405),
        ("HEAD", "/metrics", 200),
        ("GET", "/metrics?name=x", 200),
    ] {
        assert_eq!(respond(&metrics, method, target, "").0, expected, "{method} {target}");
    }
    let (status, head, body) = respond(&metrics, "GET", "/metrics", "Accept: application/openmetrics-text\r\n");
    assert!(status == 200 && head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(body.ends_with("# EOF\n") && body.contains("# UNIT linkspan_sent_bytes bytes\n"), "{body}");

    let scrape = Scrape::of(&metrics);
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(scrape.get(&format!("linkspan_build_info{{version=\"{version}\"}}")), 1.0, "{scrape:?}");
    for door in ["buildkit", "docker", "export", "registry", "metrics"] {
        for family in ["linkspan_connections_total", "linkspan_connections_open"] {
            assert!(scrape.has(&format!("{family}{{door=\"{door}\"}}")), "{scrape:?}");
        }
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let age = now - scrape.get("process_start_time_seconds");
    assert!((-5.0..3600.0).contains(&age), "{scrape:?}");
    for (name, least) in [
        ("process_resident_memory_bytes", 1e6),
        ("process_virtual_memory_bytes", 1e6),
        ("process_open_fds", 5.0),
        ("process_max_fds", 64.0),
        ("process_threads", 2.0),
        ("process_cpu_seconds_total", 0.0),
    ] {
        assert!(scrape.families.contains(name) && scrape.get(name) >= least, "{name}: {scrape:?}");
    }

    // README says what each kind of error means.
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let (_, table) = readme.split_once("| `kind` of `linkspan_errors_total` |").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let kinds = scrape.labels("linkspan_errors_total");
    assert!(kinds.len() > 10 && kinds.iter().all(|kind| table.contains(&format!("`{kind}`"))), "{kinds:?}: {table}");

    // What the dashboard shows is there.
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/metrics/dashboard.json");
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let named = named_in(&dashboard);
    assert!(named.len() > 15, "{named:?}");
    let is_there = |name: &&String| {
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        scrape.families.contains(*name) || family.is_some_and(|family| scrape.families.contains(family))
    };
    let absent: Vec<_> = named.iter().filter(|name| !is_there(name)).collect();
    assert!(absent.is_empty(), "the dashboard names metrics that are not served: {absent:?}");

    let refused = linkspan(["serve", "--metrics-listen", "tcp://0.0.0.0:0"]).args(args).fails();
    assert!(refused.stderr.contains("can be reached from other machines"), "{refused}");
    let taken = linkspan(["serve", "--metrics-listen", &export]).args(args).fails();
    assert!(taken.stderr.contains("metrics need an address of their own"), "{taken}");
}

/// The metrics in all expressions of a dashboard.
fn named_in(value: &Value) -> BTreeSet<String> {
    match value {
        Value::Object(fields) => {
            let of_expression = fields.get("expr").and_then(Value::as_str).into_iter().flat_map(|text| {
                let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
                words.filter(|word| word.starts_with("linkspan_") || word.starts_with("process_")).map(str::to_owned)
            });
            of_expression.chain(fields.values().flat_map(named_in)).collect()
        }
        Value::Array(values) => values.iter().flat_map(named_in).collect(),
        _ => BTreeSet::new(),
    }
}
