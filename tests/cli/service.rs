//! The daemon as a service: sockets that are handed over, an engine that comes later, an end that waits for the right
//! things, doors that nobody asked for, and one form for all lines.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{Daemon, ended, linkspan, open, unix};
use crate::common::{Context, Output, Running, Stack, file_of, until};

/// `serve` in front of the shared stack's dockerd.
fn docker_door(door: &Path) -> crate::common::Run {
    let engine = [&["serve"][..], &Stack::shared().docker_flags()].concat();
    linkspan(engine).args(["--docker-listen", &unix(door)])
}

/// A daemon that gets its first sockets from whoever starts it, as from systemd.
struct Activated {
    child: Child,
    log: PathBuf,
}

impl Activated {
    /// `serve ARGS`, which is given `sockets` with their `names`.
    fn start(stack: &Stack, sockets: [OwnedFd; 2], names: &str, args: &[&str]) -> Self {
        let log = stack.fresh_path("-activated.log");
        // Standard input and output are what a child can be given; a shell makes them what a service manager gives.
        let script = "LISTEN_PID=$$ LISTEN_FDS=2 exec \"$@\" 3<&0 4<&1 </dev/null >&2";
        let [first, second] = sockets;
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_linkspan"), "serve"]).args(args);
        for name in ["DOCKER_HOST", "CONTAINERD_ADDRESS", "CONTAINERD_NAMESPACE", "BUILDKIT_HOST"] {
            command.env_remove(name);
        }
        let (name, value) = stack.mark();
        command.env("LISTEN_FDNAMES", names).env(name, value);
        let child = command.stdin(first).stdout(second).stderr(File::create(&log).unwrap()).spawn().unwrap();
        Self { child, log }
    }

    fn log(&self) -> String {
        file_of(&self.log)
    }

    /// Waits until its log has `words`.
    fn await_log(&mut self, words: &str) {
        let look = || (self.child.try_wait().unwrap(), file_of(&self.log));
        let (gone, log) = until("words", look, |(gone, log)| gone.is_some() || log.contains(words));
        assert!(gone.is_none(), "{log}");
    }

    fn ends(mut self, signal: Option<Signal>) -> (ExitStatus, String) {
        if let Some(signal) = signal {
            kill_process(Pid::from_child(&self.child), signal).unwrap();
        }
        let status = until("its end", || self.child.try_wait().unwrap(), Option::is_some).unwrap();
        (status, self.log())
    }
}

impl Drop for Activated {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn given(socket: &UnixListener) -> OwnedFd {
    socket.try_clone().unwrap().into()
}

/// Asks for the version of the docker behind `client`, which is connected already.
fn version(mut client: UnixStream) -> String {
    client.write_all(b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut response = String::new();
    client.read_to_string(&mut response).unwrap();
    response
}

#[test]
fn a_socket_that_is_handed_over_outlives_the_process() {
    let stack = Stack::shared();
    let (docker, export) = (stack.fresh_path("-d.sock"), stack.fresh_path("-e.sock"));
    let sockets = [UnixListener::bind(&docker).unwrap(), UnixListener::bind(&export).unwrap()];
    fs::set_permissions(&docker, fs::Permissions::from_mode(0o606)).unwrap();
    // What is mounted into a container goes on being this file.
    let mounted = stack.fresh_path("-mounted.sock");
    fs::hard_link(&docker, &mounted).unwrap();
    let look = |path: &Path| {
        let found = fs::symlink_metadata(path).unwrap();
        (found.ino(), found.mode(), found.uid(), found.gid())
    };
    let before = [look(&docker), look(&export)];
    let (address, host) = (unix(&docker), stack.docker_host());
    // One door is known by its address, the other by the name of its socket.
    let args = ["--engine", "docker", "--docker-host", host, "--docker-listen", &address, "--group", "12345"];
    let start = || {
        let mut daemon =
            Activated::start(stack, [given(&sockets[0]), given(&sockets[1])], "linkspan.socket:export", &args);
        for door in [&docker, &export] {
            daemon.await_log(&format!("listening on {}\n", unix(door)));
        }
        daemon
    };
    let first = start();
    assert!(version(UnixStream::connect(&mounted).unwrap()).contains("ApiVersion"));
    assert_eq!([look(&docker), look(&export)], before);
    drop(first);
    // Nobody serves; who comes now waits.
    let waiting = UnixStream::connect(&mounted).unwrap();
    let second = start();
    assert!(version(waiting).contains("ApiVersion"));
    assert_eq!(linkspan(["ps", "--to", &unix(&export)]).ok().stderr, "");
    let (status, log) = second.ends(Some(Signal::TERM));
    assert!(status.success(), "{log}");
    assert_eq!([look(&docker), look(&export)], before, "whoever made it removes it");
    for door in [&docker, &export] {
        assert!(!door.with_extension("sock.lock").exists());
    }
    UnixStream::connect(&mounted).unwrap();
}

#[test]
fn the_metrics_listener_can_be_handed_over_by_its_name() {
    let stack = Stack::shared();
    let (metrics, export) = (stack.fresh_path("-m.sock"), stack.fresh_path("-e.sock"));
    let sockets = [&metrics, &export].map(|path| UnixListener::bind(path).unwrap());
    let folder = stack.fresh_path("-layout");
    let args = ["--engine", "layout", "--layout", folder.to_str().unwrap()];
    let scraped = |mut client: UnixStream| {
        client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        client.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut response = String::new();
        client.read_to_string(&mut response).unwrap();
        assert!(response.starts_with("HTTP/1.1 200") && response.contains("linkspan_build_info{"), "{response}");
    };
    // Who comes before it has started waits; so does who comes while it restarts.
    for _ in 0..2 {
        let waiting = UnixStream::connect(&metrics).unwrap();
        let handed = [given(&sockets[0]), given(&sockets[1])];
        let mut daemon = Activated::start(stack, handed, "metrics:export", &args);
        daemon.await_log(&format!("metrics listening on {}\n", unix(&metrics)));
        scraped(waiting);
        scraped(UnixStream::connect(&metrics).unwrap());
        assert_eq!(linkspan(["ps", "--to", &unix(&export)]).ok().stderr, "");
        let (status, log) = daemon.ends(Some(Signal::TERM));
        assert!(status.success() && metrics.exists(), "{log}");
    }
}

#[test]
fn a_builder_s_door_can_be_handed_over_by_its_name() {
    let stack = Stack::shared();
    let (buildkit, export) = (stack.fresh_path("-b.sock"), stack.fresh_path("-e.sock"));
    let sockets = [&buildkit, &export].map(|path| UnixListener::bind(path).unwrap());
    let args = ["--engine", "docker", "--docker-host", stack.docker_host(), "--builder", stack.buildkit_host()];
    let handed = [given(&sockets[0]), given(&sockets[1])];
    let mut daemon = Activated::start(stack, handed, "buildkit:export", &args);
    daemon.await_log(&format!("listening on {}\n", unix(&buildkit)));
    stack.buildctl(["--addr", &unix(&buildkit), "debug", "workers"]).ok();
    daemon.ends(Some(Signal::TERM));
}

#[test]
fn a_socket_that_no_door_can_use_is_refused() {
    let stack = Stack::shared();
    let door = stack.fresh_path("-d.sock");
    let (address, used) = (unix(&door), UnixListener::bind(&door).unwrap());
    let args = ["--engine", "docker", "--docker-host", stack.docker_host(), "--docker-listen", &address];
    let other = stack.fresh_path("-other.sock");
    let (unused, datagrams) = (UnixListener::bind(&other).unwrap(), UnixDatagram::unbound().unwrap());
    let (connected, _far) = UnixStream::pair().unwrap();
    for (socket, words) in [
        (
            given(&unused),
            format!(
                "{} which was passed by the service manager, cannot be used: no door listens there",
                unix(&other) + ","
            ),
        ),
        (connected.into(), "it has no path".to_owned()),
        (datagrams.into(), "it is no stream socket".to_owned()),
        (File::open("/dev/null").unwrap().into(), "it is no stream socket".to_owned()),
    ] {
        let (status, log) = Activated::start(stack, [given(&used), socket], "a:b", &args).ends(None);
        assert!(status.code() == Some(1) && log.contains(&words), "{words} in {log}");
    }
}

#[test]
fn sockets_of_another_process_are_none_of_ours() {
    let door = Stack::shared().fresh_path(".sock");
    let run = docker_door(&door).env("LISTEN_FDS", "1").env("LISTEN_PID", "1").env("LISTEN_FDNAMES", "docker");
    let daemon = open(run, &door);
    daemon.signal(Signal::TERM);
    ended(&daemon.wait(), 0);
    assert!(!door.exists());
}

#[test]
fn an_engine_that_is_not_up_yet_is_waited_for() {
    let stack = Stack::shared();
    let (door, engine) = (stack.fresh_path(".sock"), stack.fresh_path("-engine.sock"));
    let serve = |args: &[&str]| {
        let run = linkspan(["serve", "--docker-host", &unix(&engine), "--docker-listen", &unix(&door)]);
        run.args(["--engine", "docker"]).args(args)
    };
    let waiting = |daemon: &Daemon| {
        until("it to wait", || daemon.stderr(), |stderr| stderr.contains("linkspan: waiting for the engine, "));
    };
    let daemon = Daemon(Some(serve(&[]).spawn()));
    waiting(&daemon);
    daemon.signal(Signal::TERM);
    ended(&daemon.wait(), 0);

    let daemon = Daemon(Some(serve(&["--engine-timeout", "600"]).spawn()));
    waiting(&daemon);
    assert!(!door.exists());
    fs::hard_link(stack.docker_host().strip_prefix("unix://").unwrap(), &engine).unwrap();
    until("the door to open", || daemon.stderr(), |stderr| stderr.contains("docker door for "));
    daemon.signal(Signal::TERM);
    let output = daemon.wait();
    ended(&output, 0);
    assert_eq!(output.stderr.matches("waiting for the engine").count(), 1, "{output}");

    fs::remove_file(&engine).unwrap();
    let output = serve(&["--engine-timeout", "1"]).fails();
    ended(&output, 1);
    assert!(output.stderr.contains("waiting for the engine, 1 s at most: docker does not respond at "), "{output}");
    assert!(output.stderr.contains("linkspan: hint: "), "{output}");
}

/// A container, removed at the end.
struct Container(&'static str);

impl Drop for Container {
    fn drop(&mut self) {
        Stack::shared().docker(["rm", "-f", self.0]).output();
    }
}

fn through(door: &Path, args: &[&str]) -> Running {
    Stack::shared().docker(args.iter().copied()).env("DOCKER_HOST", unix(door)).spawn()
}

/// SIGTERM, and its output; the time for which it would wait is longer than that for which the test does.
fn terminated(daemon: Daemon) -> Output {
    daemon.signal(Signal::TERM);
    daemon.wait()
}

#[test]
fn a_drain_does_not_wait_for_streams_that_never_end_nor_for_idle_tunnels() {
    let stack = Stack::shared();
    let door = stack.fresh_path(".sock");
    let daemon = open(docker_door(&door).args(["--drain-timeout", "3600", "--log-level", "debug"]), &door);
    let _container = Container("endless");
    let base = stack.base_image();
    let run = ["run", "-d", "-i", "--network", "host", "--name", "endless", base, "sh", "-c", "echo ready; cat"];
    stack.docker(run).ok();
    let log = || daemon.stderr();
    let clients = [
        through(&door, &["events"]),
        through(&door, &["logs", "-f", "endless"]),
        through(&door, &["stats", "endless"]),
        through(&door, &["wait", "endless"]),
        through(&door, &["attach", "--no-stdin", "endless"]),
    ];
    for path in ["/events", "/logs", "/stats", "/wait", "/attach"] {
        until(path, log, |log| log.lines().any(|line| line.contains("request") && line.contains(path)));
    }
    until("the log", || clients[1].stdout(), |output| output.contains("ready"));
    // A client that never closes what it has hijacked.
    let mut hijacked = UnixStream::connect(&door).unwrap();
    let attach = "POST /containers/endless/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n\
                  Upgrade: tcp\r\n\r\n";
    hijacked.write_all(attach.as_bytes()).unwrap();
    hijacked.read_exact(&mut [0; 12]).unwrap();
    ended(&terminated(daemon), 0);
    for client in clients {
        // That of `stats` waits for other containers.
        client.signal(Signal::KILL);
        client.wait();
    }
}

#[test]
fn a_drain_waits_for_output_and_for_builds_that_are_silent() {
    let stack = Stack::shared();
    let door = stack.fresh_path(".sock");
    let daemon = open(docker_door(&door).args(["--drain-timeout", "3600", "--log-level", "debug"]), &door);
    let base = stack.base_image();
    let script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do echo word $i; sleep 1; done";
    let container = through(&door, &["run", "--rm", "-i", "--network", "host", base, "sh", "-c", script]);
    until("its first word", || container.stdout(), |output| output.contains("word 1\n"));
    let silent = format!("FROM {base}\nRUN --network=host echo begun && sleep 25 && echo over\n");
    let context = Context::new(&silent);
    let build = ["build", "--network", "host", "--allow", "network.host", "--progress", "plain", "-t", "silent"];
    let build = stack.docker(["buildx"]).args(build).arg(context.path()).env("DOCKER_HOST", unix(&door)).spawn();
    until("the build to run", || build.stderr(), |output| output.contains("begun\n"));
    let events = through(&door, &["events"]);
    until("/events", || daemon.stderr(), |log| log.contains("/events"));
    daemon.signal(Signal::TERM);
    let output = container.wait();
    ended(&output, 0);
    assert!(output.stdout.ends_with("word 14\nword 15\n"), "{output}");
    let output = build.wait();
    ended(&output, 0);
    ended(&daemon.wait(), 0);
    events.wait();
    stack.docker(["image", "inspect", "silent"]).ok();
}

#[test]
fn a_daemon_without_flags_opens_the_default_doors() {
    let stack = Stack::shared();
    // A runtime folder of its own: nobody else's doors are there.
    let args = ["-m", "sh", "-c", "mount -t tmpfs none /run && exec \"$@\"", "sh", env!("CARGO_BIN_EXE_linkspan")];
    let run = stack.run("unshare").args(args).args(["serve"]).without_env("BUILDKIT_HOST");
    let daemon = Daemon(Some(run.env("LINKSPAN_DOCKER_HOST", stack.docker_host()).spawn()));
    for door in ["docker door for ", "export door listening on unix:///run/linkspan/export.sock\n"] {
        until("the doors", || daemon.stderr(), |stderr| stderr.contains(door));
    }
    assert!(daemon.stderr().contains("listening on unix:///run/linkspan/docker.sock\n"), "{}", daemon.stderr());
    ended(&terminated(daemon), 0);

    // As an ordinary user, who can read neither this program nor where it is.
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let program = folder.path().join("program");
    fs::copy(env!("CARGO_BIN_EXE_linkspan"), &program).unwrap();
    let user = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let serve = || {
        let run = stack.run("setpriv").args(user).arg(&program).args(["serve", "--engine", "layout", "--layout"]);
        run.arg(folder.path().join("layout")).without_env("BUILDKIT_HOST").dir("/")
    };
    let daemon = Daemon(Some(serve().env("XDG_RUNTIME_DIR", folder.path()).spawn()));
    let export = folder.path().join("linkspan/export.sock");
    let line = format!("export door listening on {}\n", unix(&export));
    until("the door", || daemon.stderr(), |stderr| stderr.contains(&line));
    assert!(!daemon.stderr().contains("docker door"), "{}", daemon.stderr());
    assert!(export.exists());
    ended(&terminated(daemon), 0);
    let output = serve().without_env("XDG_RUNTIME_DIR").fails();
    assert!(output.stderr.contains("XDG_RUNTIME_DIR without root, which is not set"), "{output}");
}

#[test]
fn an_export_is_one_line_and_an_engine_that_is_away_is_one_line() {
    let stack = Stack::shared();
    let (door, docker) = (stack.fresh_path(".sock"), stack.fresh_path("-docker.sock"));
    let engine = stack.fresh_path("-engine.sock");
    fs::hard_link(stack.docker_host().strip_prefix("unix://").unwrap(), &engine).unwrap();
    let run = linkspan(["serve", "--engine", "docker", "--docker-host", &unix(&engine), "--log-format", "json"]);
    let run = run.args(["--builder", stack.buildkit_host(), "--buildkit-listen", &unix(&door)]);
    let daemon = Daemon(Some(run.args(["--docker-listen", &unix(&docker)]).spawn()));
    until("the doors", || daemon.stderr(), |stderr| stderr.contains("docker door for "));
    let context = Context::new("FROM scratch\nCOPY noise /noise\n").noise("noise", 100_000, 9);
    stack.builder(&unix(&door)).build(context.path(), ["--load", "-t", "one-line"]).ok();

    fs::rename(&engine, engine.with_extension("away")).unwrap();
    for _ in 0..11 {
        version(UnixStream::connect(&docker).unwrap());
    }
    fs::rename(engine.with_extension("away"), &engine).unwrap();
    version(UnixStream::connect(&docker).unwrap());
    let output = terminated(daemon);
    let lines: Vec<serde_json::Value> = output.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let with = |message: &str| -> Vec<_> {
        lines.iter().filter(|line| line["fields"]["message"] == message).map(|line| &line["fields"]).collect()
    };
    let [exported] = with("exported")[..] else { panic!("{output}") };
    assert_eq!((&exported["door"], &exported["builder"]), (&"buildkit".into(), &stack.buildkit_host().into()));
    assert_eq!(exported["names"], "docker.io/library/one-line:latest");
    // What the line itself has is not repeated by a span.
    let line = lines.iter().find(|line| line["fields"]["message"] == "exported").unwrap();
    let spans: Vec<_> = line["spans"].as_array().unwrap().iter().map(|span| &span["name"]).collect();
    assert!(spans.contains(&&"solve".into()) && !spans.contains(&&"export".into()), "{line}");
    assert!(exported["sent_bytes"].as_u64().is_some_and(|bytes| bytes > 100_000), "{exported}");
    assert!(exported["spared_bytes"].is_u64() && exported["seconds"].is_f64(), "{exported}");
    assert_eq!(
        (with("the engine cannot be reached").len(), with("the engine responds again").len()),
        (1, 1),
        "{output}"
    );
}

#[test]
fn where_lines_are_json_all_of_them_are() {
    let stack = Stack::shared();
    let lines = |output: &Output| -> Vec<serde_json::Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}\n{output}"));
        output.stderr.lines().map(parse).collect()
    };
    let door = stack.fresh_path(".sock");
    let daemon = Daemon(Some(docker_door(&door).args(["--log-format", "json", "--log-level", "error"]).spawn()));
    let line = format!("listening on {}\"", unix(&door));
    until("the door", || daemon.stderr(), |stderr| stderr.contains(&line));
    let output = terminated(daemon);
    ended(&output, 0);
    let announced = lines(&output);
    let message = |line: &serde_json::Value| line["fields"]["message"].as_str().unwrap().to_owned();
    assert!(message(&announced[0]).starts_with("engine docker "), "{output}");
    let expected = format!("docker door for {} listening on {}", stack.docker_host(), unix(&door));
    assert!(message(&announced[1]).starts_with("no export door"), "{output}");
    assert_eq!((message(&announced[2]), &announced[2]["level"]), (expected, &"INFO".into()));

    let absent = unix(&stack.fresh_path("-absent.sock"));
    for args in
        [&["--engine", "docker", "--docker-host", &absent, "--engine-timeout", "0"][..], &["--engine", "absent"]]
    {
        let run = linkspan(["serve", "--log-format", "json", "--docker-listen", &unix(&door)]);
        let output = run.args(args).fails();
        ended(&output, if args.contains(&"absent") { 2 } else { 1 });
        let logged = lines(&output);
        assert_eq!((logged.len(), &logged[0]["level"]), (1, &"ERROR".into()), "{output}");
        assert!(args.contains(&"absent") || logged[0]["fields"]["hint"].as_str().unwrap().contains("check that"));
    }
}
