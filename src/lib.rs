//! Linkspan: a direct-ingest export target for container engines.
//!
//! An [`export`] reads an image from a [`source`] and sends an [`engine`] the blobs that it lacks. [`image`] is the model
//! that all of them share, and [`progress`] has the events that an export emits. [`output`] turns an image into archives and
//! folders, [`registry`] copies it from and to registries, and [`export_v1`] is the contract of the exporter API, for clients
//! of a daemon. [`caches`] keeps BuildKit's build caches in an engine.
//!
//! The other modules make up the program `linkspan`. They are public for it and its tests, and are no interface.

#[macro_use]
mod forward;

#[doc(hidden)]
pub mod api_server;
#[doc(hidden)]
pub mod build_outputs;
#[doc(hidden)]
pub mod buildx;
mod byte_range;
mod byte_size;
pub mod cache_v1;
pub mod caches;
#[doc(hidden)]
pub mod cli;
mod compression;
#[doc(hidden)]
pub mod config;
mod content_server;
#[doc(hidden)]
pub mod daemon;
mod docker_api;
#[doc(hidden)]
pub mod doctor;
#[doc(hidden)]
pub mod door;
pub mod engine;
pub mod export;
pub mod export_v1;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
#[doc(hidden)]
pub mod http1;
#[doc(hidden)]
pub mod http2;
pub mod image;
pub mod net;
pub mod output;
#[doc(hidden)]
pub mod passwords;
mod pattern;
pub mod progress;
pub mod publish;
pub mod registry;
mod reload;
#[doc(hidden)]
pub mod running;
#[doc(hidden)]
pub mod setup;
pub mod source;
#[doc(hidden)]
pub mod status;
mod tar;
#[doc(hidden)]
pub mod telemetry;
#[cfg(test)]
mod test_thread;
#[doc(hidden)]
pub mod tunnel;
