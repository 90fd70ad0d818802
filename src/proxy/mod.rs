//! Transparent pass-through between a client and an upstream. Knows nothing of images.

mod address;
mod upstream;

pub use address::{Address, AddressError};
pub use upstream::{Tls, Upstream, UpstreamError};
