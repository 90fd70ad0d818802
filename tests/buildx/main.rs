//! Transparency: what a user of buildx sees through Linkspan is what he sees without it.
//!
//! Every test runs the same command twice on the real stack, once against the
//! builder itself and once through a door in front of it, and compares what
//! came out: exit codes, standard output, error texts, files, digests.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    unreachable_pub,
    missing_debug_implementations,
    reason = "tests state what they expect by failing loudly, and nobody uses them as a library"
)]

#[path = "../common/mod.rs"]
mod common;

mod attested;
mod bake;
mod both_ways;
mod caches;
mod compression;
mod explicit;
mod failures;
mod finalize;
mod from_engine;
mod images;
mod inputs;
mod interrupts;
mod lazy;
mod names;
mod observed;
mod output_store;
mod outputs;
mod partial_failures;
mod reach;
mod results;
mod sessions;
mod times;
