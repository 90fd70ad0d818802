//! The engine over a bucket: by the commands and the doors, beside a registry that has the same bucket as its storage, and behind
//! a store that fails.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests state what they expect by failing loudly")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../engine/fixture.rs"]
#[allow(dead_code, reason = "made for the tests of engines")]
mod fixture;

#[path = "../registry/http.rs"]
#[allow(dead_code, reason = "made for the tests of the registry door")]
mod http;

mod azure;
mod broken;
mod caches;
mod collect;
mod collect_killed;
mod commands;
mod costs;
mod doors;
mod faults;
mod faulty;
mod killed;
mod names;
mod on_s3s;
mod publish;
mod redirects;
mod registries;
mod s3s;
mod side_by_side;
mod uploads;
