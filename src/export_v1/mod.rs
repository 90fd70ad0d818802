//! The contract of the exporter API, `linkspan.export.v1`, as its server and its clients share it: messages and stubs, their
//! conversions, limits and errors. `proto/README.md` is its specification.
//!
//! ```no_run
//! # async fn print_engine() -> Result<(), Box<dyn std::error::Error>> {
//! use linkspan::export_v1::proto::{CapabilitiesRequest, exports_client::ExportsClient};
//!
//! let channel = tonic::transport::Endpoint::from_static("http://localhost:1234").connect().await?;
//! let response = ExportsClient::new(channel).capabilities(CapabilitiesRequest::default()).await?;
//! println!("{:?}", response.into_inner().engine);
//! # Ok(())
//! # }
//! ```

pub(crate) mod convert;
mod error;
pub(crate) mod limits;
mod message;
pub mod proto;
mod state;

use std::pin::Pin;

use futures_util::Stream;
use tonic::Status;

pub(crate) use error::ApiError;
pub(crate) use state::check_alive;

/// The responses of a streaming call.
pub(crate) type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
