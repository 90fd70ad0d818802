//! The messages and stubs of `linkspan.export.v1`, generated from `proto/` (see `tests/proto`).

#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::all,
    rustdoc::all,
    reason = "generated; what the definition says of each element is here as its documentation"
)]
mod generated {
    include!("gen/linkspan.export.v1.rs");
}

#[allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::all, rustdoc::all, reason = "generated")]
mod content {
    include!("gen/containerd.services.content.v1.rs");
}

pub use super::message::WriteContentRequest;
pub use generated::*;

pub(crate) use content::content_server;

/// The definitions of everything that is served, for reflection.
pub(crate) const DESCRIPTORS: &[u8] = include_bytes!("gen/descriptors.bin");
