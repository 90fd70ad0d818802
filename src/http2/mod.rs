//! HTTP/2 between a client and an upstream, with limits as wide as those of gRPC's Go peers. Knows nothing of images.
//!
//! A [`serve`]d connection is HTTP/2 with prior knowledge, as gRPC speaks it on plain sockets. Every request goes to a
//! handler, which may respond itself or forward it with [`UpstreamConnection::forward`]; headers, trailers, resets and half-closes
//! then pass as they are.

mod authority;
mod body;
mod connection;
mod health;
mod pool;
mod service;

pub use authority::AuthorityRewriter;
pub use body::{Body, BodyError, full, until_end_of, with_trailers};
pub(crate) use connection::is_reset;
pub use connection::{MAX_MESSAGE_BYTES, ProxyError, UpstreamConnection, serve};
pub use pool::{Calls, ConnectionPool, ConnectionSharing, PooledConnection};
pub use service::BuilderService;
