//! The trace that work belongs to, on its way into this process and out of it (W3C Trace Context).
//!
//! Only this module and `telemetry` know OpenTelemetry. Without a collector all of it does nothing, and so it does in a library
//! without the program.

#[cfg(feature = "cli")]
mod collected;
#[cfg(not(feature = "cli"))]
mod uncollected;

#[cfg(feature = "cli")]
pub(crate) use collected::{activate, bytes, fail, follow, follow_headers, inject};
#[cfg(not(feature = "cli"))]
pub(crate) use uncollected::{bytes, fail, follow, follow_headers, inject};
