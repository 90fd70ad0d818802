//! The messages and stubs of `linkspan.cache.v1`, generated from `proto/` (see `tests/proto`).

#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::all,
    rustdoc::all,
    reason = "generated; what the definition says of each element is here as its documentation"
)]
mod generated {
    include!("gen/linkspan.cache.v1.rs");
}

pub use generated::*;

/// The definitions of what is served, for reflection.
pub(crate) const DESCRIPTORS: &[u8] = include_bytes!("gen/descriptors.bin");
