//! Engines that end and are started again.

use rustix::process::Signal;

use super::{Caching, PARTS, STEPS, succeeds};
use crate::{
    common::{Output, Part, Running, Stack, until},
    daemons::start_containerd,
    engine::{Engine, assert_stderr_has},
    fault_injection::Application,
};

/// How an engine ends, and when it is there again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// By SIGTERM, and it is started again when it has ended.
    Restarted,
    /// By SIGKILL. The build goes on when it is there again.
    Killed,
    /// By SIGKILL. It is there again when the build has ended.
    Away,
}

/// Ends containerd while a build stands still, and lets that go on with `resume`; what the build says in the end.
fn end_containerd(caching: &Caching<'_>, end: End, running: Running, resume: impl FnOnce()) -> Output {
    let (engine, stack) = (caching.engine(), caching.engine().stack);
    match end {
        End::Restarted => {
            stack.end(Part::Containerd, Signal::TERM, || {
                resume();
                // It waits for its connections, of which one is the proxy's and says nothing.
                caching.containerd.cut();
            });
            start_containerd(&engine);
            caching.containerd.restore();
        }
        End::Killed => {
            stack.kill(Part::Containerd);
            start_containerd(&engine);
            resume();
        }
        End::Away => {
            stack.kill(Part::Containerd);
            resume();
        }
    }
    let output = running.wait();
    start_containerd(&engine);
    output
}

fn containerd_ends(engine: Engine<'_>, ends: &[End]) {
    let caching = Caching::new(engine);
    let mut application = Application::new(&format!("cache before {}", engine.kind));
    caching.write(&application).ok();
    let mut before = caching.is_sound();
    for end in ends {
        eprintln!("{}: {end:?}", engine.kind);
        let reading = caching.read_half(&application);
        let output = end_containerd(&caching, *end, reading, || caching.containerd.release());
        match end {
            // Linkspan has waited for it.
            End::Restarted | End::Killed => succeeds(&output, STEPS),
            // The steps are executed; or BuildKit, which keeps what it could not load of a layer, fails, and says why.
            End::Away => {
                let is_reported = output.stderr.contains("linkspan: reading sha256:");
                assert!(output.status.success() || is_reported, "{output}");
            }
        }
        assert_eq!(caching.is_sound(), before, "{output}");
        comes_back(&caching, &application);

        application = Application::new(&format!("cache {} {end:?}", engine.kind));
        let writing = caching.write_half(&application);
        let output = end_containerd(&caching, *end, writing, || caching.proxied.builder.release());
        // Linkspan was not restarted: it must remember what it could not release.
        let after = caching.is_sound();
        if output.status.success() {
            assert_ne!(after, before, "{output}");
        } else {
            assert_stderr_has(&output, &["containerd does not respond at unix://"]);
            assert_eq!(after, before, "{output}");
        }
        caching.write(&application).ok();
        before = caching.is_sound();
        comes_back(&caching, &application);
    }
}

/// That the cache is read without Linkspan being restarted. The first build may meet a connection that was just lost, and
/// is told so.
fn comes_back(caching: &Caching<'_>, application: &Application) {
    let lost = "the cache import `type=linkspan,ref=faults` is left out: containerd does not respond";
    let read = || caching.read(application).ok();
    let output = until("a build that reads the cache", read, |output| !output.stderr.contains(lost));
    succeeds(&output, STEPS);
}

#[test]
fn containerd_ends_while_a_cache_is_read_and_while_it_is_written() {
    // Without a dockerd, which takes its time to notice.
    let stack = Stack::start(&[Part::Containerd, Part::Buildkitd]);
    containerd_ends(Engine::containerd(&stack), &[End::Restarted, End::Killed, End::Away]);
}

#[test]
fn the_containerd_of_docker_ends_while_a_cache_is_read_and_while_it_is_written() {
    let stack = Stack::start(&PARTS);
    containerd_ends(Engine::docker(&stack), &[End::Killed]);
}

#[test]
fn dockerd_ends_while_a_cache_is_read_and_while_it_is_written() {
    let stack = Stack::start(&PARTS);
    let engine = Engine::docker(&stack);
    let caching = Caching::new(engine);
    let mut written = Vec::new();
    for signal in [Signal::TERM, Signal::KILL] {
        let application = Application::new(&format!("cache dockerd {signal:?}"));
        let running = caching.write_half(&application);
        stack.end(Part::Dockerd, signal, || caching.proxied.builder.release());
        let output = running.wait();
        stack.up();
        let after = caching.is_sound();
        if output.status.success() {
            assert_ne!(after, written, "{output}");
        } else {
            assert_stderr_has(&output, &["docker does not respond at unix://"]);
            assert_eq!(after, written, "{output}");
        }
        caching.write(&application).ok();
        written = caching.is_sound();

        // What is read does not pass through dockerd.
        let running = caching.read_half(&application);
        stack.end(Part::Dockerd, signal, || caching.containerd.release());
        succeeds(&running.wait(), STEPS);
        stack.up();
        assert_eq!(caching.is_sound(), written);
    }
    engine.images_are_sound();
}
