//! Builds with faults at certain points: a proxy in front of the builder, the images that are built, and what messages carry.
//!
//! Shared by the tests of engines with a containerd and of the classic store.
#![allow(dead_code, unused_imports, reason = "each test binary uses its own part of this")]

mod application;
mod layers;
mod messages;
mod proxied_builder;
pub(crate) mod proxy;

pub(crate) use application::{Application, application};
pub(crate) use layers::{
    doubled, flipped, hold_first, is_document, is_first_of_layer, is_second_of_layer, read_digest,
};
pub(crate) use proxied_builder::ProxiedBuilder;
