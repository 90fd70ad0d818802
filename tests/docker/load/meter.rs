//! A relay that counts what reaches dockerd.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

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
                let (client, server) = (client.unwrap(), UnixStream::connect(&docker).unwrap());
                let (client_too, server_too) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let counter = counter.clone();
                thread::spawn(move || copy(client, server, &counter));
                thread::spawn(move || copy(server_too, client_too, &AtomicU64::new(0)));
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

fn copy(mut from: UnixStream, mut to: UnixStream, counter: &AtomicU64) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        counter.fetch_add(count as u64, Ordering::Relaxed);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    // Either may be gone already.
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
