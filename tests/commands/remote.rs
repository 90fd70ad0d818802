//! The same commands through a daemon: same output, same exit codes, and nothing of an engine at hand.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{Linkspan, Output, Run, Running, Stack, text, until, until_every};
use crate::fixture::{Image, Layer};
use crate::{archive, image, layout, linkspan, listed, named, on};

/// A daemon that exports into a layout of its own.
pub(crate) struct Daemon {
    linkspan: Linkspan,
    pub(crate) door: PathBuf,
    pub(crate) folder: TempDir,
}

impl Daemon {
    pub(crate) fn start(args: &[&str]) -> Self {
        let (door, folder) = (Stack::shared().fresh_path("-to.sock"), tempfile::tempdir().unwrap());
        Self { linkspan: Self::serve(&folder, args, &door), door, folder }
    }

    fn serve(folder: &TempDir, args: &[&str], door: &Path) -> Linkspan {
        let engine = ["--engine", "layout", "--layout", text(folder.path())];
        Linkspan::export(Stack::shared(), &engine, args, door.to_owned())
    }

    fn restart(&mut self) {
        self.linkspan = Self::serve(&self.folder, &[], &self.door);
    }

    pub(crate) fn run(&self, args: &[&str]) -> Run {
        linkspan(args.iter().copied()).args(["--to", &self.linkspan.address()])
    }

    /// Sends a signal to the daemon's process.
    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.linkspan.pid(), signal).unwrap();
    }

    /// All exports that it remembers: id and state.
    pub(crate) fn exports(&self) -> Vec<(String, String)> {
        let lines = self.run(&["ps", "--all", "--json"]).ok().stdout;
        let pair = |line: &str| {
            let export: Value = serde_json::from_str(line).unwrap();
            let text = |key: &str| export[key].as_str().unwrap().to_owned();
            (text("id"), text("state"))
        };
        lines.lines().map(pair).collect()
    }
}

/// Passwords are those of docker's configuration, or of a credential helper that it names.
#[test]
fn a_daemon_that_asks_for_a_password_gets_that_of_dockers_client() {
    let (stack, folder) = (Stack::shared(), tempfile::tempdir().unwrap());
    let in_folder = |name: &str| folder.path().join(name);
    // Of the user `user`: `secret`.
    fs::write(in_folder("users"), "user:$2b$05$/M1WL7v3Giwzg1RSy4wUfO8krkbaiSCnWZEfwv3IEiuxP2/UFoCR2\n").unwrap();
    let (images, users) = (in_folder("images"), in_folder("users"));
    let engine = ["--engine", "layout", "--layout", text(&images)];
    let listen = ["--export-listen", "tcp://127.0.0.1:0", "--listen-htpasswd", text(&users)];
    let daemon = Linkspan::spawned(stack, &[&engine[..], &listen].concat(), &[], Vec::new(), &[]);
    let address = || {
        let log = daemon.log();
        let (_, rest) = log.split_once("export door listening on tcp://")?;
        rest.split_once('\n').map(|(address, _)| address.to_owned())
    };
    let address = until("the daemon to listen", address, Option::is_some).unwrap();
    let helper = in_folder("docker-credential-made");
    let answer = r#"#!/bin/sh
read -r server
echo "$server" >>"${0%/*}/asked"
echo '{"ServerURL": "x", "Username": "user", "Secret": "secret"}'
"#;
    fs::write(&helper, answer).unwrap();
    fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", text(folder.path()), std::env::var("PATH").unwrap());
    let run = |config: &Value, args: &[&str]| {
        fs::write(in_folder("config.json"), config.to_string()).unwrap();
        let to = format!("tcp://{address}");
        linkspan(args.iter().copied()).args(["--to", &to]).env("DOCKER_CONFIG", folder.path()).env("PATH", &path)
    };
    // Base64 of `user:secret` and `user:other`.
    let auths = |auth: &str| json!({"auths": {&address: {"auth": auth}}});
    let (right, wrong) = (auths("dXNlcjpzZWNyZXQ="), auths("dXNlcjpvdGhlcg=="));
    let unknown = run(&json!({}), &["images"]).fails();
    assert!(unknown.stderr.contains("a certificate is expected, or `authorization: Basic`"), "{unknown}");
    assert!(unknown.stderr.contains("hint: ") && unknown.stderr.contains("crane auth login HOST:PORT"), "{unknown}");
    for config in
        [&json!({"auths": {"127.0.0.1": {"auth": "dXNlcjpzZWNyZXQ="}}}), &json!({"credHelpers": {"x": "made"}})]
    {
        run(config, &["images"]).fails();
    }
    let refused = run(&wrong, &["images"]).fails();
    assert!(
        refused.stderr.contains("the password is another") && !refused.stderr.contains("dXNlcjpvdGhlcg"),
        "{refused}"
    );
    let file = archive(&[(&image("with a password\n"), named("docker.io/library/guarded:1"))]);
    run(&right, &["load", "-i", text(file.path())]).ok();
    for config in [&right, &json!({"credHelpers": {&address: "made"}}), &json!({"credsStore": "made"})] {
        let listed = run(config, &["images"]).ok();
        assert!(listed.stdout.contains("guarded"), "{listed}");
        run(config, &["cache", "ls"]).ok();
        run(config, &["ps"]).ok();
        let saved = in_folder("saved.tar");
        run(config, &["save", "-o", text(&saved), "guarded:1"]).ok();
        fs::remove_file(saved).unwrap();
    }
    let asked = fs::read_to_string(in_folder("asked")).unwrap();
    assert!(asked.lines().count() == 8 && asked.lines().all(|server| server == address), "{asked}");
    let log = daemon.log();
    assert!(!log.contains("secret") && !log.contains("dXNlcjpzZWNyZXQ"), "{log}");
}

#[test]
fn every_command_prints_the_same_as_on_the_engine_itself() {
    let daemon = Daemon::start(&[]);
    let many = Image::index(&[image("here\n"), Image::foreign(&[Layer::new().file("a", "elsewhere").tar()])]);
    let single = image("single\n");
    let file = archive(&[
        (&many, named("docker.io/library/many:1")),
        (&single, named("example.com/one:2")),
        (&single, named("docker.io/library/one:1")),
        (&image("nameless\n"), json!({})),
    ]);
    let direct = tempfile::tempdir().unwrap();
    let load = ["load", "-i", text(file.path()), "--json"];
    let (there, here) = (daemon.run(&load).ok(), on(&direct, &load).ok());
    assert_eq!(there.stdout, here.stdout);
    assert_eq!(listed(&daemon.folder), listed(&direct));
    assert!(daemon.exports().iter().all(|(_, state)| state == "committed"), "{:?}", daemon.exports());

    let digest = single.root.digest.to_string();
    for args in [
        &["load", "-i", text(file.path())][..],
        &["images", "--json"],
        &["images", "-q"],
        &["images", "--digests", "one"],
        &["inspect", "many:1"],
        &["manifest", "many:1"],
        &["manifest", "--platform", "linux/s390x", "many:1"],
        &["config", "one:1"],
        &["digest", "example.com/one:2"],
        &["digest", &digest],
        &["digest", &digest[7..19]],
        &["manifest", "--platform", "linux/riscv64", "many:1"],
        &["digest", "NOT A NAME"],
        &["load", "-i", "/no/such/file"],
    ] {
        let same = |output: Output| (output.status.code(), output.stdout, output.stderr);
        assert_eq!(same(daemon.run(args).output()), same(on(&direct, args).output()), "{args:?}");
    }
    let absent = daemon.run(&["digest", "absent:1"]).fails();
    let expected = format!("layout at {} has no image `absent:1`", daemon.linkspan.address());
    assert!(absent.stderr.contains(&expected), "{absent}");
}

#[test]
fn images_are_copied_into_a_daemon_and_out_of_it() {
    let (one, other) = (Daemon::start(&[]), Daemon::start(&[]));
    let image = image("copied through daemons\n");
    let file = archive(&[(&image, named("docker.io/library/copied:1"))]);
    let at = |daemon: &Daemon, name: &str| format!("{}:{name}", daemon.linkspan.address());
    let copy = |from: &str, to: &str| linkspan(["copy", from, to]).ok();
    copy(&format!("oci-archive:{}", text(file.path())), &at(&one, ""));
    let log = until("the export to be logged", || one.linkspan.log(), |log| log.contains(" exported "));
    assert!(log.contains(" sent_blobs=4 ") && log.contains(" spared_blobs=0 spared_bytes=0 "), "{log}");
    let output = copy(&at(&one, "copied:1"), &at(&other, "copied:2"));
    assert_eq!(output.stdout, "Copied image: copied:2\n");
    assert!(output.stderr.contains("sent 4 blobs"), "{output}");
    let back = copy(&one.linkspan.address(), &format!("oci:{}:copied:3", text(other.folder.path())));
    assert!(back.stderr.contains("sent 0 blobs"), "{back}");
    let names: Vec<_> = listed(&other.folder).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["docker.io/library/copied:2", "docker.io/library/copied:3"]);
}

#[test]
fn docker_runs_what_was_loaded_through_a_daemon() {
    let stack = Stack::shared();
    let engine = stack.docker_flags();
    let daemon = Linkspan::export(stack, &engine, &[], stack.fresh_path("-to.sock"));
    let to = daemon.address();
    let image = image("through a daemon\n");
    let file = archive(&[(&image, named("docker.io/library/through:1"))]);
    let first = linkspan(["load", "-i", text(file.path()), "--to", &to]).ok();
    assert_eq!(first.stdout, "Loaded image: through:1\n");
    assert!(first.stderr.contains("unpacked"), "{first}");
    let output = stack.run_image("through:1", &["cat", "/etc/greeting"]).ok().stdout;
    assert_eq!(output, "through a daemon\n");
    let again = linkspan(["load", "-i", text(file.path()), "--to", &to]).ok();
    assert!(again.stderr.contains("sent 0 blobs (0B); 4 were there"), "{again}");
    let images = linkspan(["images", "--json", "through", "--to", &to]).ok().stdout;
    assert!(images.contains(image.root.digest.as_str()), "{images}");
}

#[test]
fn names_that_the_daemon_refuses_cost_no_bytes() {
    let daemon = Daemon::start(&["--allow-name", "docker.io/library/ci-*", "--deny-tag-move"]);
    let (one, other) = (image("allowed\n"), image("another\n"));
    let file = |image: &Image| archive(&[(image, named("docker.io/library/ci-1:1"))]);
    let (first, second) = (file(&one), file(&other));
    let denied = daemon.run(&["load", "-t", "mine", "-i", text(first.path())]).fails();
    let expected = "the name `docker.io/library/mine:latest` is not allowed here; allowed are: docker.io/library/ci-*";
    assert!(denied.stderr.contains(expected), "{denied}");
    assert_eq!(daemon.exports(), [], "nothing was opened");
    daemon.run(&["load", "-i", text(first.path())]).ok();
    let taken = daemon.run(&["load", "-i", text(second.path())]).fails();
    assert!(taken.stderr.contains("names must not move here"), "{taken}");
    assert_eq!(listed(&daemon.folder)[0].1, one.root.digest.to_string());
}

/// An image with a layer that takes a while to arrive.
pub(crate) fn large() -> (Image, tempfile::NamedTempFile) {
    let noise: Vec<u8> = (0..1_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let image = Image::new(&[Layer::new().file("noise", noise.repeat(160)).tar()]);
    let file = archive(&[(&image, named("docker.io/library/large:1"))]);
    (image, file)
}

/// Waits until some of a blob has arrived at the daemon.
pub(crate) fn until_half_way(daemon: &Daemon) {
    fn largest(folder: &Path) -> u64 {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let size =
            |path: PathBuf| if path.is_dir() { largest(&path) } else { path.metadata().map_or(0, |it| it.len()) };
        entries.map(|entry| size(entry.path())).max().unwrap_or(0)
    }
    let arrived = || largest(&daemon.folder.path().join(".linkspan"));
    until_every(Duration::from_millis(2), "a part of the blob to arrive", arrived, |size| *size > 1 << 20);
}

#[test]
fn a_load_whose_daemon_went_away_is_resumed() {
    let mut daemon = Daemon::start(&[]);
    let (image, file) = large();
    let load = ["load", "-i", text(file.path()), "--json"];
    let loading = daemon.run(&load).spawn();
    until_half_way(&daemon);
    let open = daemon.exports();
    daemon.linkspan.kill();
    let failed = loading.wait();
    assert_eq!(failed.status.code(), Some(1), "{failed}");
    assert!(failed.stderr.contains("went away") && failed.stderr.contains("run the command again"), "{failed}");
    assert_eq!(listed(&daemon.folder), []);
    daemon.restart();
    daemon.run(&load).ok();
    assert_eq!(listed(&daemon.folder)[0].1, image.root.digest.to_string());
    assert_eq!(daemon.exports(), [(open[0].0.clone(), "committed".to_owned())], "it was the same export");
}

#[test]
fn a_load_that_was_interrupted_or_killed_is_resumed() {
    let daemon = Daemon::start(&[]);
    let (image, file) = large();
    let load = ["load", "-i", text(file.path()), "--json"];
    let loading = daemon.run(&load).spawn();
    until_half_way(&daemon);
    loading.signal(Signal::INT);
    let interrupted = loading.wait();
    assert_eq!(interrupted.status.code(), Some(130), "{interrupted}");
    assert!(interrupted.stderr.contains("interrupted; what was sent is kept for the next try"), "{interrupted}");
    let first = daemon.exports();
    assert_eq!(first[0].1, "open");

    let loading = daemon.run(&load).spawn();
    until_half_way(&daemon);
    loading.signal(Signal::KILL);
    loading.wait();
    daemon.run(&load).ok();
    assert_eq!(listed(&daemon.folder)[0].1, image.root.digest.to_string());
    assert_eq!(daemon.exports(), [(first[0].0.clone(), "committed".to_owned())], "it was the same export all the time");
}

/// A job that was cancelled, and two that load its archive under names of their own.
#[test]
fn a_load_that_was_killed_is_resumed_by_one_of_those_that_find_it() {
    let daemon = Daemon::start(&[]);
    let (image, file) = large();
    let load = |name| daemon.run(&["load", "-i", text(file.path()), "-t", name]);
    let loading = load("killed:1").spawn();
    until_half_way(&daemon);
    loading.signal(Signal::KILL);
    loading.wait();
    let names = ["first:1", "second:1", "third:1"];
    let running = names.map(|name| load(name).spawn());
    for output in running.map(Running::wait) {
        assert!(output.status.success(), "{output}");
    }
    let root = image.root.digest.to_string();
    let found: Vec<_> = listed(&daemon.folder).into_iter().map(|(name, digest)| (name, digest == root)).collect();
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found.iter().all(|(_, is_whole)| *is_whole), "{found:?}");
    assert!(daemon.exports().iter().all(|(_, state)| state == "committed"), "{:?}", daemon.exports());
}

#[test]
fn what_cannot_be_reached_is_named() {
    let unreachable = linkspan(["images", "--to", "unix:///no/such/door.sock"]).fails();
    let expected = "linkspan: error: the exporter API at unix:///no/such/door.sock: No such file or directory";
    assert!(
        unreachable.stderr.starts_with(expected) && unreachable.stderr.contains("--export-listen"),
        "{unreachable}"
    );
    let remote = linkspan(["images", "--to", "tcp://192.0.2.1:1"]).fails();
    assert!(remote.stderr.contains("on another machine") && remote.stderr.contains("--to ssh://"), "{remote}");
    let both = linkspan(["images", "--to", "unix:///x.sock", "--engine", "docker"]).output();
    assert_eq!(both.status.code(), Some(2), "{both}");
    let stack = Stack::shared();
    let other = linkspan(["images", "--to", stack.docker_host()]).fails();
    assert!(other.stderr.contains(stack.docker_host()), "another server is named: {other}");

    // A corrupt blob is told as an engine tells it.
    let (daemon, from, image) = (Daemon::start(&[]), tempfile::tempdir().unwrap(), image("corrupt\n"));
    layout(from.path(), &[(&image, json!({}))]);
    let layer = from.path().join("blobs/sha256").join(image.layers[1].digest.hex());
    let mut bytes = fs::read(&layer).unwrap();
    bytes[600] ^= 1;
    fs::write(&layer, bytes).unwrap();
    let corrupt = daemon.run(&["load", "-i", text(from.path())]).fails();
    assert!(corrupt.stderr.contains(&format!("{} is corrupt", image.layers[1].digest)), "{corrupt}");
    assert!(corrupt.stderr.contains("save the image again") && !corrupt.stderr.contains("buildx"), "{corrupt}");
    assert_eq!(listed(&daemon.folder), []);
}
