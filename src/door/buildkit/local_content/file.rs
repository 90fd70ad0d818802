//! Reads a blob from its file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use rustix::fs::{Advice, fadvise};
use tokio::task::spawn_blocking;

use crate::image::Descriptor;
use crate::source::{Chunks, SourceError};

/// The bytes of a chunk: half of what a builder sends in a message, for several of each blob are in memory.
const CHUNK: u64 = 512 << 10;

/// How many chunks are read ahead of the one that is written.
const AHEAD: usize = 2;

/// The open file of a blob.
#[derive(Debug)]
pub(super) struct BlobFile {
    /// The source's name.
    name: String,
    blob: Descriptor,
    file: File,
}

impl BlobFile {
    pub(super) fn new(name: String, blob: Descriptor, file: File) -> Self {
        Self { name, blob, file }
    }

    /// Its bytes from `offset` on, as many as the file has of the blob's size.
    pub(super) fn chunks(self, offset: u64) -> Chunks {
        // Only a hint.
        let _ = fadvise(&self.file, offset, None, Advice::Sequential);
        let (name, digest, size) = (self.name, self.blob.digest, self.blob.size);
        let file = Arc::new(self.file);
        let starts = stream::iter((offset..size).step_by(CHUNK as usize));
        let chunks = starts.map(move |start| {
            let (file, length) = (file.clone(), CHUNK.min(size - start));
            async move {
                // Here and not in the thread that reads: each of many would keep what it was once given.
                let bytes = vec![0; length as usize];
                spawn_blocking(move || read(&file, start, bytes)).await.map_err(io::Error::other)?
            }
        });
        let failed = move |error: io::Error| SourceError::Read {
            name: name.clone(),
            digest: digest.clone(),
            reason: error.to_string(),
        };
        chunks.buffered(AHEAD).map(move |chunk| chunk.map_err(&failed)).boxed()
    }
}

/// Fills `bytes` from `start` on, as far as the file reaches.
fn read(file: &File, start: u64, mut bytes: Vec<u8>) -> io::Result<Bytes> {
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], start + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt as _;

    use super::*;
    use crate::image::Digest;

    async fn read_from(content: &[u8], size: u64, offset: u64) -> Vec<u8> {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), content).unwrap();
        let blob = Descriptor::new("text/plain", Digest::sha256(content), size);
        let file = BlobFile::new("builder b".to_owned(), blob, path.reopen().unwrap());
        let chunks: Vec<Bytes> = file.chunks(offset).try_collect().await.unwrap();
        assert!(chunks.iter().all(|chunk| chunk.len() as u64 <= CHUNK));
        chunks.concat()
    }

    #[tokio::test]
    async fn the_bytes_come_in_order_and_from_anywhere() {
        let content: Vec<u8> = (0..CHUNK * 5 / 2).map(|at| (at / 7 % 251) as u8).collect();
        let size = content.len() as u64;
        for offset in [0, 1, CHUNK, CHUNK + 7, size - 1, size] {
            assert_eq!(read_from(&content, size, offset).await, content[offset as usize..], "{offset}");
        }
    }

    #[tokio::test]
    async fn a_file_that_is_cut_off_ends_early() {
        assert_eq!(read_from(b"short", CHUNK * 2, 0).await, b"short");
    }
}
