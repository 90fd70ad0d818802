//! The trace that work belongs to, on its way into this process and out of it (W3C Trace Context).
//!
//! Only this module and `telemetry` know OpenTelemetry. Without a collector all of it does nothing, and so it does in a library
//! without the program.

#[cfg(feature = "cli")]
mod collected;
mod command;
mod grpc;
#[cfg(feature = "cli")]
mod traceparent;
#[cfg(not(feature = "cli"))]
mod uncollected;

#[cfg(feature = "cli")]
pub(crate) use collected::{activate, fail, follow, follow_headers, inject, number};
#[cfg(feature = "cli")]
pub(crate) use command::begin;
pub(crate) use command::of_command;
pub(crate) use grpc::{about_export, answered, grpc_status};
#[cfg(not(feature = "cli"))]
pub(crate) use uncollected::{fail, follow, follow_headers, inject, number};
