//! Transparent pass-through between a client and an upstream. Knows nothing of images.
//!
//! A [`serve`]d connection is HTTP/2 with prior knowledge, as gRPC speaks it on plain
//! sockets. Every request goes to a handler, which may answer itself or hand it on with
//! [`Connection::forward`]; headers, trailers, resets and half-closes then pass as they are.
//!
//! [`http1`] relays HTTP/1.1 (and what it is upgraded to) byte by byte.

mod address;
mod alert;
mod authority;
mod body;
mod check;
mod dial;
mod drain;
mod ended;
pub mod http1;
mod http2;
mod link;
mod upstream;

pub use address::{Address, AddressError};
pub use authority::Lenient;
pub use body::{Body, BodyError, full, with_trailers};
pub use dial::{Dial, DialError};
pub use drain::{Drain, IDLE, Mark, Metered};
pub use ended::Cut;
pub use http2::{Connection, MAX_MESSAGE_BYTES, ProxyError, serve};
pub use link::{Calls, Held, Link, Sharing};
pub(crate) use upstream::enlarge;
pub use upstream::{Stream, Tls, Upstream, UpstreamError};
