//! Who calls.

use crate::net::Principal;

/// Who makes a call.
pub(crate) fn client<T>(request: &tonic::Request<T>) -> Principal {
    // The server puts it there for every connection.
    request.extensions().get().cloned().unwrap_or_default()
}
