//! Finds the Linkspans that run on this machine, by probing the sockets at which they may listen.
//!
//! A socket that accepts connections may belong to dockerd, a builder or another program. So the status is requested from each
//! ([`crate::status`]), which also names the other doors of the same process.

mod folders;
mod known;
mod probe;
mod program;
mod units;

use futures_util::future::join_all;

use crate::net::Address;
use crate::status::{Kind, Status};

pub use folders::SearchFolders;
pub use known::known;
pub use probe::{First, Probe, probe, probe_with_tls};
pub use program::program;

/// The most sockets that are probed; no machine has this many.
const MAX_SOCKETS: usize = 256;

/// A socket, and what was found there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// Its address.
    pub address: Address,
    /// What was found.
    pub probe: Probe,
}

impl Socket {
    /// The status of the Linkspan behind it, if there is one.
    pub fn status(&self) -> Option<&Status> {
        match &self.probe {
            Probe::Linkspan(status) => Some(status),
            _ => None,
        }
    }
}

/// Probes each of `addresses`, then the other doors that the responses name. Takes a few seconds at most.
pub async fn find(addresses: Vec<(Address, First)>) -> Vec<Socket> {
    let mut sockets = Vec::new();
    all(addresses, &mut sockets).await;
    let named = sockets.iter().filter_map(Socket::status).flat_map(|status| &status.doors);
    let named = named.filter_map(|door| {
        let first = if door.kind == Kind::Docker { First::Http1 } else { First::Http2 };
        Some((door.address.parse().ok()?, first))
    });
    all(named.collect(), &mut sockets).await;
    sockets
}

/// Probes the `addresses` that are not yet among `sockets`, and adds them.
async fn all(addresses: Vec<(Address, First)>, sockets: &mut Vec<Socket>) {
    let mut new: Vec<(Address, First)> = Vec::new();
    for (address, first) in addresses {
        let is_known =
            sockets.iter().any(|socket| socket.address == address) || new.iter().any(|(other, _)| *other == address);
        if !is_known && address.is_local() && sockets.len() + new.len() < MAX_SOCKETS {
            new.push((address, first));
        }
    }
    let probes = new.into_iter().map(async |(address, first)| {
        let probe = probe(&address, first).await;
        Socket { address, probe }
    });
    sockets.extend(join_all(probes).await);
}
