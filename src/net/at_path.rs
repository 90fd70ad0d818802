//! What is at the path of a unix socket, and whether somebody listens there.

use std::fs::{self, File, FileType};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// The kernel's list of unix sockets, and how much of it is read.
const SOCKETS: &str = "/proc/net/unix";
const MAX_LIST: u64 = 64 << 20;
/// The flag of a socket that listens (Linux `include/linux/net.h`, `__SO_ACCEPTCON`).
const LISTENS: u32 = 0x10000;

/// What is at a path. A symbolic link is not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtPath {
    Nothing,
    /// A socket that somebody listens at.
    Listener,
    /// A socket that refuses connections: its process is gone.
    DeadSocket,
    /// Something else, as messages call it.
    Other(&'static str),
}

impl AtPath {
    /// Connects to a socket, which leaves no doubt whether somebody listens.
    ///
    /// # Errors
    /// When this process may not look, or not connect.
    pub(crate) fn probe(path: &Path) -> io::Result<Self> {
        Self::look(path, is_listened_at)
    }

    /// The same, for a mere look: where the kernel lists a socket that listens at `path`, nobody connects, because that would start
    /// the program for which a service manager holds it.
    ///
    /// # Errors
    /// As [`AtPath::probe`].
    pub(crate) fn observe(path: &Path) -> io::Result<Self> {
        Self::look(path, |path| if is_listed(path) { Ok(true) } else { is_listened_at(path) })
    }

    fn look(path: &Path, is_listened_at: impl FnOnce(&Path) -> io::Result<bool>) -> io::Result<Self> {
        let found = fs::symlink_metadata(path).and_then(|metadata| {
            let kind = metadata.file_type();
            if !kind.is_socket() {
                return Ok(Self::Other(name_of(kind)));
            }
            Ok(if is_listened_at(path)? { Self::Listener } else { Self::DeadSocket })
        });
        match found {
            // Or it went while it was looked at.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::Nothing),
            found => found,
        }
    }
}

/// What messages call a file that is no socket.
fn name_of(kind: FileType) -> &'static str {
    match () {
        () if kind.is_dir() => "a folder",
        () if kind.is_symlink() => "a symbolic link",
        () if kind.is_file() => "a file",
        () => "a device or pipe",
    }
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
fn is_listened_at(path: &Path) -> io::Result<bool> {
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
    use std::os::unix::fs::symlink;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use super::*;

    #[test]
    fn a_full_queue_is_somebody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        assert_eq!(AtPath::probe(&path).unwrap(), AtPath::Nothing);
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        assert_eq!(AtPath::probe(&path).unwrap(), AtPath::DeadSocket);
        rustix::net::listen(&socket, 0).unwrap();
        for _ in 0..3 {
            assert_eq!(AtPath::probe(&path).unwrap(), AtPath::Listener);
        }
        drop(socket);
        assert_eq!(AtPath::probe(&path).unwrap(), AtPath::DeadSocket);
    }

    #[test]
    fn a_look_does_not_connect() {
        let folder = tempfile::tempdir().unwrap();
        // The kernel's list has the path that it was bound to, which need not be the one that is asked for.
        let (path, link) = (folder.path().join("the socket"), folder.path().join("link"));
        symlink(folder.path(), &link).unwrap();
        assert_eq!(AtPath::observe(&path).unwrap(), AtPath::Nothing);
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        for path in [&path, &link.join("the socket")] {
            assert_eq!(AtPath::observe(path).unwrap(), AtPath::Listener);
        }
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        // One that does not listen is on the list, too.
        drop(listener);
        assert_eq!(AtPath::observe(&path).unwrap(), AtPath::DeadSocket);
        let bound = UnixDatagram::bind(folder.path().join("datagrams")).unwrap();
        assert!(!is_listed(&folder.path().join("datagrams")));
        drop(bound);
    }

    #[test]
    fn what_is_no_socket_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name| folder.path().join(name);
        fs::create_dir(path("folder")).unwrap();
        fs::write(path("file"), "").unwrap();
        let listener = UnixListener::bind(path("socket")).unwrap();
        symlink(path("socket"), path("link")).unwrap();
        for (name, what) in [("folder", "a folder"), ("file", "a file"), ("link", "a symbolic link")] {
            for look in [AtPath::probe, AtPath::observe] {
                assert_eq!(look(&path(name)).unwrap(), AtPath::Other(what));
            }
        }
        assert_eq!(AtPath::probe(Path::new("/dev/null")).unwrap(), AtPath::Other("a device or pipe"));
        // That there is nothing is not known of what cannot be looked into.
        AtPath::probe(&path("file").join("socket")).unwrap_err();
        drop(listener);
    }
}
