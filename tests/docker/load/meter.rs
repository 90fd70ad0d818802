//! A relay that counts what reaches dockerd.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::common::pass;

/// A socket in front of dockerd's. Its threads end with their connections.
#[derive(Debug)]
pub(crate) struct Meter {
    path: PathBuf,
    sent: Arc<AtomicU64>,
}

impl Meter {
    pub(crate) fn new(path: PathBuf, docker: &str) -> Self {
        let listener = UnixListener::bind(&path).unwrap();
        let sent = Arc::new(AtomicU64::new(0));
        let (counter, docker) = (sent.clone(), docker.strip_prefix("unix://").unwrap().to_owned());
        thread::spawn(move || {
            for client in listener.incoming() {
                let (mut client, mut server) = (client.unwrap(), UnixStream::connect(&docker).unwrap());
                let (mut to_client, mut from_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let counter = counter.clone();
                thread::spawn(move || {
                    pass(&mut client, &mut server, |bytes| {
                        counter.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    });
                });
                thread::spawn(move || pass(&mut from_server, &mut to_client, |_| ()));
            }
        });
        Self { path, sent }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that clients sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}
