//! The Linkspans that run on this machine, found by asking the sockets at which they may be.
//!
//! A socket that accepts connections proves nothing: dockerd, a builder or an earlier program may be behind it. So each is
//! asked what it belongs to ([`crate::status`]); whoever says so is a Linkspan, and names its other doors.

mod ask;
mod places;
mod units;

use futures_util::future::join_all;

use crate::net::Address;
use crate::status::{Kind, Status};

pub use ask::{Answer, First, ask};
pub use places::Places;

/// The most sockets that are asked; nobody has this many.
const MAX_SOCKETS: usize = 256;

/// A socket, and what was heard there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// Where it is.
    pub address: Address,
    /// What was heard.
    pub answer: Answer,
}

impl Socket {
    /// What the Linkspan behind it says, if one is.
    pub fn status(&self) -> Option<&Status> {
        match &self.answer {
            Answer::Linkspan(status) => Some(status),
            _ => None,
        }
    }
}

/// Asks all of `addresses`, each once, and then the doors that were named in the answers. Takes a few seconds at most.
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

/// Asks those of `addresses` that are not among `sockets`, and adds them.
async fn all(addresses: Vec<(Address, First)>, sockets: &mut Vec<Socket>) {
    let mut new: Vec<(Address, First)> = Vec::new();
    for (address, first) in addresses {
        let is_known =
            sockets.iter().any(|socket| socket.address == address) || new.iter().any(|(other, _)| *other == address);
        if !is_known && address.is_local() && sockets.len() + new.len() < MAX_SOCKETS {
            new.push((address, first));
        }
    }
    let asked = new.into_iter().map(async |(address, first)| {
        let answer = ask(&address, first).await;
        Socket { address, answer }
    });
    sockets.extend(join_all(asked).await);
}
