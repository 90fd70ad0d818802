//! File systems that can be full.

use std::{
    fs::{self, File, OpenOptions},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use rustix::{
    fs::{FallocateFlags, fallocate, statvfs},
    io::Errno,
};

use super::{Run, test_folder};

/// A small file system of its own, on a loop device.
#[derive(Debug)]
pub(crate) struct Disk {
    folder: PathBuf,
    /// Waits for the end of its standard input, then for the disk to be unused, and clears it away.
    supervisor: Child,
}

impl Disk {
    pub(crate) fn new(size: u64) -> Self {
        let folder = tempfile::Builder::new().prefix("d-").tempdir_in(test_folder()).unwrap().keep();
        let script = r#"cat >/dev/null; n=0
            until umount "$0/m" || [ $n = 300 ]; do n=$((n + 1)); sleep 0.1; done
            rm -rf --one-file-system "$0""#;
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(&folder).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let disk = Self { supervisor: command.spawn().unwrap(), folder };
        let image = disk.folder.join("image");
        File::create(&image).unwrap().set_len(size).unwrap();
        fs::create_dir(disk.root()).unwrap();
        Run::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image).ok();
        Run::new("mount").args(["-o", "loop"]).arg(&image).arg(disk.root()).ok();
        disk
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.folder.join("m")
    }

    /// Leaves `free` bytes of it.
    pub(crate) fn fill(&self, free: u64) {
        let ballast = OpenOptions::new().create(true).append(true).open(self.ballast()).unwrap();
        ballast.set_len(0).unwrap();
        match fallocate(&ballast, FallocateFlags::empty(), 0, self.available().checked_sub(free).unwrap()) {
            // It needs a little for itself, and has taken what there was.
            Err(Errno::NOSPC) if free == 0 => {}
            outcome => outcome.unwrap(),
        }
    }

    pub(crate) fn available(&self) -> u64 {
        let statistics = statvfs(self.root()).unwrap();
        statistics.f_bavail * statistics.f_frsize
    }

    /// Frees it again.
    pub(crate) fn clear(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.root().join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        // A failure to clear it away must not hide the failure of a test.
        let _ = self.supervisor.wait();
    }
}
