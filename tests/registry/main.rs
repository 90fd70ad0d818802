//! The registry door: by raw requests, and by the clients that people use, on every engine that has one.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests state what they expect by failing loudly")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../engine/fixture.rs"]
#[allow(dead_code, reason = "made for the tests of engines")]
mod fixture;

mod artifacts;
mod attacks;
mod clients;
mod concurrent;
mod conformance;
mod documents;
mod guard;
mod http;
mod interrupted;
mod kept;
mod leases;
mod limits;
mod listed;
mod lists;
mod messages;
mod mirror;
mod optional_clients;
mod pressure;
mod push_clients;
mod pushes;
mod reads;
mod rights;
mod secure;
mod served;
mod traffic;
mod uploads;
mod users;
