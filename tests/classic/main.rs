//! Exports into docker's classic store, on a real dockerd that has one.
//!
//! Between Linkspan and dockerd is a relay that counts, and between the builder and Linkspan a proxy that sees what
//! is read: an export is as good as what it does not move.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "tests state what they expect by failing loudly"
)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../fault_injection/mod.rs"]
mod fault_injection;

mod builds;
mod failures;
mod images;
mod proxied;
#[allow(dead_code, reason = "shared with the tests of the engine `docker-api`, which use more of it")]
mod relay;

use fault_injection::proxy;
