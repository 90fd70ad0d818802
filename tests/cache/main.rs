//! Build caches in engines, beside containerd's and dockerd's own collectors and BuildKit's own folders.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests state what they expect by failing loudly")]

mod api;
mod builds;
mod client;
mod commands;
#[path = "../common/mod.rs"]
mod common;
mod copies;
mod fixture;
mod folders;
mod go;
mod holds;
mod hostile;
mod inline;
mod killed;
mod large_config;
mod lazy;
mod parallel;
mod put;
mod query;
mod quota;
mod remote;
mod resolve;
mod restart;
mod retired;
mod store;
mod versions;
mod watch;
