//! The export transaction: `open -> planned -> transferring -> ready -> committed`, or `aborted`.
//!
//! [`Exports`] runs them. It knows no transport and no engine by name: bytes come from a
//! [`Source`](crate::source::Source) and land in an [`Engine`](crate::engine::Engine).
//! Everything before the commit is invisible; an export that fails, is cancelled or whose
//! caller goes away is aborted and leaves neither ingests nor a lease.

mod copy_blob;
mod error;
mod id;
mod live;
mod policy;
mod report;
pub mod response;
mod run;
mod single_flight;
mod state_machine;
mod transaction;
mod transfer;

pub use error::ExportError;
pub use id::unique_id;
pub use live::{Listed, LiveExport, LiveExports};
pub use policy::NamePolicy;
pub(crate) use policy::check_digests;
pub use run::{Exports, Outcome, Request};
