//! Whether somebody listens at a unix socket.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// The kernel's list of unix sockets, and how much of it is read.
const SOCKETS: &str = "/proc/net/unix";
const MAX_LIST: u64 = 64 << 20;
/// The flag of a socket that listens (Linux `include/linux/net.h`, `__SO_ACCEPTCON`).
const LISTENS: u32 = 0x10000;

/// The same as [`is_listened_at`], for a mere look: where the kernel lists a socket that listens at `path`, nobody connects, because
/// that would start the program for which a service manager holds it.
///
/// # Errors
/// As [`is_listened_at`].
pub(crate) fn is_seen_listening(path: &Path) -> io::Result<bool> {
    if is_listed(path) { Ok(true) } else { is_listened_at(path) }
}

/// Whether the kernel lists a socket that listens at `path`. It lists those of this network namespace, by the paths that they were
/// bound to: others are not found. A name stays on the list for as long as its socket is open, also if its file was removed or
/// renamed: a dead socket that was made there since is then taken for one that somebody listens at.
fn is_listed(path: &Path) -> bool {
    let mut list = Vec::new();
    let read = File::open(SOCKETS).and_then(|file| file.take(MAX_LIST).read_to_end(&mut list));
    let real = fs::canonicalize(path);
    let is_it = |bound: &[u8]| {
        bound == path.as_os_str().as_bytes() || real.as_ref().is_ok_and(|real| bound == real.as_os_str().as_bytes())
    };
    read.is_ok() && list.split(|&byte| byte == b'\n').filter_map(listening).any(is_it)
}

/// The path in a line of the list, if its socket listens (proc_pid_net(5)): number, references, protocol, flags, type, state, inode,
/// path.
fn listening(line: &[u8]) -> Option<&[u8]> {
    let mut fields = line.splitn(8, |&byte| byte == b' ').map(<[u8]>::trim_ascii);
    let flags = fields.nth(3).and_then(|flags| u32::from_str_radix(std::str::from_utf8(flags).ok()?, 16).ok())?;
    // The inode has leading spaces.
    let rest = line.windows(2).position(|two| two == b" /").and_then(|at| line.get(at + 1..))?;
    (flags & LISTENS != 0).then_some(rest)
}

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

    #[test]
    fn a_look_does_not_connect() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("the socket"), folder.path().join("link"));
        assert_eq!(is_seen_listening(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        listener.set_nonblocking(true).unwrap();
        assert!(is_seen_listening(&path).unwrap() && is_seen_listening(&link).unwrap());
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        // One that does not listen is on the list, too.
        drop(listener);
        assert!(!is_seen_listening(&path).unwrap());
        let bound = std::os::unix::net::UnixDatagram::bind(folder.path().join("datagrams")).unwrap();
        assert!(!is_listed(&folder.path().join("datagrams")));
        drop(bound);
    }
}
