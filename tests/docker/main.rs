//! The docker door: what a user of Docker sees through Linkspan is what he sees without it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    unreachable_pub,
    missing_debug_implementations,
    reason = "tests state what they expect by failing loudly, and nobody uses them as a library"
)]

#[path = "../common/mod.rs"]
mod common;

mod load;
