//! The export transaction: `open -> planned -> transferring -> ready -> committed`, or `aborted`.
//!
//! [`Exports`] runs them. It knows no transport and no engine by name: bytes come from a
//! [`Source`](crate::source::Source) and land in an [`Engine`](crate::engine::Engine).
//! Everything before the commit is invisible; an export that fails, is cancelled or whose
//! caller goes away is aborted and leaves neither ingests nor a lease.
//!
//! ```no_run
//! # async fn load() -> Result<(), Box<dyn std::error::Error>> {
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use linkspan::engine::{Origin, select};
//! use linkspan::export::{Exports, Request, unique_id};
//! use linkspan::progress::Events;
//! use linkspan::source::archive::{Archive, ManifestFormat};
//!
//! let archive = Archive::open(Path::new("image.tar"), ManifestFormat::Docker, None).await?;
//! let root = archive.images()[0].root.clone();
//! let exports = Exports::new(select::select(&select::Selection::default()).await?.engine);
//! let origin = Origin::internal(unique_id(), "program", "image.tar");
//! let request = Request::new(root, vec!["demo:1".parse()?], origin);
//! let outcome = exports.run(request, Arc::new(archive), Events::none()).await?;
//! println!("sent {} blobs", outcome.sent_blobs);
//! exports.finish().await;
//! # Ok(())
//! # }
//! ```

mod cancelled;
mod copy_blob;
mod counted;
mod error;
mod fetch;
mod id;
mod leases;
mod live;
mod name_locks;
mod pinned_blobs;
mod policy;
mod recover;
mod report;
mod request;
pub mod response;
mod rights;
mod run;
mod shared;
mod single_flight;
mod state_machine;
mod tally;
mod transaction;
mod transfer;

pub use error::ExportError;
pub use id::unique_id;
pub use live::{HELD, Listed, LiveExport, LiveExports, Progress};
pub use name_locks::HeldNames;
pub(crate) use pinned_blobs::PinnedBlobs;
pub use policy::NamePolicy;
pub(crate) use policy::check_digests;
pub use request::{Outcome, Request};
pub use rights::{AccessRule, Right, Rights};
pub use run::Exports;
