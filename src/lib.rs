//! Linkspan: a direct-ingest export target for container engines.
//!
//! Data flows one way: a [`door`] hands an [`export`] a [`source`], and the export
//! moves what is missing into an [`engine`]. [`image`] is the pure model that all
//! of them share, [`progress`] the events that any door can show. [`config`] says what
//! a process is to do, [`daemon`] puts the parts together, [`doctor`] looks at what they
//! would meet, [`setup`] sends existing builders ([`buildx`]'s) through a door, and [`cli`]
//! is how people ask for any of it.

pub mod buildx;
pub mod cli;
mod compression;
pub mod config;
pub mod daemon;
mod docker_api;
pub mod doctor;
pub mod door;
pub mod engine;
pub mod export;
pub mod export_v1;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod http1;
pub mod http2;
pub mod image;
pub mod net;
pub mod output;
pub mod progress;
pub mod registry;
pub mod running;
pub mod setup;
pub mod source;
pub mod status;
mod tar;
pub mod telemetry;
pub mod tunnel;
