//! The end of `serve`.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use super::{ended, open, serve, unix};
use crate::common::{Context, Running, Stack, until};

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
    assert!(stack.tagged("moby", "drained:latest").is_some());
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
    assert_eq!(stack.tagged("moby", "deadline:latest"), None);
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
