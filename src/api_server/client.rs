//! The identity of a call's client.

use crate::net::Principal;

/// The principal of the connection that a call came over.
pub(crate) fn client<T>(request: &tonic::Request<T>) -> Principal {
    // The server puts it there for every connection.
    request.extensions().get().cloned().unwrap_or_default()
}
