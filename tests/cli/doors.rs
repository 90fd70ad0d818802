//! The doors that `serve` opens.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener};

use rustix::process::Signal;

use super::{ended, linkspan, open, open_at, serve, unix};
use crate::common::{Context, Linkspan, Stack};

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
    assert_eq!(&state[..length], b"STOPPING=1\nEXTEND_TIMEOUT_USEC=55000000");
    assert_eq!(fs::read_dir(door.parent().unwrap()).unwrap().count(), 0, "no socket and no lock are left");
    let lines: Vec<_> = output.stderr.lines().filter(|line| line.starts_with("linkspan: ")).collect();
    let [engine, left_out, opened] = lines.as_slice() else { panic!("{output}") };
    assert!(left_out.contains("no docker door and no export door"), "{left_out}");
    let version = stack.docker(["version", "--format", "{{.Server.Version}}"]).ok().stdout;
    let (version, host) = (version.trim(), stack.docker_host());
    let prefix = format!("linkspan: engine docker {version} ({host}), namespace moby, snapshotter overlayfs: ");
    assert!(engine.starts_with(&prefix) && engine.len() > prefix.len(), "{engine}");
    let expected = format!("linkspan: buildkit door for {} listening on {}", stack.buildkit_host(), unix(&door));
    assert_eq!(*opened, expected);
    assert_eq!(output.stdout, "");
}

#[test]
fn several_builders_have_a_door_each() {
    let stack = Stack::shared();
    let builders = [stack.buildkit_host(), stack.buildkit_host()];
    let mut linkspan = Linkspan::start(stack, &stack.docker_flags(), &builders);
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
    let engine = [&["serve"][..], &stack.docker_flags()].concat();
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
