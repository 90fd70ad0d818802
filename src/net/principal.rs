//! The identity of a client.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use tokio::net::unix::UCred;

/// The identity of an export's client, for the name policy, logs and `linkspan ps`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Principal {
    /// No client: this process itself, such as a command or a program that embeds the library.
    Internal,
    /// A process of this machine, as the kernel knows it (unix(7), `SO_PEERCRED`).
    Unix {
        /// Its effective user when it connected.
        uid: u32,
        /// Its effective group when it connected.
        gid: u32,
        /// Its process id, unless it runs in a pid namespace that this process cannot see.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<i32>,
    },
    /// A client of a TCP listener, which any program of this machine can reach: its identity is not verified.
    Anonymous {
        /// The client's end of the connection.
        address: SocketAddr,
    },
    /// The name in a client's certificate, which the listener's authority has signed.
    Certificate {
        /// Its first alternative name (DNS, URI or mail address), else its common name.
        subject: String,
    },
    /// A user of the password file.
    User {
        /// The name.
        name: String,
    },
}

impl Principal {
    /// The part that stays valid after the connection has ended: another client may reuse the process id and the port.
    pub fn beyond_its_connection(&self) -> Self {
        match self {
            Self::Unix { uid, gid, .. } => Self::Unix { uid: *uid, gid: *gid, pid: None },
            Self::Anonymous { address } => Self::Anonymous { address: SocketAddr::new(address.ip(), 0) },
            Self::Internal | Self::Certificate { .. } | Self::User { .. } => self.clone(),
        }
    }
}

impl From<UCred> for Principal {
    fn from(process: UCred) -> Self {
        Self::Unix { uid: process.uid(), gid: process.gid(), pid: process.pid().filter(|pid| *pid != 0) }
    }
}

impl From<SocketAddr> for Principal {
    fn from(address: SocketAddr) -> Self {
        Self::Anonymous { address }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Internal => f.write_str("linkspan"),
            Self::Unix { uid, gid, pid: Some(pid) } => write!(f, "uid {uid}, gid {gid}, pid {pid}"),
            Self::Unix { uid, gid, pid: None } => write!(f, "uid {uid}, gid {gid}"),
            // The connection has ended, or is one of several.
            Self::Anonymous { address } if address.port() == 0 => write!(f, "anonymous at {}", address.ip()),
            Self::Anonymous { address } => write!(f, "anonymous at {address}"),
            Self::Certificate { subject } => write!(f, "certificate {subject}"),
            Self::User { name } => write!(f, "user {name}"),
        }
    }
}
