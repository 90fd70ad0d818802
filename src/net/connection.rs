//! An accepted connection.

use super::Principal;

/// A client connection: its byte stream, and the client's identity.
#[derive(Debug)]
pub struct Connection<S> {
    /// The byte stream.
    pub io: S,
    /// The client.
    pub peer: Principal,
}

impl<S> Connection<S> {
    /// The connection with its stream replaced by `with(io)`, and the same client.
    pub fn map<T>(self, with: impl FnOnce(S) -> T) -> Connection<T> {
        Connection { io: with(self.io), peer: self.peer }
    }
}
