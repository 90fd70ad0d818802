//! Linkspan: a direct-ingest export target for container engines.
//!
//! An [`export`] reads an image from a [`source`] and sends an [`engine`] the blobs that it lacks. The image is visible there when it
//! is complete. [`image`] is the model that all of them share, and [`progress`] has the events that an export emits. [`output`] turns an
//! image into archives and folders, [`registry`] copies it from and to registries, and [`caches`] keeps BuildKit's build caches in an
//! engine. The APIs of a daemon are [`export_v1`] and [`cache_v1`]; [`door`] has them as services.
//!
//! # As a dependency
//!
//! It is in no registry: the path is that of a checkout, or its `git`. `default-features = false` leaves out the program.
//!
//! ```toml
//! [dependencies]
//! linkspan = { path = "../linkspan", default-features = false }
//! tokio = { version = "1", features = ["macros", "rt-multi-thread"] }
//! ```
//!
//! `protoc` must be on PATH, or named by `PROTOC`: crates that this one stands on generate containerd's API when they are built.
//!
//! # An image layout, exported into an engine
//!
//! An engine is chosen by a [`Selection`](engine::select::Selection). What it holds can be read, too, so that it is also where an
//! export reads from.
//!
//! ```no_run
#![doc = include_str!("../tests/embed/layout.rs")]
//! ```
//!
//! # The exporter API in your own server
//!
//! A door is a service that is given its exports. This one is `linkspan.export.v1`, with containerd's Content service in the scope of
//! each export; [`door::cache_api`] is the one for caches, and can be another part of the same routes.
//!
//! ```no_run
#![doc = include_str!("../tests/embed/serve.rs")]
//! ```
//!
//! # A copy from a registry
//!
//! Any [`Source`](source::Source) will do: an archive ([`source::archive`]), a registry, a builder's store
//! ([`source::BuildkitContent`]), another engine, or one of your own, which is one method.
//!
//! ```no_run
#![cfg_attr(feature = "registry", doc = include_str!("../tests/embed/copy.rs"))]
//! ```
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | `registry` | [`registry`]: copies from and to registries |
//! | `object` | the engine `object`, buckets of S3, Google and Azure, and [`publish`]; with it `registry` |
//! | `cli`, by default | the program `linkspan`, with `object`; a library needs none of it: `default-features = false` |
//!
//! Modules that are not listed here make up the program. They are public for it and its tests, and are no interface.

#![cfg_attr(
    not(feature = "cli"),
    allow(dead_code, unused_imports, reason = "what only the program uses is looked for where the program is built")
)]

#[macro_use]
mod forward;

#[doc(hidden)]
pub mod activity;
pub mod api_server;
#[doc(hidden)]
pub mod build_outputs;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod buildx;
mod byte_range;
mod byte_size;
pub mod cache_v1;
pub mod caches;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
mod compression;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod config;
mod content_server;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod daemon;
mod docker_api;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod doctor;
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
mod http_server;
pub mod image;
#[cfg(feature = "cli")]
mod metrics;
pub mod net;
pub mod output;
#[doc(hidden)]
pub mod passwords;
mod pattern;
mod pem;
mod plain_file;
pub mod progress;
#[cfg(feature = "object")]
pub mod publish;
#[cfg(feature = "registry")]
pub mod registry;
mod reload;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod running;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod setup;
pub mod source;
#[doc(hidden)]
pub mod status;
mod tar;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod telemetry;
#[cfg(test)]
mod test_thread;
mod trace_context;
#[doc(hidden)]
pub mod tunnel;
