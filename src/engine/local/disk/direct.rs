//! Writes past the page cache (open(2), `O_DIRECT`): for a blob that streams in, the kernel's copy would cost as much
//! as hashing it, and evict pages that others read.

use std::fs::File;
use std::io::{self, Write as _};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// The alignment of memory, offsets and lengths: a page, which is at least any disk's block.
const ALIGNMENT: usize = 4096;
/// The size of one write.
const WRITE: usize = 512 << 10;
/// Buffers that are kept for the next file. More are in use only while more files are written.
const SPARE: usize = 8;

static POOL: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// Aligned memory: the usable part begins at `start`. It never grows, because that would move it.
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    fn new() -> Self {
        let spare = POOL.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut bytes = spare.unwrap_or_else(|| Vec::with_capacity(WRITE + ALIGNMENT));
        let start = bytes.as_ptr().align_offset(ALIGNMENT);
        bytes.resize(start, 0);
        Self { bytes, start }
    }

    fn filled(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Copies as many bytes as fit, and returns the rest.
    fn fill<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (taken, rest) = bytes.split_at(bytes.len().min(WRITE - self.filled().len()));
        self.bytes.extend_from_slice(taken);
        rest
    }

    fn clear(&mut self) {
        self.bytes.truncate(self.start);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        if pool.len() < SPARE {
            pool.push(bytes);
        }
    }
}

/// Writes `chunks` at the end of `file`, which is at offset `at`, and returns how many bytes were written. Each chunk
/// is released as soon as it was copied. Clears `is_able` if the file system does not support O_DIRECT; the bytes are
/// written in any case.
pub(super) fn append(
    file: &mut File,
    at: u64,
    chunks: &mut dyn Iterator<Item = Bytes>,
    is_able: &mut bool,
) -> io::Result<u64> {
    let (mut length, mut buffer) = (0, Buffer::new());
    // O_DIRECT needs an aligned offset; use buffered writes until the end is aligned again.
    let mut write_out = |buffer: &mut Buffer, at: u64| {
        if *is_able && at.is_multiple_of(ALIGNMENT as u64) {
            let aligned = buffer.filled().len() / ALIGNMENT * ALIGNMENT;
            let written = past_the_cache(file, &buffer.filled()[..aligned], is_able)?;
            file.write_all(&buffer.filled()[written..])?;
        } else {
            file.write_all(buffer.filled())?;
        }
        buffer.clear();
        Ok::<_, io::Error>(())
    };
    for chunk in chunks {
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            rest = buffer.fill(rest);
            if buffer.filled().len() == WRITE {
                write_out(&mut buffer, at + length)?;
                length += WRITE as u64;
            }
        }
    }
    let last = buffer.filled().len() as u64;
    write_out(&mut buffer, at + length)?;
    Ok(length + last)
}

/// Writes as many of `bytes` as it can, and returns how many. Afterwards the file has its former flags: reads need no
/// alignment.
fn past_the_cache(file: &mut File, bytes: &[u8], is_able: &mut bool) -> io::Result<usize> {
    if bytes.is_empty() {
        return Ok(0);
    }
    let before = fcntl_getfl(&*file)?;
    if fcntl_setfl(&*file, before | OFlags::DIRECT).is_err() {
        *is_able = false;
        return Ok(0);
    }
    let mut written = 0;
    let outcome = loop {
        match file.write(&bytes[written..]) {
            Ok(count) => {
                written += count;
                // A full disk causes a short write; the next attempt, which must be aligned again, returns the error.
                if written == bytes.len() || count == 0 || !written.is_multiple_of(ALIGNMENT) {
                    break Ok(written);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Some file systems and loop devices fail only here, or require a larger alignment.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                *is_able = false;
                break Ok(written);
            }
            Err(error) => break Err(error),
        }
    };
    fcntl_setfl(&*file, before)?;
    outcome
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::Seek as _;
    use std::path::Path;

    use super::*;

    /// Appends pieces of `chunk` bytes to a file in `folder` that ends at `before`, passing `at` as its end, and
    /// compares. Returns whether the file system is still considered able.
    fn check(folder: &Path, (before, at): (usize, u64), lengths: &[usize], chunk: usize) -> bool {
        let place = tempfile::Builder::new().tempdir_in(folder).unwrap();
        let path = place.path().join("file");
        let mut expected: Vec<u8> = (0..before).map(|n| n as u8).collect();
        fs::write(&path, &expected).unwrap();
        let mut file = OpenOptions::new().read(true).append(true).open(&path).unwrap();
        let mut is_able = true;
        for length in lengths {
            let bytes: Vec<u8> = (0..*length).map(|n| ((n * 7) >> 5) as u8).collect();
            let mut chunks = bytes.chunks(chunk).map(Bytes::copy_from_slice);
            let at = at + (expected.len() - before) as u64;
            assert_eq!(append(&mut file, at, &mut chunks, &mut is_able).unwrap(), *length as u64);
            expected.extend(bytes);
        }
        assert!(fs::read(&path).unwrap() == expected, "{before}, {lengths:?}, {chunk}");
        assert!(!fcntl_getfl(&file).unwrap().contains(OFlags::DIRECT), "it is read without alignment");
        is_able
    }

    /// Whether the file system of `folder` accepts one aligned O_DIRECT block at `offset`.
    fn takes(folder: &Path, offset: u64) -> bool {
        let mut file = tempfile::tempfile_in(folder).unwrap();
        file.set_len(offset).unwrap();
        file.seek(io::SeekFrom::End(0)).unwrap();
        let room = vec![1; 2 * ALIGNMENT];
        let from = room.as_ptr().align_offset(ALIGNMENT);
        let flags = fcntl_getfl(&file).unwrap();
        fcntl_setfl(&file, flags | OFlags::DIRECT).is_ok() && file.write(&room[from..from + ALIGNMENT]).is_ok()
    }

    #[test]
    fn what_is_appended_is_there_whatever_its_lengths() {
        let lengths = [&[0][..], &[1], &[ALIGNMENT], &[WRITE, WRITE, 3], &[2 * WRITE + 5000, WRITE, 9 * ALIGNMENT]];
        let is_able = takes(&std::env::temp_dir(), 0);
        for before in [0, 1, ALIGNMENT, WRITE + 5] {
            for lengths in lengths {
                for chunk in [1000, 256 << 10, 3 << 20] {
                    let is_left_able = check(&std::env::temp_dir(), (before, before as u64), lengths, chunk);
                    // Only an attempt shows that a file system is unable.
                    let is_tried = before.is_multiple_of(ALIGNMENT) && lengths[0] >= ALIGNMENT;
                    assert_eq!(is_left_able, is_able || !is_tried, "{before}, {lengths:?}, {chunk}");
                }
            }
        }
    }

    #[test]
    fn what_the_file_system_refuses_is_written_as_ever() {
        // It refuses every unaligned end, unless it keeps its files in memory.
        let is_able = takes(&std::env::temp_dir(), 100);
        assert_eq!(check(&std::env::temp_dir(), (100, 0), &[WRITE, WRITE, 3], 70_000), is_able);
        check(&std::env::temp_dir(), (100, 0), &[ALIGNMENT, 1], 70_000);
    }
}
