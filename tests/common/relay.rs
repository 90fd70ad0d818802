//! Bytes on their way between two sockets.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

/// Passes bytes on until one side is gone, and ends the direction then. `look` gets them first, and may change them.
pub(crate) fn pass(from: &mut UnixStream, to: &mut UnixStream, mut look: impl FnMut(&mut [u8])) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        look(&mut buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    // Either may be gone already.
    let _ = (from.shutdown(Shutdown::Read), to.shutdown(Shutdown::Write));
}
