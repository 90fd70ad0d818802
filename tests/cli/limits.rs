//! More clients than descriptors.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;

use rustix::process::{Resource, Rlimit, Signal, getrlimit, prlimit};

use super::{ended, open, unix};
use crate::common::{Context, Linkspan, Run, Stack, read_some, until};

#[test]
fn more_clients_than_descriptors_wait_and_are_served_later() {
    let stack = Stack::shared();
    let door = stack.fresh_path(".sock");
    let limited = ["-c", "ulimit -n 128 && exec \"$@\"", "sh", env!("CARGO_BIN_EXE_linkspan"), "serve"];
    let run = Run::new("sh").args(limited).args(stack.docker_flags());
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
    assert!(output.stderr.contains("the connection limit is reached; new connections wait"), "{output}");
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
    match read_some(&mut client, &mut [0]) {
        Ok(length) => length > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}
