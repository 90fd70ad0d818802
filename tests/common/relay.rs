//! Bytes on their way between two streams.

use std::io::{ErrorKind, Read, Result, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

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
