//! The program as its users meet it: command line, configuration, doors, drain, doctor.
#![allow(clippy::unwrap_used, reason = "tests state what they expect by failing loudly")]

mod common;

// In a folder of its own, or cargo would take it for another test binary.
#[path = "cli/service.rs"]
mod service;

use std::{
    fs,
    io::{ErrorKind, Read},
    net::TcpListener,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::{UnixDatagram, UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use common::{Context, Linkspan, Output, Part, Run, Running, Stack, until};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, prlimit};

/// The program, told nothing by the machine's environment.
fn linkspan<'a>(args: impl IntoIterator<Item = &'a str>) -> Run {
    let neighbours = ["DOCKER_HOST", "CONTAINERD_ADDRESS", "CONTAINERD_NAMESPACE", "BUILDKIT_HOST"];
    neighbours.iter().fold(Run::new(env!("CARGO_BIN_EXE_linkspan")).args(args), |run, name| run.without_env(name))
}

fn unix(path: &Path) -> String {
    format!("unix://{}", path.display())
}

/// `serve` for the shared stack's dockerd and builder.
fn serve(door: &Path) -> Run {
    let stack = Stack::shared();
    let engine = ["serve", "--engine", "docker", "--docker-host", stack.docker_host()];
    linkspan(engine).args(["--builder", stack.buildkit_host(), "--buildkit-listen"]).arg(unix(door))
}

/// A running daemon, killed when a test fails before its end.
struct Daemon(Option<Running>);

impl Daemon {
    fn signal(&self, signal: Signal) {
        self.0.as_ref().unwrap().signal(signal);
    }

    fn stderr(&self) -> String {
        self.0.as_ref().unwrap().stderr()
    }

    #[track_caller]
    fn wait(mut self) -> Output {
        self.0.take().unwrap().wait()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(running) = &self.0 {
            running.signal(Signal::KILL);
        }
    }
}

/// Starts it and waits until its door is open.
fn open(run: Run, door: &Path) -> Daemon {
    open_at(run, &unix(door))
}

/// The same for any address. It can be connected to before it says that it is open.
fn open_at(run: Run, address: &str) -> Daemon {
    let daemon = Daemon(Some(run.spawn()));
    let said = format!("listening on {address}\n");
    until("the door to open", || daemon.stderr(), |stderr| stderr.contains(&said));
    daemon
}

#[track_caller]
fn ended(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{output}");
}

#[test]
fn help_and_version() {
    let version = linkspan(["--version"]).ok();
    assert_eq!(version.stdout, concat!("linkspan ", env!("CARGO_PKG_VERSION"), "\n"));
    let help = linkspan(["--help"]).ok().stdout;
    for part in ["serve", "doctor", "Examples:", "docker buildx create --name direct --driver remote"] {
        assert!(help.contains(part), "{part} in:\n{help}");
    }
    for command in ["serve", "doctor"] {
        let help = linkspan([command, "--help"]).ok().stdout;
        for part in ["Examples:", "Exit code:", "--buildkit-listen <ADDR>", "LINKSPAN_BUILDER"] {
            assert!(help.contains(part), "{part} in:\n{help}");
        }
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
    }
}

#[test]
fn what_cannot_be_understood_exits_2() {
    for args in [&[][..], &["sevre"], &["serve", "--bilder", "unix:///b"], &["serve", "extra"]] {
        let output = linkspan(args.iter().copied()).fails();
        ended(&output, 2);
        assert!(output.stderr.contains("Usage: linkspan"), "{output}");
    }
}

#[test]
fn flags_win_over_variables_and_those_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("linkspan.toml");
    fs::write(&file, "engine = 'of-the-file'\n").unwrap();
    let file = file.to_str().unwrap();
    let refusal = |run: Run| {
        let output = run.fails();
        ended(&output, 2);
        output.stderr
    };
    let expected = |place: &str, value: &str| {
        format!(
            "linkspan: error: {place}: `{value}` is no engine; expected `auto`, `docker`, `docker-classic`, `containerd` or `layout`\n"
        )
    };
    for command in ["serve", "doctor"] {
        let with_file = || linkspan([command, "--config", file]);
        let with_both = || with_file().env("LINKSPAN_ENGINE", "of-the-variable");
        assert_eq!(refusal(with_file()), expected(&format!("`engine` in {file}"), "of-the-file"));
        assert_eq!(refusal(with_both()), expected("LINKSPAN_ENGINE", "of-the-variable"));
        assert_eq!(refusal(with_both().args(["--engine", "of-the-flag"])), expected("--engine", "of-the-flag"));
        let by_variable = linkspan([command]).env("LINKSPAN_CONFIG", file);
        assert_eq!(refusal(by_variable), expected(&format!("`engine` in {file}"), "of-the-file"));
    }
}

#[test]
fn wrong_values_exit_2_before_anything_opens() {
    let folder = tempfile::tempdir().unwrap();
    let door = unix(&folder.path().join("door.sock"));
    let file = folder.path().join("linkspan.toml");
    fs::write(&file, "[[builder]]\nadress = 'unix:///b.sock'\n").unwrap();
    let file = file.to_str().unwrap();
    let one = ["--builder", "tcp://10.0.0.1:1234", "--buildkit-listen", &door];
    let cases: &[(&[&str], &str)] = &[
        (
            &["--builder", "localhost:1234"],
            "--builder: `localhost:1234` is no address: expected `unix:///path`, a path, `tcp://host:port` or `docker-container://NAME`",
        ),
        (
            &["--builder", "unix:///b.sock", "--buildkit-listen", "tcp://0.0.0.0:1234"],
            "--buildkit-listen: `tcp://0.0.0.0:1234` can be reached from other machines",
        ),
        (
            &["--builder", "unix:///b.sock", "--buildkit-listen", &door, "--buildkit-listen", "unix:///other"],
            "1 builder but 2 listen addresses",
        ),
        (&["--namespace", "a/b"], "--namespace: `a/b` is no containerd namespace"),
        (&["--group", "no-such-group"], "--group: `no-such-group` is no group"),
        (&["--tls-ca", "/nonexistent/ca.pem"], "/nonexistent/ca.pem: "),
        (&["--tls-cert", "cert.pem"], "the certificate authority that signed the builder's certificate is missing"),
        (&["--config", "/nonexistent.toml"], "cannot read the configuration file /nonexistent.toml"),
        (
            &["--config", file],
            "unknown field `adress`, expected one of `address`, `listen`, `docker-is-load`, `plain-is-load`, `tls`",
        ),
        (&["--docker-is-load=maybe"], "--plain-is-load: `maybe` is neither `true` nor `false`"),
        (&["--drain-timeout", "soon"], "--drain-timeout: `soon` is not a whole number of seconds"),
        (&["--log-level", "loud"], "--log-level: `loud` is no level"),
        (&["--log-format", "xml"], "--log-format: `xml` is no log format"),
    ];
    for (args, words) in cases {
        let base = if args.contains(&"--builder") { &[][..] } else { &one };
        let output = linkspan(["serve"]).args(base).args(*args).fails();
        // A file that cannot be read is no wrong value.
        ended(&output, if args[0] == "--tls-ca" { 1 } else { 2 });
        assert!(output.stderr.starts_with("linkspan: error: ") && output.stderr.contains(words), "{output}");
    }
    let output = linkspan(["serve", "--buildkit-listen", &door]).fails();
    ended(&output, 1);
    assert!(output.stderr.contains("no builder is configured: name one with --builder unix://"), "{output}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "only the file that was there");
}

#[test]
fn an_engine_that_is_not_there_is_named_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let (door, absent) = (folder.path().join("door.sock"), folder.path().join("absent.sock"));
    let address = unix(&absent);
    let absent = absent.to_str().unwrap();
    let cases = [
        ["--engine", "docker", "--docker-host", address.as_str()],
        ["--engine", "auto", "--docker-host", &address],
        ["--engine", "containerd", "--containerd-address", absent],
        ["--engine", "containerd", "--containerd-address", &address],
    ];
    for args in cases {
        let run = linkspan(["serve", "--builder", "unix:///b.sock", "--buildkit-listen", &unix(&door)]).args(args);
        let run = run.args(["--engine-timeout", "0"]);
        let output = run.fails();
        ended(&output, 1);
        for part in ["linkspan: error: ", absent, "No such file or directory", "linkspan: hint: check that "] {
            assert!(output.stderr.contains(part), "{part} in {output}");
        }
        assert!(!door.exists());
    }
}

#[test]
fn an_open_door_is_announced_and_goes_with_sigterm() {
    let stack = Stack::shared();
    let door = stack.fresh_path("/new/door.sock");
    let notify = stack.fresh_path("-notify");
    let manager = UnixDatagram::bind(&notify).unwrap();
    let running = open(serve(&door).args(["--group", "12345"]).env("NOTIFY_SOCKET", &notify), &door);
    let mut state = [0; 64];
    // As long as the engine is waited for, and the rest of the start may take, whatever the unit says.
    let length = manager.recv(&mut state).unwrap();
    assert_eq!(&state[..length], b"EXTEND_TIMEOUT_USEC=120000000");
    let length = manager.recv(&mut state).unwrap();
    assert_eq!(&state[..length], b"READY=1");
    let metadata = fs::symlink_metadata(&door).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o660);
    assert_eq!(metadata.gid(), 12_345);

    running.signal(Signal::TERM);
    let output = running.wait();
    ended(&output, 0);
    let length = manager.recv(&mut state).unwrap();
    assert_eq!(&state[..length], b"STOPPING=1\nEXTEND_TIMEOUT_USEC=45000000");
    assert_eq!(fs::read_dir(door.parent().unwrap()).unwrap().count(), 0, "no socket and no lock are left");
    let lines: Vec<_> = output.stderr.lines().filter(|line| line.starts_with("linkspan: ")).collect();
    let [engine, opened] = lines.as_slice() else { panic!("{output}") };
    let version = stack.docker(["version", "--format", "{{.Server.Version}}"]).ok().stdout;
    let (version, host) = (version.trim(), stack.docker_host());
    let prefix = format!("linkspan: engine docker {version} ({host}), namespace moby, snapshotter overlayfs: ");
    assert!(engine.starts_with(&prefix) && engine.len() > prefix.len(), "{engine}");
    let expected = format!("linkspan: buildkit door for {} listening on {}", stack.buildkit_host(), unix(&door));
    assert_eq!(*opened, expected);
    assert_eq!(output.stdout, "");
}

#[test]
fn neighbours_variables_are_enough() {
    let stack = Stack::shared();
    let door = stack.fresh_path(".sock");
    let run = stack.run(env!("CARGO_BIN_EXE_linkspan")).args(["serve", "--log-format", "json"]);
    let running = Daemon(Some(run.env("LINKSPAN_BUILDKIT_LISTEN", unix(&door)).spawn()));
    until("the door to open", || running.stderr(), |stderr| stderr.contains(&format!("listening on {}", unix(&door))));
    running.signal(Signal::INT);
    let output = running.wait();
    ended(&output, 0);
    assert!(output.stderr.contains(stack.docker_host()) && output.stderr.contains(stack.buildkit_host()), "{output}");
    let drain: serde_json::Value = serde_json::from_str(output.stderr.lines().last().unwrap()).unwrap();
    assert_eq!(drain["fields"]["signal"], "SIGINT");
}

#[test]
fn several_builders_have_a_door_each() {
    let stack = Stack::shared();
    let builders = [stack.buildkit_host(), stack.buildkit_host()];
    let mut linkspan = Linkspan::start(stack, &["--engine", "docker", "--docker-host", stack.docker_host()], &builders);
    let context = Context::new("FROM scratch\nCOPY a /a\n").file("a", "two doors");
    for (number, door) in linkspan.doors().iter().enumerate() {
        let builder = stack.builder(&unix(door));
        builder.build(context.path(), ["--load", "-t", &format!("door{number}")]).ok();
    }
    assert!(linkspan.terminate().success(), "{}", linkspan.log());
}

#[test]
fn a_loopback_port_is_a_door_too() {
    let stack = Stack::shared();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("tcp://127.0.0.1:{port}");
    let engine = ["serve", "--engine", "docker", "--docker-host", stack.docker_host()];
    let run = linkspan(engine).args(["--builder", stack.buildkit_host(), "--buildkit-listen", &address]);
    let running = open_at(run, &address);
    stack.buildctl(["--addr", &address, "debug", "workers"]).ok();
    running.signal(Signal::TERM);
    let output = running.wait();
    ended(&output, 0);
    assert!(output.stderr.contains(&format!(" listening on {address}\n")), "{output}");
}

#[test]
fn what_lies_at_the_path_decides() {
    let stack = Stack::shared();
    let door = stack.fresh_path(".sock");
    fs::write(&door, "precious").unwrap();
    let output = serve(&door).fails();
    ended(&output, 1);
    assert!(
        output.stderr.contains(&format!("cannot listen on {}: there is a file, not a socket", unix(&door))),
        "{output}"
    );
    assert_eq!(fs::read_to_string(&door).unwrap(), "precious");
    fs::remove_file(&door).unwrap();

    let other = UnixListener::bind(&door).unwrap();
    let output = serve(&door).fails();
    ended(&output, 1);
    assert!(output.stderr.contains("another program is listening there; stop it, or choose another"), "{output}");
    // Dropping a listener leaves its socket behind, as a program does that is killed.
    drop(other);

    let running = open(serve(&door), &door);
    let output = serve(&door).fails();
    ended(&output, 1);
    assert!(output.stderr.contains("another linkspan has it (process "), "{output}");
    running.signal(Signal::KILL);
    running.wait();
    assert!(door.exists(), "a killed process leaves its socket");
    let running = open(serve(&door), &door);
    running.signal(Signal::TERM);
    ended(&running.wait(), 0);
    assert!(!door.exists());
}

/// A build that runs until it is let go, and leaves a sign of both where the builder keeps its cache mounts.
struct Gated<'a> {
    stack: &'a Stack,
    name: &'static str,
    context: Context,
}

impl<'a> Gated<'a> {
    fn new(stack: &'a Stack, name: &'static str) -> Self {
        let wait = "until test -e /gate/go; do sleep 0.1; done";
        let context = Context::new(&format!(
            "FROM {}\nRUN --mount=type=cache,id={name},target=/gate touch /gate/{name}; {wait}\n",
            stack.base_image()
        ));
        Self { stack, name, context }
    }

    /// Starts to build it for loading through `door`, and returns when it runs.
    fn start(&self, door: &Path) -> Running {
        let build = self.stack.builder(&unix(door)).build(self.context.path(), ["--load", "-t", self.name]).spawn();
        until("the build to run", || self.folder(), Option::is_some);
        build
    }

    fn go(&self) {
        fs::write(self.folder().unwrap().join("go"), "").unwrap();
    }

    /// The cache mount, on the builder's disk.
    fn folder(&self) -> Option<PathBuf> {
        let snapshots = self.stack.state().join("buildkit/runc-overlayfs/snapshots/snapshots");
        let mut folders = fs::read_dir(snapshots).ok()?.map(|entry| entry.unwrap().path().join("fs"));
        folders.find(|folder| folder.join(self.name).exists())
    }
}

#[test]
fn a_drain_lets_builds_finish_while_a_successor_opens_the_door() {
    let stack = Stack::shared();
    let door = stack.fresh_path(".sock");
    let build = Gated::new(stack, "drained");
    let first = open(serve(&door), &door);
    let running = build.start(&door);
    first.signal(Signal::TERM);
    until("the door to close", || door.exists(), |open| !open);
    let second = open(serve(&door), &door);
    build.go();
    let output = running.wait();
    ended(&output, 0);
    ended(&first.wait(), 0);
    assert!(stack.image("docker.io/library/drained:latest").is_some());
    second.signal(Signal::TERM);
    ended(&second.wait(), 0);
    assert!(!door.exists());
}

#[test]
fn a_drain_has_a_deadline() {
    let stack = Stack::shared();
    let door = stack.fresh_path(".sock");
    let build = Gated::new(stack, "deadline");
    let daemon = open(serve(&door).args(["--drain-timeout", "0"]), &door);
    let running = build.start(&door);
    daemon.signal(Signal::TERM);
    let output = daemon.wait();
    ended(&output, 1);
    assert!(output.stderr.contains("of the open connections did not finish within 0 s and were ended"), "{output}");
    build.go();
    assert!(!running.wait().status.success());
    assert_eq!(stack.image("docker.io/library/deadline:latest"), None);
}

#[test]
fn a_second_signal_ends_a_drain() {
    let stack = Stack::shared();
    let door = stack.fresh_path(".sock");
    let build = Gated::new(stack, "hurried");
    let daemon = open(serve(&door), &door);
    let running = build.start(&door);
    daemon.signal(Signal::TERM);
    until("the door to close", || door.exists(), |open| !open);
    daemon.signal(Signal::INT);
    let output = daemon.wait();
    ended(&output, 1);
    assert!(output.stderr.contains("did not finish before a second signal (SIGINT) and were ended"), "{output}");
    build.go();
    assert!(!running.wait().status.success());
}

#[test]
fn more_clients_than_descriptors_wait_and_are_served_later() {
    let stack = Stack::shared();
    let door = stack.fresh_path(".sock");
    let limited = ["-c", "ulimit -n 128 && exec \"$@\"", "sh", env!("CARGO_BIN_EXE_linkspan"), "serve"];
    let run = Run::new("sh").args(limited).args(["--engine", "docker", "--docker-host", stack.docker_host()]);
    let run = run.args(["--builder", stack.buildkit_host(), "--buildkit-listen", &unix(&door)]);
    let daemon = open(run, &door);
    let crowd: Vec<_> = (0..100).map(|_| UnixStream::connect(&door).unwrap()).collect();
    let busy = crowd.iter().filter(|client| is_open(client)).count();
    assert_eq!(busy, crowd.len(), "nobody is turned away");
    drop(crowd);
    let context = Context::new("FROM scratch\nCOPY a /a\n").file("a", "after the crowd");
    stack.builder(&unix(&door)).build(context.path(), ["--load", "-t", "crowd"]).ok();
    daemon.signal(Signal::TERM);
    let output = daemon.wait();
    ended(&output, 0);
    assert!(output.stderr.contains("as many connections as can be are open; new ones wait"), "{output}");
}

#[test]
fn without_descriptors_clients_wait_until_there_are_some() {
    let stack = Stack::shared();
    let linkspan = Linkspan::docker(stack);
    let limit = |limit| prlimit(Some(linkspan.pid()), Resource::Nofile, limit).unwrap();
    // Nothing but the standard streams, which are taken.
    let before = limit(Rlimit { current: Some(3), maximum: getrlimit(Resource::Nofile).maximum });
    let client = stack.buildctl(["--addr", &linkspan.address(), "debug", "workers"]).spawn();
    until("an accept to fail", || linkspan.log(), |log| log.contains("connections cannot be accepted"));
    limit(before);
    let output = client.wait();
    ended(&output, 0);
}

/// Whether the other end has not closed a connection; it may have said something.
fn is_open(mut client: &UnixStream) -> bool {
    client.set_nonblocking(true).unwrap();
    match client.read(&mut [0]) {
        Ok(length) => length > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

#[test]
fn the_doctor_finds_a_working_stack() {
    let stack = Stack::shared();
    let (door, closed) = (stack.fresh_path(".sock"), stack.fresh_path(".sock"));
    let daemon = open(serve(&door), &door);
    let doctor = |listen: &Path| {
        let engine = ["doctor", "--docker-host", stack.docker_host(), "--builder", stack.buildkit_host()];
        linkspan(engine).args(["--buildkit-listen", &unix(listen)])
    };
    let report: serde_json::Value = serde_json::from_str(&doctor(&door).arg("--json").ok().stdout).unwrap();
    assert_eq!(report["works"], true);
    assert_eq!(report["engine"]["kind"], "docker");
    assert_eq!(report["engine"]["namespace"], "moby");
    assert!(report["containerd"]["uuid"].as_str().is_some_and(|uuid| uuid.len() == 36), "{report}");
    assert!(report["containerd"]["version"].as_str().is_some_and(|version| version.starts_with("2.")), "{report}");
    assert!(report["containerd"]["inflate"].is_string(), "containerd's environment can be read: {report}");
    assert!(report["builders"][0]["version"].as_str().is_some_and(|version| version.starts_with("v0.")), "{report}");
    assert_eq!(report["builders"][0]["direct_export"], true);
    assert_eq!(report["builders"][0]["door_open"], true);
    daemon.signal(Signal::TERM);
    daemon.wait();

    let text = doctor(&closed).ok().stdout;
    let marks = ["ok    engine ", "ok    containerd ", "ok    unpack ", " inflate ", "ok    builder ", "note  door "];
    for part in marks {
        assert!(text.contains(part), "{part} in:\n{text}");
    }
    // Long commands go on in the next line.
    let text = text.replace(" \\\n", " ").split_whitespace().collect::<Vec<_>>().join(" ");
    let create = format!("docker buildx create --name direct --driver remote {}", unix(&closed));
    assert!(text.contains(&create) && text.contains("docker buildx build --builder direct --"), "{text}");
    assert!(!closed.exists(), "the doctor changes nothing");
}

#[test]
fn the_doctor_says_what_is_broken() {
    let stack = Stack::start(&[Part::Containerd, Part::Dockerd, Part::Buildkitd]);
    let doctor = || {
        linkspan(["doctor", "--engine", "docker", "--docker-host", stack.docker_host()])
            .args(["--builder", stack.buildkit_host()])
    };
    doctor().ok();
    stack.kill(Part::Buildkitd);
    let output = doctor().fails();
    ended(&output, 1);
    let line = format!("no answer from the builder at {}: ", stack.buildkit_host());
    let words = output.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in ["fail builder ", &line, "hint: see that buildkitd runs with `--addr ", "A direct export cannot work."]
    {
        assert!(words.contains(part), "{part} in {output}");
    }
    stack.kill(Part::Dockerd);
    let output = doctor().arg("--json").fails();
    ended(&output, 1);
    let report: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!((&report["works"], &report["engine"]), (&false.into(), &serde_json::Value::Null));
    let output = linkspan(["doctor", "--engine", "docker", "--docker-host", stack.docker_host()]).fails();
    ended(&output, 1);
    let words = output.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("no door is configured, and no Linkspan runs here"), "{output}");
}
