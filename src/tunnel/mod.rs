//! A byte stream to a process in a container: `docker exec` of a program that speaks HTTP/2 on standard input and
//! output. Independent of images.
//!
//! Input is raw; output comes in frames that separate standard output from standard error ([`stdcopy`]). [`Output`]
//! demultiplexes them and [`Client`] multiplexes them again, so that a proxy can run between the two; [`sniff`] detects
//! whether the ends speak HTTP/2. [`ExecDial`] starts such a process.

mod client;
mod exec;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod output;
pub mod sniff;
pub mod stdcopy;

pub use client::Client;
pub use exec::{Container, ContainerCommand, ContainerError, ExecDial};
pub use output::{Errors, MAX_ERRORS_WAITING, Output};
