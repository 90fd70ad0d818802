//! Builders in containers: reached through a process in them, and used as any other.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    unreachable_pub,
    missing_debug_implementations,
    reason = "tests state what they expect by failing loudly, and nobody uses them as a library"
)]

#[path = "../common/mod.rs"]
mod common;

#[path = "../export/client.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod client;
#[path = "../engine/fixture.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod fixture;

mod address;
mod both_ways;
mod builds;
mod cluster;
mod execs;
mod idle;
