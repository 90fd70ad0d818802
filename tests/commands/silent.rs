//! Commands at a daemon that is stopped: the kernel accepts their connections, and nobody answers.

use rustix::process::{Signal, kill_process};

use crate::common::{Linkspan, Stack, linkspan, text};
use crate::fixture;

#[test]
fn a_daemon_that_is_stopped_is_said_to_be_so() {
    let stack = Stack::shared();
    let folder = tempfile::tempdir().unwrap();
    let engine = ["--engine", "layout", "--layout", text(folder.path())];
    let start = |name: &str, args: &[&str]| Linkspan::export(stack, &engine, args, stack.fresh_path(name));
    // Another one that runs must not be proposed: what is stopped is the one that was meant.
    let (daemon, other) = (start("-silent.sock", &[]), start("-other.sock", &[]));
    let (image, address) = (fixture::image("silent\n"), daemon.address());
    let file = crate::archive(&[(&image, crate::named("docker.io/library/silent:1"))]);
    linkspan(["load", "--to", &address, "-i", text(file.path())]).ok();
    kill_process(daemon.pid(), Signal::STOP).unwrap();
    let (archive, caches) = (format!("docker-archive:{}", text(file.path())), folder.path().join("caches"));
    let commands: &[&[&str]] = &[
        &["ps"],
        &["images"],
        &["inspect", "silent:1"],
        &["digest", "silent:1"],
        &["save", "silent:1", "-o", "/dev/null"],
        &["load", "-i", text(file.path())],
        &["tag", "silent:1", "silent:2"],
        &["rm", "silent:1"],
        &["cache", "ls"],
        &["cache", "prune", "--all"],
        &["cache", "export", "app", text(&caches)],
    ];
    let with_to = |args: &&[&str]| linkspan(args.iter().copied()).args(["--to", &address]);
    let mut running: Vec<_> = commands.iter().map(|args| with_to(args).spawn()).collect();
    running.push(linkspan(["copy", &archive, &address]).spawn());
    running.push(linkspan(["ps"]).env("LINKSPAN_EXPORT_LISTEN", &address).spawn());
    let expected = format!(
        "linkspan: error: the daemon at {address} accepts connections and does not answer: it is stopped or overloaded\n\
         linkspan: hint: look at that process"
    );
    for running in running {
        let output = running.wait();
        assert_eq!(output.status.code(), Some(1), "{output}");
        assert!(output.stderr.contains(&expected) && !output.stderr.contains(&other.address()), "{output}");
        assert!(!output.stderr.contains("another program"), "{output}");
    }
    // It is the same one when it goes on.
    kill_process(daemon.pid(), Signal::CONT).unwrap();
    assert!(linkspan(["images", "--to", &address]).ok().stdout.contains("silent"));
}
