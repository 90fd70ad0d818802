//! A layer's archive, decompressed and hashed by threads of its own while it is applied.
//!
//! A fixed number of buffers goes round: the first thread decompresses into them, the second hashes them, the caller applies
//! them and gives them back. Each stage waits for the one before and the one after, so memory is bounded.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, ScopedJoinHandle, scope};

use flate2::bufread::MultiGzDecoder;

use super::fault::Fault;
use crate::compression::Compression;
use crate::image::{Algorithm, Digest, Hasher};
use crate::tar::BLOCK;

/// The size of a buffer, a multiple of [`BLOCK`]: every buffer but the last is full, so no header is in two of them.
const BUFFER_BYTES: usize = 128 << 10;
/// How many buffers go round. With what is read at once they are 832 KiB for each layer, and four layers are unpacked at once at
/// most; zstd has its window beside them.
const BUFFERS: usize = 6;
const READ_BYTES: usize = 64 << 10;
/// The largest window of zstd, as a power of two: 8 MiB, which all levels but `--ultra` keep to. It is memory of this process,
/// once per layer.
const WINDOW_LOG: u32 = 23;

#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    /// How many of the bytes count.
    length: usize,
}

/// The decompressed archive, from beginning to end.
pub(super) struct LayerReader<'a> {
    filled: Receiver<Buffer>,
    free: SyncSender<Buffer>,
    current: Buffer,
    at: usize,
    cancelled: &'a AtomicBool,
}

/// Decompresses `blob` and gives it to `apply`, then reads the rest. Returns what `apply` did, and the digest of all bytes.
pub(super) fn run<T>(
    blob: File,
    compression: Compression,
    cancelled: &AtomicBool,
    apply: impl FnOnce(&mut LayerReader<'_>) -> Result<T, Fault>,
) -> Result<(T, Digest), Fault> {
    let (free, emptied) = sync_channel(BUFFERS);
    let (inflated, to_hash) = sync_channel(BUFFERS);
    let (hashed, filled) = sync_channel(BUFFERS);
    for _ in 0..BUFFERS {
        // As many as there is room for, and the receiver exists.
        let _ = free.try_send(Buffer { bytes: vec![0; BUFFER_BYTES], length: 0 });
    }
    let mut reader = LayerReader { filled, free, current: Buffer::default(), at: 0, cancelled };
    scope(|scope| {
        let thread = |name: &str| Builder::new().name(name.to_owned());
        let inflating = thread("unpack-inflate")
            .spawn_scoped(scope, || inflate(blob, compression, emptied, inflated, cancelled))?;
        let hashing = thread("unpack-hash").spawn_scoped(scope, || hash(to_hash, hashed));
        let applied = match &hashing {
            Ok(_) => apply(&mut reader).and_then(|applied| reader.drain().map(|()| applied)),
            Err(error) => Err(Fault::unsupported(error.to_string())),
        };
        // Ends the threads before it, if they have not ended by themselves.
        drop(reader);
        let digest = hashing.map_err(Fault::from).and_then(join);
        // When decompressing failed, the archive seemed to end too early.
        join(inflating)??;
        Ok((applied?, digest?))
    })
}

fn join<T>(thread: ScopedJoinHandle<'_, T>) -> Result<T, Fault> {
    thread.join().map_err(|_| Fault::unsupported("a thread that unpacks panicked"))
}

fn inflate(
    blob: File,
    compression: Compression,
    emptied: Receiver<Buffer>,
    inflated: SyncSender<Buffer>,
    cancelled: &AtomicBool,
) -> io::Result<()> {
    let mut reader: Box<dyn Read> = match compression {
        Compression::None => Box::new(blob),
        Compression::Gzip => Box::new(MultiGzDecoder::new(BufReader::with_capacity(READ_BYTES, blob))),
        Compression::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(BufReader::with_capacity(READ_BYTES, blob))?;
            decoder.window_log_max(WINDOW_LOG)?;
            Box::new(decoder)
        }
        other => return Err(io::Error::other(format!("layers are not compressed with {}", other.name()))),
    };
    while let Ok(mut buffer) = emptied.recv() {
        buffer.length = fill(&mut reader, &mut buffer.bytes)?;
        let is_last = buffer.length < BUFFER_BYTES;
        if cancelled.load(Ordering::Relaxed) || inflated.send(buffer).is_err() || is_last {
            break;
        }
    }
    Ok(())
}

/// Reads until `buffer` is full or there is no more.
fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match reader.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

fn hash(inflated: Receiver<Buffer>, hashed: SyncSender<Buffer>) -> Digest {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    for buffer in inflated {
        hasher.update(&buffer.bytes[..buffer.length]);
        if hashed.send(buffer).is_err() {
            break;
        }
    }
    hasher.finish()
}

#[cfg(any(test, fuzzing))]
impl<'a> LayerReader<'a> {
    /// An archive that is there already.
    pub(super) fn of(bytes: &[u8], cancelled: &'a AtomicBool) -> Self {
        let (free, _) = sync_channel(1);
        let (inflated, filled) = sync_channel(bytes.len() / BUFFER_BYTES + 1);
        for bytes in bytes.chunks(BUFFER_BYTES) {
            // There is room for all.
            let _ = inflated.try_send(Buffer { bytes: bytes.to_vec(), length: bytes.len() });
        }
        Self { filled, free, current: Buffer::default(), at: 0, cancelled }
    }
}

impl LayerReader<'_> {
    /// The next block; `None` at the end.
    pub(super) fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Fault> {
        if !self.more()? {
            return Ok(None);
        }
        let Some(block) = self.current.bytes[self.at..self.current.length].first_chunk() else {
            return Err(Fault::unsupported("it ends within a header"));
        };
        self.at += BLOCK;
        Ok(Some(*block))
    }

    /// The next bytes, at least one and at most `limit`.
    pub(super) fn take(&mut self, limit: u64) -> Result<&[u8], Fault> {
        if !self.more()? {
            return Err(Fault::unsupported("it ends within a file"));
        }
        let left = self.current.length - self.at;
        let length = usize::try_from(limit).map_or(left, |limit| limit.min(left));
        self.at += length;
        Ok(&self.current.bytes[self.at - length..self.at])
    }

    /// Skips padding, which may be missing at the end.
    pub(super) fn skip(&mut self, mut bytes: u64) -> Result<(), Fault> {
        while bytes > 0 && self.more()? {
            bytes -= self.take(bytes)?.len() as u64;
        }
        Ok(())
    }

    /// Reads the rest.
    fn drain(&mut self) -> Result<(), Fault> {
        while self.more()? {
            self.at = self.current.length;
        }
        Ok(())
    }

    /// Whether there is anything left.
    fn more(&mut self) -> Result<bool, Fault> {
        while self.at == self.current.length {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(Fault::Cancelled);
            }
            let Ok(next) = self.filled.recv() else { return Ok(false) };
            let read = std::mem::replace(&mut self.current, next);
            self.at = 0;
            // The first was none of those that go round.
            if !read.bytes.is_empty() {
                // At the end nobody needs it any more.
                let _ = self.free.try_send(read);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, Write as _};

    use super::*;

    fn blob(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        file
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn read(bytes: &[u8], compression: Compression) -> Result<(u64, Digest), Fault> {
        let all = |reader: &mut LayerReader<'_>| {
            let mut count = 0;
            while reader.more()? {
                count += reader.take(1000)?.len() as u64;
            }
            Ok(count)
        };
        run(blob(bytes), compression, &AtomicBool::new(false), all)
    }

    #[test]
    fn every_compression_gives_the_same_bytes() {
        let bytes: Vec<u8> = (0..3 * BUFFER_BYTES + 700).map(|at| (at * at / 7) as u8).collect();
        let expected = Ok((bytes.len() as u64, Digest::sha256(&bytes)));
        assert_eq!(read(&bytes, Compression::None), expected);
        let (first, second) = bytes.split_at(1000);
        assert_eq!(read(&[gzip(first), gzip(second)].concat(), Compression::Gzip), expected);
        let zstd = |bytes| zstd::encode_all(bytes, 1).unwrap();
        assert_eq!(read(&[zstd(first), zstd(second)].concat(), Compression::Zstd), expected);
    }

    #[test]
    fn the_rest_is_hashed_as_well_and_nothing_hangs() {
        let bytes = vec![7; 40 * BUFFER_BYTES];
        let one = |reader: &mut LayerReader<'_>| reader.block();
        let (block, digest) = run(blob(&bytes), Compression::None, &AtomicBool::new(false), one).unwrap();
        assert_eq!((block, digest), (Some([7; BLOCK]), Digest::sha256(&bytes)));
        let failing = |_: &mut LayerReader<'_>| Err::<(), _>(Fault::unsupported("x"));
        let outcome = run(blob(&bytes), Compression::None, &AtomicBool::new(false), failing);
        assert_eq!(outcome.unwrap_err(), Fault::unsupported("x"));
        let outcome = run(blob(&bytes), Compression::None, &AtomicBool::new(true), |reader| reader.block());
        assert_eq!(outcome.unwrap_err(), Fault::Cancelled);
    }

    #[test]
    fn damaged_streams_are_refused() {
        let good = gzip(&vec![1; BUFFER_BYTES]);
        let mut checksum = good.clone();
        let at = checksum.len() - 6;
        checksum[at] ^= 1;
        let zstd = zstd::encode_all(&[2; 1000][..], 1).unwrap();
        for (bytes, compression) in [
            (checksum, Compression::Gzip),
            (good[..good.len() - 9].to_vec(), Compression::Gzip),
            ([&good[..], b"garbage"].concat(), Compression::Gzip),
            (zstd[..zstd.len() - 2].to_vec(), Compression::Zstd),
            (good, Compression::Xz),
        ] {
            assert!(matches!(read(&bytes, compression), Err(Fault::Unsupported(_))), "{compression:?}");
        }
    }
}
