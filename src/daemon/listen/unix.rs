//! Binds a unix socket; the parent module explains the order of the steps.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, fchmod, fstat, mkdirat, openat};
use rustix::io::Errno;
use rustix::process::geteuid;
use tokio::net::{UnixListener, UnixSocket};
use tracing::info;

use super::ListenError;
use super::claim::{Claim, Refused};
use crate::net::{Address, AtPath};

/// Only owner and group may connect.
const SOCKET_MODE: u32 = 0o660;
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o755);
/// The most connections that wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: u32 = 1024;

pub(super) async fn bind(path: &Path, gid: u32) -> Result<(UnixListener, Claim), ListenError> {
    let fail = |action: &str| {
        let (address, action) = (Address::Unix(path.to_owned()), action.to_owned());
        move |source| ListenError::System { address, action, source }
    };
    if let Some(folder) = path.parent() {
        make_folder(folder).map_err(fail(&format!("create the folder {}", folder.display())))?;
    }
    let mut claim = Claim::take(path).map_err(|refused| match refused {
        Refused::Locked(owner) => ListenError::Locked {
            path: path.to_owned(),
            owner: owner.map(|id| format!(" (process {id})")).unwrap_or_default(),
        },
        Refused::System(source) => fail("lock it")(source),
    })?;
    clear(path)?;
    let socket = UnixSocket::new_stream().map_err(fail("create a socket"))?;
    socket.bind(path).map_err(fail("bind"))?;
    claim.bound(gid, SOCKET_MODE).map_err(fail(&format!("give it to group {gid} with its mode")))?;
    let listener = socket.listen(BACKLOG).map_err(fail("listen"))?;
    Ok((listener, claim))
}

/// Whether there is a socket at `path` that refuses connections: its process is gone.
pub(crate) fn is_stale(path: &Path) -> bool {
    matches!(AtPath::observe(path), Ok(AtPath::DeadSocket))
}

/// Removes a socket that nobody listens at. It is looked at again, under the lock that a daemon takes which starts there.
pub(crate) fn remove_stale(path: &Path) -> io::Result<()> {
    let _claim = Claim::take(path).map_err(|refused| match refused {
        Refused::Locked(_) => io::Error::other("another linkspan has it"),
        Refused::System(source) => source,
    })?;
    clear(path).map_err(io::Error::other)
}

/// Creates `folder` and its parents. The modes of existing folders are not changed.
fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() || folder == Path::new("") {
        return Ok(());
    }
    if let Some(above) = folder.parent() {
        make_folder(above)?;
    }
    match mkdirat(CWD, folder, FOLDER_MODE) {
        // Another process has created it meanwhile.
        Err(Errno::EXIST) if folder.is_dir() => return Ok(()),
        made => made?,
    }
    // A service's umask (often 0077) must not keep the group out. The mode is set through a descriptor, and only on our
    // own folder: another one that has replaced it keeps its mode.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = openat(CWD, folder, flags, Mode::empty())?;
    if fstat(&made)?.st_uid == geteuid().as_raw() {
        fchmod(&made, FOLDER_MODE)?;
    }
    Ok(())
}

/// Removes a stale socket at `path`; fails if anything else exists there.
fn clear(path: &Path) -> Result<(), ListenError> {
    let fail = |action: &str| {
        let (address, action) = (Address::Unix(path.to_owned()), action.to_owned());
        move |source| ListenError::System { address, action, source }
    };
    match AtPath::probe(path).map_err(fail("see whether a socket there is in use"))? {
        AtPath::Nothing => Ok(()),
        AtPath::Listener => Err(ListenError::Live { path: path.to_owned() }),
        AtPath::DeadSocket => {
            info!(path = %path.display(), "replacing the socket of a process that is gone");
            fs::remove_file(path).map_err(fail("remove the stale socket"))
        }
        AtPath::Other(what) => Err(ListenError::NotASocket { path: path.to_owned(), what }),
    }
}
