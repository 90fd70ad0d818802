//! The program as its users meet it: command line, configuration, doors, drain, doctor.
#![allow(clippy::unwrap_used, reason = "tests state what they expect by failing loudly")]

#[path = "../common/mod.rs"]
mod common;

mod doctor;
mod doors;
mod drain;
mod limits;
mod service;
mod settings;

use std::path::Path;

use common::{Output, Run, Running, Stack, linkspan, unix, until};
use rustix::process::Signal;

/// `serve` for the shared stack's dockerd and builder.
fn serve(door: &Path) -> Run {
    let stack = Stack::shared();
    linkspan(["serve"])
        .args(stack.docker_flags())
        .args(["--builder", stack.buildkit_host(), "--buildkit-listen"])
        .arg(unix(door))
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
    let line = format!("listening on {address}\n");
    until("the door to open", || daemon.stderr(), |stderr| stderr.contains(&line));
    daemon
}

#[track_caller]
fn ended(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{output}");
}
