//! Which process goes on with an export that another one has left behind: one of them, even if many find it at once.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

use crate::image::Digest;

/// The right to go on with an export. It ends with this, and with the process, however that ends.
#[derive(Debug)]
pub(super) struct Claim(
    /// Nobody connects to it: its name, which is in no file system, is what others cannot take (unix(7), abstract).
    #[expect(dead_code, reason = "it is kept open")]
    UnixListener,
);

impl Claim {
    /// Claims the export `id`; `None` if another process of this machine has.
    pub(super) fn take(id: &str) -> Option<Self> {
        // An id may be longer than a name.
        let name = format!("linkspan-export-{}", Digest::sha256(id.as_bytes()).hex());
        let listener = SocketAddr::from_abstract_name(name).and_then(|name| UnixListener::bind_addr(&name));
        match listener {
            Ok(listener) => Some(Self(listener)),
            Err(error) => {
                if error.kind() != io::ErrorKind::AddrInUse {
                    tracing::debug!(%error, export = id, "the export cannot be claimed, and is not resumed");
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_claims_an_export_until_it_ends() {
        let id = format!("claimed-{}", std::process::id());
        let claim = Claim::take(&id).unwrap();
        assert!(Claim::take(&id).is_none() && Claim::take("another").is_some());
        drop(claim);
        assert!(Claim::take(&id).is_some());
    }
}
