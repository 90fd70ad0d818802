//! Transparency: what a user of Docker sees through the docker door is what he sees without it.
//!
//! The commands are run twice on the real stack, once against dockerd's own socket and once through a door in front of
//! it, and what came out is compared: exit codes, standard output, error texts, files, digests. `raw` speaks to both
//! sockets itself, for what no client shows.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    unreachable_pub,
    missing_debug_implementations,
    reason = "tests state what they expect by failing loudly, and nobody uses them as a library"
)]

#[path = "../common/mod.rs"]
mod common;

mod both_ways;
mod builds;
mod containers;
mod copies;
mod disconnects;
mod images;
mod load;
mod raw;
mod remote;
mod ssh;
mod watching;
