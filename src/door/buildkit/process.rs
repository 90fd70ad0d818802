//! The process of a builder on this host.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, open, openat, readlinkat};
use rustix::process::Pid;

/// The builder's program; ` (deleted)` follows when it was replaced while it runs (proc(5)).
const PROGRAMS: [&[u8]; 2] = [b"buildkitd", b"buildkitd (deleted)"];

/// How many generations of processes are searched for the builder, and how many processes of each.
const GENERATIONS: usize = 3;
const MAX_PROCESSES: usize = 64;
/// The most bytes of a list of children.
const MAX_LIST: u64 = 64 << 10;

/// A running buildkitd, by its folder in `/proc`, which never becomes that of another process.
#[derive(Debug)]
pub(super) struct BuilderProcess(OwnedFd);

impl BuilderProcess {
    /// The builder which `process` is, or has started, as an init of a container does.
    ///
    /// # Errors
    /// When that is not certain: another program may only stand in front of the builder.
    pub(super) fn find(process: Pid) -> io::Result<Self> {
        if process.is_init() {
            // Whoever it has started: the service behind the socket is not known (systemd.socket(5)).
            return Err(io::Error::other("the process that listens is the init of this system"));
        }
        builder(process).map(Self)
    }

    /// Opens a file of its folder.
    pub(super) fn open(&self, path: &str) -> io::Result<File> {
        Ok(File::from(openat(&self.0, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?))
    }
}

impl AsFd for BuilderProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The folder in `/proc` of buildkitd: of `process`, or of the one descendant that is it.
fn builder(process: Pid) -> io::Result<OwnedFd> {
    let mut generation = vec![process.as_raw_nonzero().to_string()];
    let (mut found, mut first) = (None, None);
    for _ in 0..=GENERATIONS {
        let mut children = String::new();
        for process in &generation {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            // A child may have ended.
            let Ok(folder) = open(format!("/proc/{process}"), flags, Mode::empty()) else { continue };
            let Ok(program) = readlinkat(&folder, "exe", Vec::new()) else { continue };
            let list =
                openat(&folder, format!("task/{process}/children"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            if let Ok(list) = list {
                File::from(list).take(MAX_LIST).read_to_string(&mut children)?;
                children.push(' ');
            }
            let name = program.as_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            if !PROGRAMS.contains(&name) {
                first.get_or_insert(program);
            } else if found.replace(folder).is_some() {
                return Err(io::Error::other("the process that listens has started more than one buildkitd"));
            }
        }
        generation = children.split_whitespace().take(MAX_PROCESSES).map(str::to_owned).collect();
    }
    found.ok_or_else(|| {
        let program = first.unwrap_or_default();
        io::Error::other(format!("the process that listens is {}, not buildkitd", program.to_string_lossy()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_builder_is_taken_for_one() {
        let refused = |process| BuilderProcess::find(process).unwrap_err().to_string();
        assert!(refused(Pid::INIT).contains("init of this system"));
        assert!(refused(rustix::process::getpid()).contains("not buildkitd"));
    }
}
