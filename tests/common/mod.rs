//! What the integration tests share: a real stack, the real clients, and the
//! real `linkspan` binary between them.
//!
//! [`Stack`] runs `scripts/stack` in a state folder of its own, so every test
//! binary has its own daemons and a test that kills one can have its own too
//! (a stack takes under a second to start). A machine that lacks something
//! fails the test with the words of `scripts/stack`, which name the remedy.
//! Only the builders and clients that `scripts/stack install --old` brings may be missing:
//! their tests say on standard error that they did not run.
#![allow(
    dead_code,
    unused_imports,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "each test binary uses its own part of this, and tests state what they expect by failing loudly"
)]

mod api_server;
pub(crate) mod both_ways;
mod builder;
mod buildkitd;
pub(crate) mod certificates;
mod command;
mod contents;
mod context;
mod disk;
mod leased;
mod minio;
mod namespaces;
mod parts;
mod relay;
mod run;
mod secure_dockerd;
mod serve;
mod sshd;
mod stack;
mod stack_images;
mod tar;
mod wait;

pub(crate) use api_server::{ApiServer, channel};
pub(crate) use builder::{Builder, cached_steps};
pub(crate) use buildkitd::Buildkitd;
pub(crate) use command::linkspan;
pub(crate) use contents::full_name;
pub(crate) use context::{Context, file_of, text};
pub(crate) use disk::Disk;
pub(crate) use minio::{Bucket, BucketRegistry, Minio, PASSWORD, USER, refusal};
pub(crate) use parts::{Part, alive};
pub(crate) use relay::{pass, read_some, relay};
pub(crate) use run::{Output, Run, Running};
pub(crate) use secure_dockerd::SecureDockerd;
pub(crate) use serve::{Linkspan, unix};
pub(crate) use sshd::Sshd;
pub(crate) use stack::{Stack, test_folder};
pub(crate) use stack_images::BUILDER_IMAGE;
pub(crate) use tar::{Tar, blob_name, entry};
pub(crate) use wait::{until, until_called, until_every};
