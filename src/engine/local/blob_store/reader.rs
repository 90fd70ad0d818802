//! Reading a blob.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::time::SystemTime;

use bytes::Bytes;

/// An open blob: it can be read to its end even if it is removed meanwhile.
#[derive(Debug)]
pub(crate) struct BlobReader(File);

impl BlobReader {
    pub(super) fn new(file: File) -> Self {
        Self(file)
    }

    /// When it was written, if the store knows. Blocks.
    pub(crate) fn written(&self) -> Option<SystemTime> {
        self.0.metadata().ok()?.modified().ok()
    }

    /// The bytes from `offset` on, at most `limit`; none at the end. Blocks.
    pub(crate) fn read_at(&self, offset: u64, limit: usize) -> io::Result<Bytes> {
        let left = self.0.metadata()?.len().saturating_sub(offset);
        let mut bytes = vec![0; usize::try_from(left).unwrap_or(limit).min(limit)];
        let mut filled = 0;
        while filled < bytes.len() {
            match self.0.read_at(&mut bytes[filled..], offset + filled as u64)? {
                0 => break,
                read => filled += read,
            }
        }
        bytes.truncate(filled);
        Ok(bytes.into())
    }
}
