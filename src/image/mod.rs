//! The pure image model: names, digests, documents and the graph they form.
//!
//! Nothing here does I/O; sizes, depths and counts are bounded by [`Limits`].

mod descriptor;
mod digest;
mod document;
mod graph;
mod media_type;
mod platform;
mod reference;

pub use descriptor::Descriptor;
pub use digest::{Algorithm, Digest, DigestError, Hasher};
pub use document::{Config, Document, DocumentError, Index, Manifest, View};
pub use graph::{Graph, GraphError, Limits, Walk};
pub use media_type::Kind;
pub use platform::Platform;
pub use reference::{Reference, ReferenceError};
