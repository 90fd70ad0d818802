//! The exporter API through its door, on real engines.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    dead_code,
    reason = "tests state what they expect by failing loudly; the fixtures are shared with other tests"
)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../engine/fixture.rs"]
mod fixture;

mod archives;
mod client;
mod containerd;
mod content;
mod durable;
mod files;
mod go;
mod layer_features;
mod layout;
mod listing;
mod mountable;
mod output_dest;
mod policy;
mod python;
mod references;
mod refusals;
mod server;
mod service;
mod transaction;
