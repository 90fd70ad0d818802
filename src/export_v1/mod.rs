//! The contract of the exporter API, `linkspan.export.v1`, as its server and its clients share it: messages and stubs, their
//! conversions, limits and errors. `proto/README.md` is its specification.

pub(crate) mod convert;
mod error;
pub(crate) mod limits;
mod message;
pub mod proto;

pub(crate) use error::ApiError;
