//! What happens when one of the three goes: the client, dockerd, or Linkspan.

use std::{
    fs,
    io::{Read, Write},
};

use rustix::process::Signal;

use crate::{
    both_ways::{BothWays, Container, base},
    common::{Context, Part, Stack, until},
    raw::head,
};

/// How many connections dockerd has on its socket: /proc/net/unix lists accepted ones by the name of the listening one.
fn connections(stack: &Stack) -> usize {
    let path = stack.docker_host().strip_prefix("unix://").unwrap();
    let table = fs::read_to_string("/proc/net/unix").unwrap();
    // Not the listening one, whose flags (fourth column) say __SO_ACCEPTCON.
    table.lines().filter(|line| line.ends_with(path) && line.split(' ').nth(3) != Some("00010000")).count()
}

#[test]
fn a_client_that_goes_is_gone_for_dockerd_too() {
    let stack = Stack::start(&[Part::Dockerd]);
    let sides = BothWays::of(&stack);
    let before = connections(&stack);
    let mut events = sides.through().connect();
    events.write_all(b"GET /events HTTP/1.1\r\nHost: docker\r\n\r\n").unwrap();
    let mut head = [0; 15];
    events.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    until("a connection", || connections(&stack), |now| *now == before + 1);
    drop(events);
    until("dockerd to see it go", || connections(&stack), |now| *now == before);
    // Only its own direction: dockerd ends the response, and the client can read that.
    let mut events = sides.through().connect();
    events.write_all(b"GET /events HTTP/1.1\r\nHost: docker\r\n\r\n").unwrap();
    events.read_exact(&mut head).unwrap();
    events.shutdown(std::net::Shutdown::Write).unwrap();
    let mut rest = String::new();
    events.read_to_string(&mut rest).unwrap();
    assert!(rest.ends_with("0\r\n\r\n"), "{rest}");
    until("dockerd to see it go", || connections(&stack), |now| *now == before);
}

#[test]
fn a_build_ends_with_its_client() {
    let sides = BothWays::of(Stack::shared());
    // A number that no other process of the machine has among its arguments.
    let seconds = format!("9{}", std::process::id());
    let context = Context::new(&format!("FROM {}\nRUN --network=host sleep {seconds}\n", base(sides.stack)));
    let sleeps = || {
        let line = format!("sleep\0{seconds}\0");
        let lines =
            fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
        lines.filter(|found| found.ends_with(line.as_bytes())).count()
    };
    for builder in ["1", "0"] {
        let dockerfile = if builder == "0" {
            Context::new(&format!("FROM {}\nRUN sleep {seconds}\n", base(sides.stack)))
        } else {
            Context::new(&fs::read_to_string(context.path().join("Dockerfile")).unwrap())
        };
        let run = sides.through().docker(["build", "--no-cache", "--network", "host"]).env("DOCKER_BUILDKIT", builder);
        let build = run.arg(dockerfile.path()).spawn();
        until("the build to sleep", sleeps, |sleeping| *sleeping > 0);
        build.signal(Signal::KILL);
        until("the build to end", sleeps, |sleeping| *sleeping == 0);
        build.wait();
    }
}

#[test]
fn dockerd_is_killed_and_comes_back() {
    let stack = Stack::start(&[Part::Dockerd]);
    let sides = BothWays::of(&stack);
    let args = ["events", "--format", "{{.Action}}"];
    let watching = [sides.through(), sides.direct()].map(|side| side.docker(args).spawn());
    until(
        "both to watch",
        || {
            sides.direct().docker(["volume", "create", "seen"]).ok();
            sides.direct().docker(["volume", "rm", "seen"]).ok();
            watching.iter().map(|events| events.stdout()).collect::<Vec<_>>()
        },
        |outputs| outputs.iter().all(|outputs| outputs.contains("destroy\n")),
    );
    stack.kill(Part::Dockerd);
    let [through, direct] = watching.map(|events| events.wait());
    assert_eq!((through.status, &through.stderr), (direct.status, &direct.stderr));

    let output = sides.through().docker(["ps"]).fails();
    let socket = stack.docker_host();
    assert!(
        output.stderr.contains(&format!("Error response from daemon: linkspan: cannot connect to {socket}: ")),
        "{output}"
    );
    let mut ping = sides.through().connect();
    ping.write_all(b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n").unwrap();
    let mut response = String::new();
    ping.read_to_string(&mut response).unwrap();
    assert!(
        response.starts_with("HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"),
        "{response}"
    );
    let (_, body) = response.split_once("\r\n\r\n").unwrap();
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert!(body["message"].as_str().unwrap().starts_with("linkspan: cannot connect to "), "{body}");

    stack.up();
    sides.compare(|side| side.outcome(&side.docker(["version"]).ok()));
}

#[test]
fn a_drain_ends_idle_clients_and_finishes_what_is_under_way() {
    let stack = Stack::shared();
    let mut sides = BothWays::of(stack);
    let mut idle = sides.through().connect();
    idle.write_all(b"HEAD /_ping HTTP/1.1\r\nHost: docker\r\n\r\n").unwrap();
    head(&mut idle);
    let name = "drained";
    let _container = Container(stack, name.to_owned());
    sides.direct().run(["-d", "--name", name, base(stack), "sleep", "1000"]).ok();
    // A response that nobody can wait for: dockerd completes it when the container has ended.
    let mut waiting = sides.through().connect();
    waiting.write_all(format!("POST /containers/{name}/wait HTTP/1.1\r\nHost: docker\r\n\r\n").as_bytes()).unwrap();
    assert!(head(&mut waiting).starts_with("HTTP/1.1 200 OK\r\n"));
    // And an upload of which half has come, as of `docker cp`: an archive without files.
    let mut copying = sides.through().connect();
    let head_of =
        format!("PUT /containers/{name}/archive?path=/ HTTP/1.1\r\nHost: docker\r\nContent-Length: 1024\r\n\r\n");
    copying.write_all(head_of.as_bytes()).unwrap();
    copying.write_all(&[0; 512]).unwrap();
    // A connection of which nothing was read when the drain begins has no request under way.
    until("the upload to begin", || sides.linkspan.log(), |log| log.contains("method=\"PUT\""));
    rustix::process::kill_process(sides.linkspan.pid(), Signal::TERM).unwrap();
    idle.read_to_end(&mut Vec::new()).unwrap();
    copying.write_all(&[0; 512]).unwrap();
    let response = head(&mut copying);
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}{}", sides.linkspan.log());
    // Nothing else is waited for.
    waiting.read_to_end(&mut Vec::new()).unwrap();
    assert!(sides.linkspan.terminate().success(), "{}", sides.linkspan.log());
}
