//! The pure image model: names, digests, documents and the graph they form.
//!
//! Nothing here does I/O, and nothing here trusts what it reads: every size, depth and
//! count is bounded by [`Limits`], bytes are checked against the [`Descriptor`] that named
//! them, and what two programs could read in two ways is refused ([`DocumentError`]).
//!
//! The way through: a [`Reference`] says what an image is called. A [`Walk`] starts at the
//! descriptor of its root, lists which [`Document`]s are pending, is handed their bytes and ends
//! in a [`Graph`], which lists every blob once and picks the image for a [`Platform`].
//!
//! ```
//! use linkspan::image::{Descriptor, Digest, Limits, Walk};
//!
//! let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
//! let manifest = format!(
//!     r#"{{"schemaVersion":2,"config":{{"mediaType":"{}","digest":"{}","size":{}}},"layers":[]}}"#,
//!     "application/vnd.oci.image.config.v1+json",
//!     Digest::sha256(config),
//!     config.len(),
//! );
//! let root = Descriptor::new(
//!     "application/vnd.oci.image.manifest.v1+json",
//!     Digest::sha256(manifest.as_bytes()),
//!     manifest.len() as u64,
//! );
//!
//! let mut walk = Walk::new(root, Limits::default())?;
//! while let Some(pending) = walk.pending().first().cloned() {
//!     let bytes = if pending.digest == walk.root().digest { manifest.clone().into() } else { config.to_vec().into() };
//!     walk.supply(&pending.digest, bytes)?;
//! }
//! assert_eq!(walk.finish()?.documents().len(), 2);
//! # Ok::<(), linkspan::image::GraphError>(())
//! ```

pub mod cache;
mod descriptor;
mod digest;
mod document;
#[cfg(test)]
mod fixture;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod graph;
mod json;
pub mod layout;
mod limits;
mod media_type;
mod platform;
mod reference;

pub use descriptor::{Descriptor, UNCOMPRESSED};
pub use digest::{Algorithm, Digest, DigestError, Hasher};
pub use document::{Config, Document, DocumentError, Index, Manifest, RootFs, View, index_of, media_type_of};
pub use graph::{Graph, GraphError, PlatformImage, Walk};
pub use layout::{IMAGE_NAME, REF_NAME, SUBJECT};
pub use limits::Limits;
pub use media_type::Kind;
pub use platform::{Platform, PlatformError};
pub use reference::{Reference, ReferenceError};
