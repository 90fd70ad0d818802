//! Fault injection: what clients report and what is left in the engine when something breaks.
//!
//! Everything is real, buildx, Linkspan, builder and engine, except for a proxy that a test
//! puts in front of the builder or the engine to make the fault happen at a certain point, not
//! at a certain time. After every fault: the client knows what happened, no image is half
//! there, nothing is lost, no lease or ingest is left, and the next export succeeds.

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

mod blobs;
mod caches;
mod cancel;
mod collect;
mod daemons;
mod disk;
mod engine;
mod kills;
mod load;
mod moved;
mod proxied;
mod prune;
mod ps;
mod stopped;
mod traced;
mod verify_store;

use fault_injection::proxy;
