//! The network namespace of a builder.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;

use rustix::process::Pid;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::super::super::process::BuilderProcess;

/// A network namespace, kept by its open file.
#[derive(Debug)]
pub(super) struct Namespace {
    file: File,
    /// The device and the inode, which distinguish namespaces (namespaces(7)).
    identity: (u64, u64),
}

impl PartialEq for Namespace {
    fn eq(&self, other: &Self) -> bool {
        self.identity == other.identity
    }
}

impl Namespace {
    /// That of the builder which `process` is, or has started.
    ///
    /// # Errors
    /// When that is not certain.
    pub(super) fn of_builder(process: Pid) -> io::Result<Self> {
        let file = BuilderProcess::find(process)?.open("ns/net")?;
        let metadata = file.metadata()?;
        Ok(Self { file, identity: (metadata.dev(), metadata.ino()) })
    }

    /// Listens on its loopback.
    pub(super) async fn listen(&self) -> io::Result<tokio::net::TcpListener> {
        let file = self.file.try_clone()?;
        // A namespace belongs to a thread, so one enters it that ends then; the socket stays where it was made.
        let thread = std::thread::Builder::new().name("namespace".to_owned());
        let (sender, opened) = tokio::sync::oneshot::channel();
        thread.spawn(move || {
            let listen = || {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            };
            // Nobody waits any more if the build has ended.
            let _ = sender.send(listen());
        })?;
        let listener = opened.await.map_err(io::Error::other)??;
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener)
    }
}
