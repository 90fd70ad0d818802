//! A byte stream inside the streams of a container's process: `docker exec` of something that speaks HTTP/2 on its standard
//! input and output. Knows nothing of images.
//!
//! What the client writes is raw; what the process says comes in frames that tell its standard output from its standard
//! error ([`stdcopy`]). [`Output`] takes that apart and [`Client`] puts it together again, so that something can stand
//! between the two; [`sniff`] finds out whether it should. [`ExecDial`] starts such a process itself.

mod client;
mod exec;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod output;
pub mod sniff;
pub mod stdcopy;

pub use client::Client;
pub use exec::{Container, ContainerError, ExecDial};
pub use output::{Errors, MAX_ERRORS_WAITING, Output};
