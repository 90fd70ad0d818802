//! Threads of tests that wait for a lock.

use std::fs;
use std::sync::mpsc;
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use rustix::thread::{Pid, gettid};

/// How often a thread sleeps at least that polls a lock which is held. Reading a few files may make it sleep now and then.
const SLEEPS: u64 = 20;
/// How long that may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Runs `work`, and returns when that polls a lock, or has ended.
#[track_caller]
pub(crate) fn spawn_until_it_waits<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> ScopedJoinHandle<'scope, T> {
    let (started, start) = mpsc::channel();
    let thread = scope.spawn(move || {
        started.send(gettid()).unwrap();
        work()
    });
    let id = start.recv().unwrap();
    let (before, end) = (sleeps(id), Instant::now() + TIMEOUT);
    while !thread.is_finished() && sleeps(id) < before + SLEEPS {
        assert!(Instant::now() < end, "the thread neither waits nor ends");
        thread::sleep(Duration::from_millis(2));
    }
    thread
}

/// How often the thread has given up the processor by itself (proc_pid_status(5)); 0 when it has ended.
fn sleeps(id: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/self/task/{id}/status")).unwrap_or_default();
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count.map_or(0, |count| count.trim().parse().unwrap())
}
