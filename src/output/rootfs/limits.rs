//! Bounds on a root file system.

use super::RootfsError;

/// Bounds on one image's file system. Names are kept in memory while the plan exists; contents of files never are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The number of names; large images have a few hundred thousand.
    pub names: usize,
    /// The bytes of all names (full paths), link targets and extended attributes.
    pub text_bytes: usize,
    /// The number of members in all layers, including those that later layers remove.
    pub members: u32,
    /// The steps spent on resolving symbolic links and on entries that whiteouts pass over: a small layer could otherwise
    /// cost unbounded time.
    pub steps: u64,
    /// The bytes of all layers, decompressed, and the bytes of the output: a few compressed MiB can expand to more than any
    /// disk holds, and holes can have any size.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { names: 1_000_000, text_bytes: 128 << 20, members: 10_000_000, steps: 100_000_000, bytes: 256 << 30 }
    }
}

/// The longest path, in bytes (`PATH_MAX` without the final NUL).
pub(super) const PATH_BYTES: usize = 4095;
/// The longest part of a path, in bytes (`NAME_MAX`).
pub(super) const NAME_BYTES: usize = 255;
/// How many stored pieces a sparse file may have.
pub(super) const PIECES: usize = 100_000;
/// How many symbolic links one name may lead through, as in containerd (continuity `fs/path.go`, `RootPath`).
pub(super) const LINKS: usize = 255;

impl Limits {
    /// Whether so many bytes are within [`Limits::text_bytes`].
    pub(super) fn check_text(&self, bytes: usize) -> Result<(), RootfsError> {
        if bytes > self.text_bytes {
            let what = "the names, link targets and extended attributes, in bytes,";
            return Err(RootfsError::Limit { what, limit: self.text_bytes as u64 });
        }
        Ok(())
    }
}

/// The rest of [`Limits::bytes`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    left: u64,
    limit: u64,
}

impl Budget {
    pub(super) fn new(limit: u64) -> Self {
        Self { left: limit, limit }
    }

    /// Unlimited, for a layer that was read before.
    pub(super) const ANY: Self = Self { left: u64::MAX, limit: u64::MAX };

    pub(super) fn take(&mut self, bytes: u64) -> Result<(), RootfsError> {
        let what = "the layers, decompressed and in bytes,";
        self.left = self.left.checked_sub(bytes).ok_or(RootfsError::Limit { what, limit: self.limit })?;
        Ok(())
    }
}
