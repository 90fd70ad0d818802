//! Writing past the page cache (open(2), `O_DIRECT`): of a blob that streams in, the kernel's copy would cost as much as
//! hashing it, and push out of memory what others read.

use std::fs::File;
use std::io::{self, Write as _};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// How memory, offsets and lengths are aligned: a page, which is no less than any disk's block.
const ALIGNMENT: usize = 4096;
/// How much is written at once.
const WRITE: usize = 512 << 10;
/// Buffers that are kept for the next file. More are in use only while more files are written.
const SPARE: usize = 8;

static POOL: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// Aligned memory: what counts of it begins at `start`. It never grows, because it would be another place then.
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

    /// Takes in what it has room for, and returns the rest.
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

/// Writes `chunks` at the end of `file`, which is at `at`, and returns how many bytes these were. Each chunk is let go as
/// soon as it was copied. `is_able` is told when the file system turns out to be unable to do this; the bytes
/// are written in any case.
pub(super) fn append(
    file: &mut File,
    at: u64,
    chunks: &mut dyn Iterator<Item = Bytes>,
    is_able: &mut bool,
) -> io::Result<u64> {
    let (mut length, mut buffer) = (0, Buffer::new());
    // Behind an end that is not aligned nothing can be: the caller's next piece will.
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

/// Writes what it can of `bytes`, and returns how much that was. The file is as before afterwards: reading from it asks
/// for no alignment.
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
                // A disk that is full takes a part; the error comes with the next try, which must be aligned again.
                if written == bytes.len() || count == 0 || !written.is_multiple_of(ALIGNMENT) {
                    break Ok(written);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Some file systems and loop devices refuse only now, or want a larger alignment.
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

    /// Appends pieces of `chunk` bytes to a file in `folder` that ends at `before`, which is said to be `at`, and compares.
    /// Returns whether the file system is still taken to be able.
    fn check(folder: &Path, (before, at): (usize, u64), lengths: &[usize], chunk: usize) -> bool {
        let place = tempfile::Builder::new().tempdir_in(folder).unwrap();
        let path = place.path().join("file");
        let mut wanted: Vec<u8> = (0..before).map(|n| n as u8).collect();
        fs::write(&path, &wanted).unwrap();
        let mut file = OpenOptions::new().read(true).append(true).open(&path).unwrap();
        let mut is_able = true;
        for length in lengths {
            let bytes: Vec<u8> = (0..*length).map(|n| ((n * 7) >> 5) as u8).collect();
            let mut chunks = bytes.chunks(chunk).map(Bytes::copy_from_slice);
            let at = at + (wanted.len() - before) as u64;
            assert_eq!(append(&mut file, at, &mut chunks, &mut is_able).unwrap(), *length as u64);
            wanted.extend(bytes);
        }
        assert!(fs::read(&path).unwrap() == wanted, "{before}, {lengths:?}, {chunk}");
        assert!(!fcntl_getfl(&file).unwrap().contains(OFlags::DIRECT), "it is read without alignment");
        is_able
    }

    /// Whether the file system of `folder` takes one aligned block at `offset` past the cache.
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
                    // A file system is only found to be unable by trying.
                    let is_tried = before.is_multiple_of(ALIGNMENT) && lengths[0] >= ALIGNMENT;
                    assert_eq!(is_left_able, is_able || !is_tried, "{before}, {lengths:?}, {chunk}");
                }
            }
        }
    }

    #[test]
    fn what_the_file_system_refuses_is_written_as_ever() {
        // It refuses every end but an aligned one, unless it keeps its files in memory.
        let is_able = takes(&std::env::temp_dir(), 100);
        assert_eq!(check(&std::env::temp_dir(), (100, 0), &[WRITE, WRITE, 3], 70_000), is_able);
        check(&std::env::temp_dir(), (100, 0), &[ALIGNMENT, 1], 70_000);
    }
}
