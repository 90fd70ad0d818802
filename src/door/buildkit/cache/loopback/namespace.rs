//! The network namespace of a builder.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::process::Pid;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The program that reads what a build imports.
const PROGRAM: &[u8] = b"buildkitd";

/// A network namespace, kept by its open file.
#[derive(Debug)]
pub(super) struct Namespace {
    file: File,
    /// The device and the inode, which tell namespaces apart (namespaces(7)).
    identity: (u64, u64),
}

/// How many generations of processes are searched for the builder, and how many processes.
const GENERATIONS: usize = 3;
const MAX_PROCESSES: usize = 64;

/// The folder in `/proc` of the builder that `process` is or has started.
fn builder(process: Pid) -> io::Result<PathBuf> {
    let folder = |process: &str| Path::new("/proc").join(process);
    let mut generation = vec![process.as_raw_nonzero().to_string()];
    let mut first = None;
    for _ in 0..=GENERATIONS {
        for process in &generation {
            // A program that was replaced while it runs has ` (deleted)` behind its name (proc(5)).
            match fs::read_link(folder(process).join("exe")) {
                Ok(program) if program.file_name().is_some_and(|name| name.as_bytes().starts_with(PROGRAM)) => {
                    return Ok(folder(process));
                }
                Ok(program) => drop(first.get_or_insert(program)),
                // A child may have ended.
                Err(error) if first.is_none() => return Err(error),
                Err(_) => {}
            }
        }
        let children =
            generation.iter().map(|it| fs::read_to_string(folder(it).join("task").join(it).join("children")));
        let children = children.filter_map(Result::ok).collect::<Vec<_>>().join(" ");
        generation = children.split_whitespace().take(MAX_PROCESSES).map(str::to_owned).collect();
    }
    let found = first.unwrap_or_default();
    Err(io::Error::other(format!("the process that listens is {}, not buildkitd", found.display())))
}

impl PartialEq for Namespace {
    fn eq(&self, other: &Self) -> bool {
        self.identity == other.identity
    }
}

impl Namespace {
    /// That of the builder that `process` is, or has started, as an init of a container does.
    ///
    /// # Errors
    /// When it is another program, which perhaps stands in front of the builder, or cannot be looked at.
    pub(super) fn of_builder(process: Pid) -> io::Result<Self> {
        let folder = builder(process)?;
        let file = File::open(folder.join("ns/net"))?;
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
