//! `--cache-lazy-import`: a builder on this host reads the layers of a cache only when it needs them.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use rustix::process::Signal;

use crate::common::{Builder, Context, Linkspan, Output, Part, Stack, cached_steps, text, until};

const PARTS: [Part; 4] = [Part::Containerd, Part::Dockerd, Part::Buildkitd, Part::Registry];

/// A step that prints something else each time it really runs.
const ONCE: &str = "RUN cat /proc/sys/kernel/random/uuid | tee /uuid\n";
/// The bytes of a layer that is moved or not.
const NOISE: usize = 4 << 20;
const FROM: [&str; 2] = ["--cache-from", "type=linkspan,ref=lazy"];

fn lazy(stack: &Stack) -> [&str; 5] {
    ["--engine", "docker", "--docker-host", stack.docker_host(), "--cache-lazy-import"]
}

/// Exports the cache of `context`, and prunes all that the builder has.
#[track_caller]
fn export(builder: &Builder<'_>, context: &Context) {
    let to = ["--cache-to", "type=linkspan,ref=lazy,mode=max", "-o", "type=cacheonly"];
    builder.build(context.path(), to).ok();
    builder.prune();
}

/// The bytes of caches that builds have read, as the log says it.
fn read(linkspan: &Linkspan) -> usize {
    let log = linkspan.log();
    let lines = log.lines().filter(|line| line.contains("a build has read from build caches"));
    lines.map(|line| line.split("bytes=").nth(1).unwrap().split(' ').next().unwrap().parse::<usize>().unwrap()).sum()
}

#[test]
fn an_image_that_is_all_cached_is_loaded_without_a_layer_moved() {
    let stack = Stack::start(&PARTS);
    let linkspan = Linkspan::start(&stack, &lazy(&stack), &[stack.buildkit_host()]);
    let builder = stack.builder(&linkspan.address());
    let dockerfile = format!("FROM {}\nCOPY noise /noise\n{ONCE}ARG LAST\nRUN echo $LAST >/last\n", stack.base_image());
    let context = Context::new(&dockerfile).noise("noise", NOISE, 7);
    builder.build(context.path(), ["--load", "-t", "lazy:1"]).ok();
    export(&builder, &context);
    let back = builder.build(context.path(), FROM).args(["--load", "-t", "lazy:2"]).ok();
    assert_eq!(cached_steps(&back), 3, "{back}");
    assert_eq!(stack.tagged("moby", "lazy:1"), stack.tagged("moby", "lazy:2"), "{back}");
    let only_documents = read(&linkspan);
    assert!(only_documents > 0 && only_documents < NOISE / 4, "{only_documents}: {}", linkspan.log());

    // A step that is new needs them, and gets them.
    builder.build(context.path(), FROM).args(["--build-arg", "LAST=new", "--load", "-t", "lazy:3"]).ok();
    let shown = stack.run_image("lazy:3", &["sh", "-c", "cat /uuid /last; wc -c </noise"]).ok().stdout;
    let uuid = stack.run_image("lazy:1", &["cat", "/uuid"]).ok().stdout;
    assert_eq!(shown, format!("{uuid}new\n{NOISE}\n"));
    assert!(read(&linkspan) > NOISE, "{}", linkspan.log());
}

#[test]
fn a_version_that_was_replaced_goes_with_the_build_that_read_it() {
    let stack = Stack::start(&PARTS);
    let linkspan = Linkspan::start(&stack, &lazy(&stack), &[stack.buildkit_host()]);
    let builder = stack.builder(&linkspan.address());
    for seed in 1..4 {
        let context = Context::new("FROM scratch\nCOPY noise /noise\n").noise("noise", 100_000, seed);
        let to = ["--cache-to", "type=linkspan,ref=lazy,mode=max", "-o", "type=cacheonly"];
        builder.build(context.path(), FROM).args(to).ok();
    }
    // One version, and what pins those that were read: they stay readable for a while.
    let engine = stack.docker_flags();
    let listed = || crate::common::linkspan(["cache", "ls", "--quiet"]).args(engine).ok().lines();
    until("the versions that were replaced to go", listed, |listed| listed.len() == 1);
}

#[test]
fn what_is_offered_is_read_with_the_password_only() {
    let stack = Stack::start(&PARTS);
    let linkspan = Linkspan::start(&stack, &lazy(&stack), &[stack.buildkit_host()]);
    let builder = stack.builder(&linkspan.address());
    let context = Context::new("FROM scratch\nCOPY noise /noise\n").noise("noise", 1000, 7);
    export(&builder, &context);
    builder.build(context.path(), FROM).args(["-o", "type=cacheonly"]).ok();
    let log = linkspan.log();
    let opened = log.lines().find(|line| line.contains("listening on the builder's loopback")).expect(&log);
    let port: u16 = opened.split("port=").nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    let request = |path: &str, password: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let authorization = format!("authorization: Basic {password}\r\n");
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\n{authorization}connection: close\r\n\r\n").unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response.lines().next().unwrap().to_owned()
    };
    // Those who only hold connections open do not keep the builder out.
    let idle: Vec<_> = (0..200).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    builder.prune();
    let back = builder.build(context.path(), FROM).args(["-o", "type=cacheonly"]).ok();
    assert_eq!(cached_steps(&back), 1, "{back}");
    drop(idle);
    let repository = imported(&back, port);
    for path in ["/v2/", "/v2/_catalog", &format!("/v2/{}", repository.replace('@', "/manifests/"))] {
        // `linkspan:` and a password that is not the one.
        for password in ["", "bGlua3NwYW46MDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDA="] {
            assert_eq!(request(path, password), "HTTP/1.1 401 Unauthorized", "{path}");
        }
    }
}

/// The repository and the digest that the builder says it imports.
#[track_caller]
fn imported(output: &Output, port: u16) -> String {
    let (_, rest) = output.stderr.split_once(&format!("importing cache manifest from 127.0.0.1:{port}/")).unwrap();
    rest.lines().next().unwrap().to_owned()
}

#[test]
fn a_builder_with_a_network_of_its_own_is_reached_and_reached_again() {
    let stack = Stack::start(&[Part::Containerd, Part::Dockerd]);
    let (root, socket) = (stack.fresh_path("-buildkit"), stack.fresh_path("-buildkitd.sock"));
    let config = stack.fresh_path(".toml");
    let written = format!(
        "root = {root:?}\n[grpc]\n  address = [\"unix://{}\"]\n[worker.oci]\n  snapshotter = \"overlayfs\"\n  networkMode = \"host\"\n\
         [worker.containerd]\n  enabled = false\n",
        text(&socket)
    );
    fs::write(&config, written).unwrap();
    let start = || {
        // A new namespace has its loopback down.
        let script = format!("busybox ip link set lo up && exec buildkitd --config {}", text(&config));
        let running = stack.run("unshare").args(["--net", "sh", "-c", &script]).spawn();
        let address = format!("unix://{}", text(&socket));
        until(
            "the builder to respond",
            || stack.buildctl(["--addr", &address, "debug", "workers"]).output().status.success(),
            |is_ready| *is_ready,
        );
        (running, address)
    };
    let (running, address) = start();
    let linkspan = Linkspan::start(&stack, &lazy(&stack), &[&address]);
    let context = Context::new("FROM scratch\nCOPY noise /noise\nCOPY noise /more\n").noise("noise", NOISE, 7);
    let builder = stack.builder(&linkspan.address());
    export(&builder, &context);
    let before = read(&linkspan);
    let back = builder.build(context.path(), FROM).args(["-o", "type=cacheonly"]).ok();
    assert_eq!(cached_steps(&back), 2, "{back}");
    assert!(read(&linkspan) - before < NOISE / 4, "{}", linkspan.log());

    // Another process of it has another namespace.
    running.signal(Signal::KILL);
    running.wait();
    let (_running, _) = start();
    builder.prune();
    let back = builder.build(context.path(), FROM).args(["-o", "type=cacheonly"]).ok();
    assert_eq!(cached_steps(&back), 2, "{back}");
    let log = linkspan.log();
    assert_eq!(log.matches("listening on the builder's loopback").count(), 2, "{log}");
}

#[test]
fn a_builder_in_a_container_imports_lazily_through_the_docker_door() {
    let stack = Stack::start(&PARTS);
    let door = stack.fresh_path("-docker.sock");
    let listen = format!("unix://{}", text(&door));
    let args = [&lazy(&stack)[..], &["--docker-listen", &listen]].concat();
    let linkspan = Linkspan::start_at(&stack, &args, &[], vec![door]);
    let builder = stack.container_builder(&linkspan.address(), "lazy");
    let context = Context::new("FROM scratch\nCOPY noise /noise\n").noise("noise", NOISE, 7);
    export(&builder, &context);
    let before = read(&linkspan);
    let back = builder.build(context.path(), FROM).args(["--load", "-t", "lazy:1"]).ok();
    assert_eq!(cached_steps(&back), 1, "{back}");
    assert!(read(&linkspan) - before < NOISE / 4, "{}", linkspan.log());
    assert!(linkspan.log().contains("listening on the builder's loopback"), "{}", linkspan.log());
}

#[test]
fn a_proxy_in_front_of_a_builder_is_not_taken_for_it() {
    let stack = Stack::start(&PARTS);
    // This Linkspan stands between; its process is not the builder's.
    let between = Linkspan::docker(&stack);
    let linkspan = Linkspan::start(&stack, &lazy(&stack), &[&between.address()]);
    let builder = stack.builder(&linkspan.address());
    let context = Context::new("FROM scratch\nCOPY noise /noise\n").noise("noise", 1000, 7);
    export(&builder, &context);
    let back = builder.build(context.path(), FROM).args(["-o", "type=cacheonly"]).ok();
    assert_eq!(cached_steps(&back), 1, "as without the flag: {back}");
    let log = linkspan.log();
    assert!(log.contains("cache imports are not lazy") && !log.contains("listening on the builder's"), "{log}");
}
