//! Ends with docker: docker tells its plugins that it was interrupted by closing a socket (docker/cli
//! `cli-plugins/socket/socket.go`), because a signal to docker alone does not reach them. Where a signal went to docker and to this
//! process, as from a service manager, the socket's end says nothing new: a second signal would end at once what the first one lets
//! finish.

use std::env;
use std::io::{self, Read as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};
use tracing::debug;

/// The variable with docker's socket.
const SOCKET: &str = "DOCKER_CLI_PLUGIN_SOCKET";
/// How long a signal to both may take to this process, after docker has closed the socket for it.
const SAME: Duration = Duration::from_millis(200);

/// Waits for the end of docker's socket, then interrupts this process as Ctrl-C does, unless `told` says that a signal came
/// itself. Without such a socket, which older dockers do not have, nothing happens.
pub(super) fn follow_docker(told: Receiver<()>) {
    let Some(address) = env::var_os(SOCKET) else { return };
    let stream = match address.to_str().map(connect) {
        Some(Ok(stream)) => Some(stream),
        // docker was interrupted before this process came so far.
        Some(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => None,
        _ => return,
    };
    thread::spawn(move || {
        if stream.is_none_or(is_closed)
            && told.recv_timeout(SAME).is_err()
            && let Err(error) = kill_process(getpid(), Signal::INT)
        {
            debug!(%error, "this process cannot be interrupted");
        }
    });
}

/// Go writes an abstract address with an `@`.
fn connect(address: &str) -> io::Result<UnixStream> {
    let address = match address.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(address)?,
    };
    UnixStream::connect_addr(&address)
}

/// Waits until docker has closed its side; docker sends nothing.
fn is_closed(mut stream: UnixStream) -> bool {
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A docker that was killed.
            Err(error) => return error.kind() == io::ErrorKind::ConnectionReset,
        }
    }
}
