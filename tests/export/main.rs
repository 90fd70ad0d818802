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

mod adoption;
mod archives;
mod bad;
mod containerd;
mod content;
mod files;
mod go;
mod lasting;
mod layout;
mod left;
mod listing;
mod policy;
mod python;
mod references;
mod rig;
mod service;
mod transaction;
mod tricky;
