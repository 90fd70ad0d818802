//! The identity of a call's client.

use tonic::{Request, Status};

use crate::net::Principal;

/// The principal of the connection that a call came over.
///
/// # Errors
/// When the request came over no connection of the server: a client without an identity is not served.
pub(crate) fn client<T>(request: &Request<T>) -> Result<Principal, Status> {
    // tonic adds it to every request, from `Connected::connect_info` of the stream.
    request.extensions().get().cloned().ok_or_else(|| Status::internal("the connection of the call has no peer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_without_a_peer_has_no_identity() {
        let mut request = Request::new(());
        assert_eq!(client(&request).unwrap_err().code(), tonic::Code::Internal);
        let peer = Principal::Unix { uid: 1000, gid: 1000, pid: Some(7) };
        request.extensions_mut().insert(peer.clone());
        assert_eq!(client(&request).unwrap(), peer);
    }
}
