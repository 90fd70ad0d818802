//! HTTP/1 relayed as the bytes it came in.
//!
//! An HTTP library on both sides would understand every message and write it anew: other letters in header names, other
//! chunks, `100 Continue` at another time, no half-close, and nothing for connections that become byte streams without
//! an upgrade. This relay parses only what it must to find where messages end, and forwards their bytes unchanged and at
//! once.
//!
//! ```text
//! ClientConnection::new ─► next() ─► Exchange ──┬─ pass(), watch() ───► Some(ClientConnection): next(), … or None
//!                     │                   ├─ upgrade() ─────────► Switched: two byte streams, or as pass()
//!                     ├► None: the end    ├─ answer(), take() ──► PrefixedIo: the client's byte stream
//!                     └► incoming(): HTTP/2   └─ reject(), finish()
//! ```
//!
//! * Each client's connection has one upstream connection, made at its first request. Requests go one after another.
//!   Bytes that a client sends ahead wait, 64 KiB of them at most; once that is full the socket has the rest.
//! * What is ambiguous about where a request ends is refused (RFC 9112, section 11.2, "request smuggling"): 400, 431,
//!   501 or 505, with `{"message":"linkspan: …"}` as Docker's errors have it. All other errors are left to the upstream.
//! * An upstream that cannot be reached is a 503 in the same form. One that ends its connection ends the client's.
//! * A client that closes its side during a response closes that side towards the upstream, too, and nothing else.
//! * After a 101, or when a response ends only with the connection, both ways are bytes: early ones are delivered, and
//!   each way ends by itself.
//! * A connection that begins with HTTP/2's preface is forwarded as a whole, or given to the caller (`incoming()`).
//! * A drain ends a connection before its next request; what is under way goes on, and one that has just come is served once.

mod body;
mod buffer;
mod buffered;
mod connection;
mod error;
mod exchange;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod head;
mod relay;
mod reply;

mod splice;

pub use body::BrokenChunk;
pub use buffered::PrefixedIo;
pub use connection::{ClientConnection, Incoming};
pub use error::RelayError;
pub use exchange::{Exchange, Switched, TappedExchange, Upgrade};
pub use head::{BadHead, HEAD_BYTES, Headers, RequestHead, ResponseHead};
pub(crate) use reply::linger_on;
pub use splice::join;

#[cfg(test)]
mod tests;
