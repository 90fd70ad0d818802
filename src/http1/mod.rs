//! An HTTP/1 relay that forwards messages byte for byte.
//!
//! An HTTP library on both sides would parse and re-encode every message: other case in header names, other chunks,
//! `100 Continue` at another time, no half-close, and no support for connections that become byte streams without an
//! upgrade. This relay parses only what it needs to find the ends of messages, and forwards their bytes unchanged and
//! at once.
//!
//! ```text
//! ClientConnection::new ─► next() ─► Exchange ──┬─ pass(), watch() ───► Some(ClientConnection): next(), … or None
//!                     │                   ├─ upgrade() ─────────► Switched: two byte streams, or as pass()
//!                     ├► None: the end    ├─ respond(), take() ─► PrefixedIo: the client's byte stream
//!                     └► incoming(): HTTP/2   └─ reject(), finish()
//! ```
//!
//! * Each client connection has one upstream connection, opened at its first request. Requests are relayed one at a
//!   time. Bytes that a client sends ahead are buffered; from 128 KiB on, the rest stays in the socket.
//! * A request whose end is ambiguous is rejected (RFC 9112, section 11.2, "request smuggling"): 400, 431, 501 or 505,
//!   with `{"message":"linkspan: …"}`, the form of Docker's errors. All other errors are left to the upstream.
//! * If the upstream cannot be reached, the client gets a 503 in the same form. If the upstream closes its connection,
//!   the client's is closed.
//! * A client's half-close during a response is forwarded to the upstream as a half-close.
//! * After a 101, or when only the end of the connection ends a response, the connection is two byte streams: bytes
//!   sent early are delivered, and each direction ends independently.
//! * A connection that begins with HTTP/2's preface is forwarded as a whole, or returned to the caller (`incoming()`).
//! * A drain closes a connection on which no request comes for a moment; an exchange under way continues. No response can say
//!   that it is the last one, for they pass as they are: a client that asks one thing after another is served for two seconds more.

mod body;
mod buffer;
mod buffered;
mod connection;
mod error;
mod exchange;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod head;
mod incoming;
mod own_response;
mod relay;
mod splice;

pub use body::BrokenChunk;
pub use buffered::PrefixedIo;
pub use connection::ClientConnection;
pub use error::RelayError;
pub use exchange::{Exchange, Switched, Upgrade};
pub use head::{BadHead, HEAD_BYTES, Headers, RequestHead, ResponseHead};
pub use incoming::Incoming;
pub(crate) use own_response::linger_on;
pub use relay::TappedExchange;
pub use splice::join;

#[cfg(test)]
mod tests;
