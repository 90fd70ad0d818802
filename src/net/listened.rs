//! Whether somebody listens at a unix socket.

use std::io;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// Whether somebody listens at `path`, without waiting for them: a queue that is full has an owner, too.
///
/// # Errors
/// When there is nothing, or this process may not connect.
pub(crate) fn is_listened_at(path: &Path) -> io::Result<bool> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&socket, &SocketAddrUnix::new(path)?) {
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        Err(Errno::CONNREFUSED) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_is_somebody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        assert_eq!(is_listened_at(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        assert!(!is_listened_at(&path).unwrap());
        rustix::net::listen(&socket, 0).unwrap();
        for _ in 0..3 {
            assert!(is_listened_at(&path).unwrap());
        }
        drop(socket);
        assert!(!is_listened_at(&path).unwrap());
    }
}
