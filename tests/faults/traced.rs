//! The trace of a request goes on to the engine: containerd and dockerd get it with our calls.

use std::hash::{BuildHasher as _, RandomState};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::{Linkspan, Stack, relay, unix, until};
use crate::proxy::Proxy;

/// Where nobody collects spans: what comes with our calls does not depend on that.
fn collector() -> Vec<(String, String)> {
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"), ("OTEL_BSP_SCHEDULE_DELAY", "60000")];
    variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

/// Asks a registry door for an image that nobody has, as part of a new trace; returns the trace's id.
fn request(registry: &str) -> String {
    let random = || RandomState::new().hash_one(0);
    let trace = format!("{:016x}{:016x}", random() | 1, random());
    let mut stream = TcpStream::connect(registry).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let head = format!(
        "GET /v2/traced.example/absent/manifests/1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         traceparent: 00-{trace}-00000000000000aa-01\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    assert!(response.starts_with("HTTP/1.1 404"), "{response}");
    trace
}

/// Whether `traceparent` is of this trace, by a span of ours.
fn continues(traceparent: &str, trace: &str) -> bool {
    traceparent.starts_with(&format!("00-{trace}-")) && !traceparent.contains("-00000000000000aa-")
}

#[test]
fn containerd_gets_the_trace_of_a_request() {
    let stack = Stack::shared();
    let proxy = Proxy::new(stack, stack.containerd_address());
    let flags = stack.containerd_flags("traced");
    let through = |proxy: &Proxy| {
        let address = proxy.path().to_str().unwrap().to_owned();
        flags.map(|flag| if flag == stack.containerd_address() { address.clone() } else { flag.to_owned() })
    };
    let args = through(&proxy);
    let (_linkspan, registry) = Linkspan::registry_with(stack, &args.each_ref().map(String::as_str), &collector());
    let trace = request(&registry);
    let traces = proxy.traces();
    assert!(traces.iter().any(|found| continues(found, &trace)), "{trace}: {traces:?}");
    // Without a collector nothing is added.
    let proxy = Proxy::new(stack, stack.containerd_address());
    let args = through(&proxy);
    let (_linkspan, registry) = Linkspan::registry(stack, &args.each_ref().map(String::as_str));
    request(&registry);
    assert_eq!(proxy.traces(), [""; 0]);
}

#[test]
fn dockerd_gets_the_trace_of_a_request() {
    let stack = Stack::shared();
    let path = stack.fresh_path("-relay.sock");
    let sent = Arc::<Mutex<Vec<u8>>>::default();
    let seen = sent.clone();
    relay(&path, stack.docker_host(), move |bytes| seen.lock().unwrap().extend_from_slice(bytes));
    let address = unix(&path);
    let args = ["--engine", "docker-api", "--docker-host", &address];
    let (_linkspan, registry) = Linkspan::registry_with(stack, &args, &collector());
    let trace = request(&registry);
    let found = || {
        let text = String::from_utf8_lossy(&sent.lock().unwrap()).to_ascii_lowercase();
        let traces = text.lines().filter_map(|line| line.strip_prefix("traceparent: ").map(str::to_owned));
        traces.collect::<Vec<_>>()
    };
    until("the trace at dockerd", found, |found| found.iter().any(|it| continues(it, &trace)));
}
