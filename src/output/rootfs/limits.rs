//! What is accepted at most.

use super::RootfsError;

/// Bounds on one image's file system. Its names are held in memory while it is made and as long as it can be read; the
/// contents of files never are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How many names it may have: large images have a few hundred thousand.
    pub names: usize,
    /// Bytes that the names, what links lead to and extended attributes may take, each name in full.
    pub text_bytes: usize,
    /// How many members all layers may have together, those included that later layers remove.
    pub members: u32,
    /// How many steps may be spent on symbolic links in the names of members, and on what whiteouts do not remove: what
    /// can be made to cost more than what was sent.
    pub steps: u64,
    /// How many bytes all layers may hold when they are decompressed, and how many the output may come to: a few MiB can
    /// be made to hold more than any disk, and a file can have holes of any size.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { names: 1_000_000, text_bytes: 128 << 20, members: 10_000_000, steps: 100_000_000, bytes: 256 << 30 }
    }
}

/// The longest path, in bytes (`PATH_MAX` without its end).
pub(super) const PATH_BYTES: usize = 4095;
/// The longest part of one (`NAME_MAX`).
pub(super) const NAME_BYTES: usize = 255;
/// How many stored pieces a file with holes may have.
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

/// What is left of [`Limits::bytes`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    left: u64,
    limit: u64,
}

impl Budget {
    pub(super) fn new(limit: u64) -> Self {
        Self { left: limit, limit }
    }

    /// For what was read before.
    pub(super) const ANY: Self = Self { left: u64::MAX, limit: u64::MAX };

    pub(super) fn take(&mut self, bytes: u64) -> Result<(), RootfsError> {
        let what = "the layers, decompressed and in bytes,";
        self.left = self.left.checked_sub(bytes).ok_or(RootfsError::Limit { what, limit: self.limit })?;
        Ok(())
    }
}
