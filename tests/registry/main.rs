//! The registry door: by raw requests, and by the clients that people use, on every engine that has one.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests state what they expect by failing loudly")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../engine/fixture.rs"]
#[allow(dead_code, reason = "made for the tests of engines")]
mod fixture;

mod artifacts;
mod clients;
mod conformance;
mod guard;
mod http;
mod leases;
mod lists;
mod mirror;
mod push_clients;
mod pushes;
mod reads;
mod served;
mod uploads;
