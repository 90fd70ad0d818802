//! Traces: one from buildx through Linkspan, by both protocols; and collectors that take none.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpListener;
use std::path::Path;

use super::collector::{GrpcCollector, Sent, over_http};
use super::{Scrape, archive, image, lines, random, serve};
use crate::common::{Stack, linkspan, text, unix, until};

/// Variables of OpenTelemetry for a collector at `endpoint`, which gets spans soon.
fn variables(endpoint: &str, protocol: &str, more: &[(&str, &str)]) -> Vec<(String, String)> {
    let usual = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("NO_PROXY", "127.0.0.1"),
    ];
    usual.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Linkspan's spans of the trace that has an export, by name.
fn exported(spans: &[Sent]) -> Option<BTreeMap<String, Vec<Sent>>> {
    let ours = || spans.iter().filter(|sent| sent.service == "linkspan");
    let trace = &ours().find(|sent| sent.span.name == "export")?.span.trace_id;
    let mut named = BTreeMap::<_, Vec<_>>::new();
    for sent in ours().filter(|sent| sent.span.trace_id == *trace) {
        named.entry(sent.span.name.clone()).or_default().push(sent.clone());
    }
    Some(named)
}

#[test]
fn a_build_is_one_trace_from_buildx_to_the_engine() {
    let (stack, collector) = (Stack::shared(), GrpcCollector::start());
    let variables = variables(&collector.endpoint, "grpc", &[]);
    let args = stack.containerd_flags("observed-traces");
    let (linkspan, metrics) = serve(stack, &args, &[stack.buildkit_host()], &variables);
    assert!(linkspan.log().contains(&format!("traces go to {}", collector.endpoint)), "{}", linkspan.log());
    let context = image(random(), random());
    let output = format!("type=linkspan,name=observed.example/traced:{}", random());
    let build = stack.builder(&linkspan.address()).build(context.path(), ["--provenance=false", "-o", &output]);
    build.env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint).env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc").ok();

    let spans = || collector.collected.spans();
    let is_whole = |spans: &Vec<Sent>| {
        let ended = |span: &Sent, named: &BTreeMap<String, Vec<Sent>>| {
            named.get("solve").is_some_and(|it| it.iter().any(|it| it.span.span_id == span.span.parent_span_id))
        };
        exported(spans).is_some_and(|named| named["export"].iter().all(|export| ended(export, &named)))
    };
    let named = exported(&until("the trace of the build", spans, is_whole)).unwrap();
    let one = |name: &str| match &named.get(name).map(Vec::as_slice) {
        Some([one]) => one.clone(),
        found => panic!("{name}: {found:?} of {:?}", named.keys()),
    };
    let export = one("export");
    // buildx may ask for more than one build, such as to find out what the builder can do.
    let solve = named["solve"].iter().find(|solve| solve.span.span_id == export.span.parent_span_id);
    let solve = solve.unwrap_or_else(|| panic!("{export:?} is below none of {:?}", named["solve"]));
    for name in ["lease", "plan", "prepare", "commit"] {
        assert_eq!(one(name).span.parent_span_id, export.span.span_id, "{name}");
    }
    // The config and two layers are sent one by one, with the manifest in the plan; layers are unpacked.
    for (name, least) in [("blob", 2), ("unpack", 2)] {
        let found = &named[name];
        assert!(found.len() >= least, "{name}: {found:?}");
        assert!(found.iter().all(|it| it.span.parent_span_id == export.span.span_id), "{name}: {found:?}");
        assert!(found.iter().map(|it| it.number("bytes").unwrap()).sum::<i64>() > 150_000, "{name}: {found:?}");
    }
    assert!(export.number("sent_bytes").unwrap() > 150_000, "{export:?}");

    // buildx began the trace, and the span that ours hangs on is its own.
    let of_buildx = |spans: &Vec<Sent>| {
        let parent = spans.iter().find(|sent| sent.span.span_id == solve.span.parent_span_id);
        parent.is_some_and(|parent| parent.service != "linkspan" && parent.span.trace_id == solve.span.trace_id)
    };
    until("buildx's own spans", spans, of_buildx);
    assert_eq!(Scrape::of(&metrics).sum("linkspan_spans_dropped_total"), 0.0);
    // No connection is a span: it would end long after the trace.
    let ours: BTreeSet<_> = spans().into_iter().filter(|it| it.service == "linkspan").map(|it| it.span.name).collect();
    assert!(!ours.contains("connection"), "{ours:?}");
}

#[test]
fn a_load_that_fails_is_an_error_in_its_trace_and_a_warning() {
    let (stack, collector) = (Stack::shared(), GrpcCollector::start());
    let listen = unix(&stack.fresh_path("-docker.sock"));
    let args = [&stack.docker_flags()[..], &["--docker-listen", &listen]].concat();
    let (linkspan, metrics) = serve(stack, &args, &[], &variables(&collector.endpoint, "grpc", &[]));
    let cut = stack.fresh_path(".tar");
    let whole = fs::read(archive(stack, "oci")).unwrap();
    fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let load = |path: &Path| stack.docker(["load", "-i", text(path)]).env("DOCKER_HOST", &listen);
    load(&cut).fails();
    let exports = |spans: &[Sent]| -> Vec<Sent> {
        spans.iter().filter(|sent| sent.service == "linkspan" && sent.span.name == "export").cloned().collect()
    };
    let request =
        |spans: &[Sent], of: &Sent| spans.iter().find(|sent| sent.span.span_id == of.span.parent_span_id).cloned();
    let ended = |spans: &Vec<Sent>| exports(spans).first().is_some_and(|export| request(spans, export).is_some());
    let spans = until("the spans of a load", || collector.collected.spans(), ended);
    let failed = exports(&spans).remove(0);
    let exchange = request(&spans, &failed).unwrap();
    assert_eq!(exchange.span.name, "exchange");
    assert!(exchange.is_served() && !failed.is_served(), "{exchange:?}, {failed:?}");
    let reason = failed.failure().unwrap_or_else(|| panic!("{failed:?}"));
    assert!(!reason.is_empty() && exchange.failure() == Some(reason), "{exchange:?}, {failed:?}");
    assert_eq!(Scrape::of(&metrics).get("linkspan_errors_total{kind=\"docker\"}"), 1.0);
    let log = linkspan.log();
    let lines: Vec<_> = lines(&log).into_iter().filter(|line| line["fields"]["message"] == "not loaded").collect();
    assert!(lines.len() == 1 && lines[0]["level"] == "WARN" && lines[0]["fields"]["error"] == reason, "{lines:?}");

    // Of one that succeeds, layers are unpacked below it: another one, for the engine may have the manifest of that, and then docker
    // unpacks its layers.
    load(&archive(stack, "oci")).ok();
    let of_load =
        |spans: &Vec<Sent>| exports(spans).into_iter().find(|export| export.span.span_id != failed.span.span_id);
    let spans = until("the spans of a load", || collector.collected.spans(), |spans| of_load(spans).is_some());
    let export = of_load(&spans).unwrap();
    assert!(export.failure().is_none() && export.number("sent_bytes").unwrap() > 4_000_000, "{export:?}");
    let unpacked: Vec<_> = spans.iter().filter(|sent| sent.span.name == "unpack").collect();
    let below = |load: &Sent| unpacked.iter().filter(|it| it.span.parent_span_id == load.span.span_id).count();
    assert_eq!(below(&export), 2, "{unpacked:?} of {export:?}");
    // The one that failed may have come to a layer before it broke off.
    assert_eq!(below(&export) + below(&failed), unpacked.len(), "{unpacked:?} of {export:?} and {failed:?}");
}

#[test]
fn the_last_spans_are_sent_over_http_before_the_end() {
    let (stack, (collected, endpoint)) = (Stack::shared(), over_http());
    let more = [
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=let-me-in"),
        ("OTEL_SERVICE_NAME", "observed"),
        ("OTEL_BSP_SCHEDULE_DELAY", "600000"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "60000"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "60000"),
    ];
    let variables = variables(&endpoint, "http/protobuf", &more);
    let (folder, export) = (stack.fresh_path("-layout"), unix(&stack.fresh_path("-export.sock")));
    let args = ["--engine", "layout", "--layout", text(&folder), "--export-listen", &export];
    let (mut daemon, metrics) = serve(stack, &args, &[], &variables);
    linkspan(["load", "-i", text(&archive(stack, "oci")), "--to", &export]).ok();
    assert_eq!(Scrape::of(&metrics).sum("linkspan_exports_total"), 1.0);
    assert!(daemon.terminate().success(), "{}", daemon.log());
    let spans = collected.spans();
    let names: BTreeSet<_> = spans.iter().map(|sent| sent.span.name.as_str()).collect();
    assert!(names.contains("export") && names.contains("commit") && names.contains("call"), "{names:?}");
    assert!(spans.iter().all(|sent| sent.service == "observed"), "{spans:?}");
    // All calls of the command are one trace, and those of its export say which.
    let calls: Vec<_> = spans.iter().filter(|sent| sent.span.name == "call").collect();
    let traces: BTreeSet<_> = calls.iter().map(|call| &call.span.trace_id).collect();
    assert_eq!(traces.len(), 1, "{calls:?}");
    assert!(calls.iter().all(|call| call.is_served() && call.failure().is_none()), "{calls:?}");
    let id = spans.iter().find(|sent| sent.span.name == "export").unwrap().text("id");
    let of_export = |method: &str| {
        let found: Vec<_> = calls.iter().filter(|call| call.text("path").ends_with(method)).collect();
        assert!(!found.is_empty() && found.iter().all(|call| call.text("export") == id), "{method} of {id}: {calls:?}");
        found
    };
    for method in ["/Open", "/Negotiate", "/Commit"] {
        of_export(method);
    }
    assert!(of_export("/Write").iter().all(|call| call.text("digest").starts_with("sha256:")), "{calls:?}");
    assert!(!daemon.log().contains("let-me-in"), "{}", daemon.log());
}

#[test]
fn a_collector_that_takes_nothing_costs_only_spans() {
    let stack = Stack::shared();
    // One that accepts and says nothing, and one that is not there.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let absent = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let archive = archive(stack, "oci");
    for (endpoint, protocol) in [
        (format!("http://{}", silent.local_addr().unwrap()), "grpc"),
        (format!("http://{}", silent.local_addr().unwrap()), "http/protobuf"),
        (format!("http://{absent}"), "grpc"),
    ] {
        let more = [("OTEL_BSP_MAX_QUEUE_SIZE", "2"), ("OTEL_BSP_EXPORT_TIMEOUT", "500")];
        let variables = variables(&endpoint, protocol, &more);
        let (folder, export) = (stack.fresh_path("-layout"), unix(&stack.fresh_path("-export.sock")));
        let args = ["--engine", "layout", "--layout", text(&folder), "--export-listen", &export];
        let (mut daemon, metrics) = serve(stack, &args, &[], &variables);
        for number in 0..3 {
            let name = format!("observed.example/kept:{number}");
            linkspan(["load", "-i", text(&archive), "--to", &export, "-t", &name]).ok();
        }
        let dropped = |scrape: &Scrape| scrape.sum("linkspan_spans_dropped_total");
        let scrape = until("spans to be dropped", || Scrape::of(&metrics), |scrape| dropped(scrape) > 0.0);
        assert_eq!(scrape.sum("linkspan_exports_total"), 3.0);
        assert!(daemon.terminate().success(), "{}", daemon.log());
    }
}

#[test]
fn variables_that_cannot_be_followed_are_reported_and_nothing_fails() {
    let stack = Stack::shared();
    let (folder, export) = (stack.fresh_path("-layout"), unix(&stack.fresh_path("-export.sock")));
    let args = ["--engine", "layout", "--layout", text(&folder), "--export-listen", &export];
    let more = [
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=s3cret,x-other"),
        ("OTEL_PROPAGATORS", "b3"),
    ];
    let variables = variables("http://127.0.0.1:1", "http/json", &more);
    let (linkspan, metrics) = serve(stack, &args, &[], &variables);
    let log = linkspan.log();
    for expected in [
        "OTEL_EXPORTER_OTLP_PROTOCOL is `http/json`, and is ignored; expected one of `grpc`, `http/protobuf`",
        "OTEL_TRACES_SAMPLER is `sometimes`, and is ignored",
        "OTEL_EXPORTER_OTLP_HEADERS is ignored: entry 2 has no `=`",
        "not supported, and ignored: OTEL_PROPAGATORS",
        "traces go to http://127.0.0.1:1",
    ] {
        assert_eq!(log.matches(expected).count(), 1, "{expected}: {log}");
    }
    assert!(!log.contains("s3cret"), "{log}");
    assert_eq!(Scrape::of(&metrics).sum("linkspan_spans_dropped_total"), 0.0);
}
