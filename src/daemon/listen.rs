//! Listening sockets, created safely.
//!
//! A unix socket is created in this order, each step for a reason:
//! 1. *lock*: `PATH.lock` is locked for as long as the door is open, so that of two daemons that start at once only one
//!    examines and replaces the file at `PATH`;
//! 2. *look*: a socket that refuses connections (its owner died) is replaced; a socket that another process serves, or
//!    a file that is no socket, is an error;
//! 3. *bind, own, mode, listen*: between bind(2) and listen(2) every connection is refused, so that the group and the
//!    mode 0660 are set before a client can connect. The umask, which is the whole process's, is not changed.
//!
//! When a drain begins, the socket is removed, if it is still the one that was bound, and the lock is released: a
//! successor can open its doors while the last connections of this process finish. Connections in the socket's queue
//! would be reset when it is closed, so this process still serves them. If the socket is a service manager's, they stay
//! in the queue for the next process.

mod claim;
mod inherited;
mod stream;
mod unix;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream, lookup_host};
use tokio::time::timeout;

use crate::net::{Address, Connection, ServerTls, TlsRules};
use claim::Claim;

pub(crate) use inherited::Inherited;
pub(super) use stream::Stream;
pub(crate) use unix::{is_stale, remove_stale};

/// Why a door cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Another daemon has locked the same socket.
    #[error(
        "cannot listen on unix://{path}: another linkspan has it{owner}; stop that one, or choose another address to \
         listen on", path = path.display()
    )]
    Locked {
        /// The socket.
        path: PathBuf,
        /// ` (process N)` if it is known.
        owner: String,
    },
    /// Another process accepts connections there.
    #[error(
        "cannot listen on unix://{path}: another program is listening there; stop it, or choose another address to \
         listen on", path = path.display()
    )]
    Live {
        /// The socket.
        path: PathBuf,
    },
    /// The file at the path is no socket.
    #[error(
        "cannot listen on unix://{path}: there is {what}, not a socket; remove it, or choose another address to \
         listen on", path = path.display()
    )]
    NotASocket {
        /// The path.
        path: PathBuf,
        /// The kind of the file.
        what: &'static str,
    },
    /// A TCP address without TLS can be reached from other machines.
    #[error(
        "cannot listen on {address}: it resolves to {found}, which is no loopback address; expected one such as 127.0.0.1"
    )]
    NotLoopback {
        /// As configured.
        address: Address,
        /// What it resolves to.
        found: SocketAddr,
    },
    /// A socket that a service manager passed cannot be used.
    #[error("the socket {socket}, which was passed by the service manager, cannot be used: {reason}")]
    Passed {
        /// Which one.
        socket: String,
        /// What is wrong with it, and what was expected.
        reason: String,
    },
    /// A system call failed.
    #[error("cannot listen on {address}: {action}: {source}")]
    System {
        /// As configured.
        address: Address,
        /// The action that failed.
        action: String,
        /// The system's error.
        source: io::Error,
    },
}

impl ListenError {
    /// What the user can do about it, if the message does not say so; `flag` names the address.
    pub(super) fn hint(&self, flag: Option<&str>) -> Option<String> {
        match self {
            Self::System { address: Address::Tcp { port, .. }, source, .. }
                if source.kind() == io::ErrorKind::AddrInUse =>
            {
                let other = flag.map(|flag| format!(" with --{flag}")).unwrap_or_default();
                Some(format!(
                    "`ss -ltnp 'sport = :{port}'` shows which program has it (as root, also of other users); stop that one, or \
                     choose another address{other}"
                ))
            }
            Self::NotASocket { path, what: "a folder" } if is_empty(path) => Some(format!(
                "`rmdir {path}`, start linkspan, and restart the containers that mount {path}: dockerd makes an empty folder \
                 where a container mounts a socket that is not there yet. With linkspan.socket of scripts/systemd the socket \
                 is there before dockerd starts",
                path = path.display()
            )),
            Self::System { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Some(
                "run it as root, or choose addresses in a folder of yours with --docker-listen, --buildkit-listen, \
                 --export-listen, --registry-listen or --metrics-listen"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

fn is_empty(folder: &Path) -> bool {
    folder.read_dir().is_ok_and(|mut entries| entries.next().is_none())
}

/// A listening socket, and the claim that is released when it closes.
#[derive(Debug)]
pub(super) struct Listener {
    // Dropped before the socket: while that is open, the inode by which the claim identifies its file is not reused.
    claim: Option<Claim>,
    socket: Socket,
    address: Address,
    /// Whether this process created it; then closing it also resets the connections in its queue.
    is_own: bool,
    tls: Option<ListenerTls>,
}

/// How long a client may take until it begins its handshake.
const FIRST_BYTE: Duration = Duration::from_secs(10);

/// The TLS of one listener.
#[derive(Debug, Clone)]
pub(super) struct ListenerTls {
    pub(super) tls: Arc<ServerTls>,
    pub(super) rules: TlsRules,
}

impl ListenerTls {
    /// Makes the handshake of a connection over TCP. `None` if the client closed it before it sent anything, as those do that
    /// only look whether somebody listens.
    pub(super) async fn secure(&self, connection: Connection<Stream>) -> io::Result<Option<Connection<Stream>>> {
        match connection {
            Connection { io: Stream::Tcp(stream), peer } => {
                let late = || io::Error::new(io::ErrorKind::TimedOut, "nothing came");
                let first = timeout(FIRST_BYTE, stream.peek(&mut [0])).await.map_err(|_| late())?;
                if matches!(first, Ok(0) | Err(_)) {
                    return Ok(None);
                }
                let secured = self.tls.accept(stream, peer, self.rules).await?;
                Ok(Some(secured.map(|stream| Stream::Tls(Box::new(stream)))))
            }
            other => Ok(Some(other)),
        }
    }
}

/// How clients of a listener connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    /// A unix socket, whose file says who may.
    Unix,
    /// TCP on a loopback address.
    Tcp,
    /// TCP with TLS.
    Tls,
}

/// A listening socket.
#[derive(Debug)]
enum Socket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    /// Listens on `address`, on the socket that was passed for it, or else on a new one.
    pub(super) async fn open(
        address: &Address,
        gid: u32,
        tls: Option<ListenerTls>,
        inherited: &mut Inherited,
    ) -> Result<Self, ListenError> {
        match inherited.for_door(address)? {
            Some(listener) => listener.with(tls),
            None => Self::bind(address, gid, tls).await,
        }
    }

    /// Adds TLS, without which other machines must not reach it.
    fn with(self, tls: Option<ListenerTls>) -> Result<Self, ListenError> {
        if tls.is_none()
            && let Socket::Tcp(socket) = &self.socket
            && let Ok(found) = socket.local_addr()
            && !found.ip().is_loopback()
        {
            return Err(ListenError::NotLoopback { address: self.address, found });
        }
        Ok(Self { tls, ..self })
    }

    /// How its clients connect.
    pub(super) fn transport(&self) -> Transport {
        match (&self.socket, &self.tls) {
            (Socket::Unix(_), _) => Transport::Unix,
            (Socket::Tcp(_), None) => Transport::Tcp,
            (Socket::Tcp(_), Some(_)) => Transport::Tls,
        }
    }

    /// The TLS of its connections.
    pub(super) fn tls(&self) -> Option<ListenerTls> {
        self.tls.clone()
    }

    /// Listens on `address` with a new socket; a unix socket belongs to group `gid`.
    pub(super) async fn bind(address: &Address, gid: u32, tls: Option<ListenerTls>) -> Result<Self, ListenError> {
        match address {
            Address::Unix(path) => {
                let (socket, claim) = unix::bind(path, gid).await?;
                let (socket, address) = (Socket::Unix(socket), address.clone());
                Ok(Self { claim: Some(claim), socket, address, is_own: true, tls: None })
            }
            Address::Tcp { host, port } => {
                let (socket, port) = tcp(address, host, *port, tls.is_some()).await?;
                let address = Address::Tcp { host: host.clone(), port };
                Ok(Self { claim: None, socket: Socket::Tcp(socket), address, is_own: true, tls })
            }
        }
    }

    /// The address it listens on: as configured, with the port that the system chose in place of 0.
    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// Waits for a connection.
    pub(super) async fn accept(&self) -> io::Result<Connection<Stream>> {
        match &self.socket {
            Socket::Unix(socket) => stream::unix(socket.accept().await?.0),
            Socket::Tcp(socket) => stream::tcp(socket.accept().await?.0),
        }
    }

    /// Removes the name, so that no client can connect any more, and returns the connections in the queue.
    pub(super) fn close(self) -> QueuedConnections {
        // The claim is dropped first: a socket without a name gets no new connections.
        drop(self.claim);
        QueuedConnections(self.is_own.then_some(self.socket))
    }
}

/// The connections in the queue of a socket that is being closed.
#[derive(Debug)]
pub(super) struct QueuedConnections(Option<Socket>);

impl Iterator for QueuedConnections {
    type Item = io::Result<Connection<Stream>>;

    /// Accepts without waiting, and not through the runtime, which may not know yet that the socket is readable.
    fn next(&mut self) -> Option<Self::Item> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let accepted = match self.0.as_ref()? {
            Socket::Unix(socket) => {
                accept_with(socket, flags).map(|stream| UnixStream::from_std(stream.into()).and_then(stream::unix))
            }
            Socket::Tcp(socket) => {
                accept_with(socket, flags).map(|stream| TcpStream::from_std(stream.into()).and_then(stream::tcp))
            }
        };
        match accepted {
            Ok(stream) => Some(stream),
            Err(Errno::WOULDBLOCK) => None,
            Err(error) => Some(Err(error.into())),
        }
    }
}

/// Binds a TCP socket. A name such as `localhost` is not trusted: without TLS, every address it resolves to must be loopback.
async fn tcp(address: &Address, host: &str, port: u16, has_tls: bool) -> Result<(TcpListener, u16), ListenError> {
    let fail = |action: &str| {
        let (address, action) = (address.clone(), action.to_owned());
        move |source| ListenError::System { address, action, source }
    };
    let found: Vec<_> = lookup_host((host, port)).await.map_err(fail("resolve the name"))?.collect();
    if let Some(found) = found.iter().find(|found| !has_tls && !found.ip().is_loopback()) {
        return Err(ListenError::NotLoopback { address: address.clone(), found: *found });
    }
    let socket = TcpListener::bind(found.as_slice()).await.map_err(fail("bind"))?;
    let port = socket.local_addr().map_err(fail("ask for the port"))?.port();
    Ok((socket, port))
}

#[cfg(test)]
mod tests;
