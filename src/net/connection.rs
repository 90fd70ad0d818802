//! An accepted connection.

use super::Principal;

/// A client's connection: its byte stream, and who is at the other end of it.
#[derive(Debug)]
pub struct Connection<S> {
    /// The byte stream.
    pub io: S,
    /// The client.
    pub peer: Principal,
}

impl<S> Connection<S> {
    /// The same client, on a stream made of this one.
    pub fn map<T>(self, with: impl FnOnce(S) -> T) -> Connection<T> {
        Connection { io: with(self.io), peer: self.peer }
    }
}
