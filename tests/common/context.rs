//! Build contexts.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

/// A folder with a Dockerfile, deleted when dropped.
#[derive(Debug)]
pub(crate) struct Context {
    dir: TempDir,
}

impl Context {
    pub(crate) fn new(dockerfile: &str) -> Self {
        let context = Self { dir: TempDir::with_prefix("ctx-").unwrap() };
        context.file("Dockerfile", dockerfile)
    }

    /// Writes a file, and the folders above it.
    pub(crate) fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    /// `count` small files, each different, in folders of a hundred below `folder`.
    pub(crate) fn files(self, folder: &str, count: usize) -> Self {
        (0..count)
            .fold(self, |context, n| context.file(&format!("{folder}/{:03}/file-{n:05}", n / 100), format!("{n}\n")))
    }

    /// A file of `size` bytes that do not compress, the same for the same `seed`.
    pub(crate) fn noise(self, path: &str, size: usize, seed: u64) -> Self {
        self.file(path, noise(size, seed))
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Bytes that do not compress (xorshift64*), so that blobs have the size one asks for.
fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// The text of a file, which must be there.
#[track_caller]
pub(crate) fn file_of(path: impl Into<PathBuf>) -> String {
    let path = path.into();
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A path as clients take it.
#[track_caller]
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_else(|| panic!("{} is not plain text", path.display()))
}
