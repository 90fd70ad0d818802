//! Bytes on their way between two streams.

use std::io::{ErrorKind, Read, Result, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

/// Reads what is there, or waits for it. Children of other tests end meanwhile: their signal interrupts a read from a
/// socket that has a time limit (signal(7)), which is no error of the stream.
pub(crate) fn read_some(from: &mut impl Read, buffer: &mut [u8]) -> Result<usize> {
    loop {
        match from.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Passes bytes on until one side is gone, and ends the direction then. `look` gets them first, and may change them.
pub(crate) fn pass(from: &mut UnixStream, to: &mut UnixStream, mut look: impl FnMut(&mut [u8])) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = read_some(from, &mut buffer) {
        look(&mut buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    // Either may be gone already.
    let _ = (from.shutdown(Shutdown::Read), to.shutdown(Shutdown::Write));
}

/// Listens at `path`, for as long as the test's process lives, and passes every connection on to a dockerd's socket. `look` gets what
/// clients send.
pub(crate) fn relay(path: &Path, docker: &str, look: impl Fn(&[u8]) + Clone + Send + 'static) {
    let listener = UnixListener::bind(path).unwrap();
    let docker = docker.strip_prefix("unix://").unwrap().to_owned();
    thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut server) = (client.unwrap(), UnixStream::connect(&docker).unwrap());
            let (mut to_client, mut from_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let look = look.clone();
            thread::spawn(move || pass(&mut client, &mut server, |bytes| look(bytes)));
            thread::spawn(move || pass(&mut from_server, &mut to_client, |_| ()));
        }
    });
}
