//! The compression of an archive as a whole.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use futures_util::{Stream, StreamExt as _, stream};
use tokio_util::io::{ReaderStream, StreamReader};

use super::pipe::Chunks;
use super::zstd;
use crate::compression::{Compression, with_slow_end};

/// How many bytes are peeked at: enough for [`Encoding::of`].
const PEEK_BYTES: usize = 64;
/// The size of one decompressed piece.
const DECOMPRESSED_BYTES: usize = 256 << 10;
/// The largest window of a decompressor, as a power of two: 16 MiB. A plain `zstd` or `xz` needs 8 MiB at most, their
/// highest levels up to 128.
const WINDOW_LOG: u32 = 24;

/// How an archive can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Supported(Compression),
    /// dockerd may be able to read it, but only with more memory than we allow.
    PassThrough,
}

impl Encoding {
    fn of(bytes: &[u8]) -> Self {
        let compression = Compression::of(bytes);
        let fits = match compression {
            Compression::Xz => xz_window(bytes),
            // A skippable frame may precede a frame, with any content.
            Compression::Zstd => bytes.starts_with(&zstd::FRAME) && zstd_window(bytes),
            Compression::None | Compression::Gzip | Compression::Bzip2 => true,
        };
        if fits { Self::Supported(compression) } else { Self::PassThrough }
    }

    /// The compression to remove, if any.
    pub(super) fn compression(self) -> Option<Compression> {
        match self {
            Self::Supported(Compression::None) | Self::PassThrough => None,
            Self::Supported(compression) => Some(compression),
        }
    }
}

/// Whether the window of a zstd frame is small enough (RFC 8878, section 3.1.1.1).
fn zstd_window(bytes: &[u8]) -> bool {
    let Some((&descriptor, rest)) = bytes.get(4..).and_then(<[u8]>::split_first) else { return true };
    if descriptor & 0x20 == 0 {
        let Some(&window) = rest.first() else { return true };
        let (exponent, mantissa) = (u32::from(window >> 3), u64::from(window & 7));
        let base = 1_u64 << (10 + exponent);
        return base + base / 8 * mantissa <= 1 << WINDOW_LOG;
    }
    // A single segment: the window is the whole content.
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let Some(mut size) = rest.get(dictionary..) else { return true };
    let size = match descriptor >> 6 {
        0 if size.remaining() >= 1 => u64::from(size.get_u8()),
        1 if size.remaining() >= 2 => u64::from(size.get_u16_le()),
        2 if size.remaining() >= 4 => u64::from(size.get_u32_le()),
        3 if size.remaining() >= 8 => size.get_u64_le(),
        _ => return true,
    };
    size <= 1 << WINDOW_LOG
}

/// Whether the dictionary of an xz stream with the usual one filter is small enough (the .xz file format 1.2.1,
/// sections 2.1.1, 3.1 and 5.3.1).
fn xz_window(bytes: &[u8]) -> bool {
    const STREAM_HEADER: usize = 12;
    let Some(block) = bytes.get(STREAM_HEADER..) else { return true };
    let &[size, flags, ref rest @ ..] = block else { return true };
    if size == 0 {
        // No block at all.
        return true;
    }
    if flags & 0x3f != 0 {
        return false;
    }
    // The sizes of the block, in seven bits per byte.
    let mut rest = rest;
    for _ in 0..flags.count_ones() {
        let Some(end) = rest.iter().position(|byte| byte & 0x80 == 0) else { return false };
        rest = &rest[end + 1..];
    }
    // LZMA2, with one byte of properties: two bits of mantissa.
    match rest {
        [0x21, 1, bits, ..] if *bits <= 40 => {
            let base = 2 + u64::from(bits & 1);
            base << (bits / 2 + 11) <= 1 << WINDOW_LOG
        }
        _ => false,
    }
}

/// An archive as the client sends it, which can still be read after its decompressor has failed.
#[derive(Clone)]
pub(super) struct Raw(Arc<Mutex<Chunks>>);

impl Raw {
    pub(super) fn new(chunks: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Box::pin(chunks))))
    }

    /// Reads the rest of the archive, so that the client reads its response.
    pub(super) async fn drain(&mut self) {
        while let Some(Ok(_)) = self.next().await {}
    }
}

impl Stream for Raw {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).poll_next_unpin(context)
    }
}

/// Returns an archive's compression, and the archive without it.
pub(super) async fn open(
    mut chunks: impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static,
) -> io::Result<(Encoding, Chunks)> {
    let (mut peeked, mut first) = (Vec::new(), Vec::with_capacity(PEEK_BYTES));
    while first.len() < PEEK_BYTES {
        let Some(chunk) = chunks.next().await.transpose()? else { break };
        first.extend_from_slice(&chunk[..chunk.len().min(PEEK_BYTES - first.len())]);
        peeked.push(Ok(chunk));
    }
    let encoding = Encoding::of(&first);
    let chunks = stream::iter(peeked).chain(chunks);
    let Some(compression) = encoding.compression() else { return Ok((encoding, Box::pin(chunks))) };
    let chunks: Chunks = match compression {
        Compression::Zstd => Box::pin(zstd::with_checksums(chunks)),
        _ => Box::pin(chunks),
    };
    let reader = compression.decompress(StreamReader::new(Box::pin(with_slow_end(chunks))), WINDOW_LOG);
    Ok((encoding, Box::pin(ReaderStream::with_capacity(reader, DECOMPRESSED_BYTES))))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use async_compression::tokio::bufread as codecs;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    /// `bytes` in chunks of `chunk`.
    fn chunks(bytes: &[u8], chunk: usize) -> Chunks {
        let chunks: Vec<_> = bytes.chunks(chunk).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        Box::pin(stream::iter(chunks))
    }

    async fn all(mut chunks: Chunks) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.next().await {
            bytes.extend_from_slice(&chunk?);
        }
        Ok(bytes)
    }

    async fn compressed(compression: Compression, bytes: &[u8]) -> Vec<u8> {
        let mut into = Vec::new();
        match compression {
            Compression::Gzip => codecs::GzipEncoder::new(bytes).read_to_end(&mut into).await,
            Compression::Bzip2 => codecs::BzEncoder::new(bytes).read_to_end(&mut into).await,
            Compression::Xz => codecs::XzEncoder::new(bytes).read_to_end(&mut into).await,
            _ => codecs::ZstdEncoder::new(bytes).read_to_end(&mut into).await,
        }
        .unwrap();
        into
    }

    #[tokio::test]
    async fn every_kind_is_read_in_chunks_of_any_size() {
        let archive: Vec<u8> = (0..100_000u32).flat_map(|number| (number / 7).to_le_bytes()).collect();
        for compression in [Compression::Gzip, Compression::Bzip2, Compression::Xz, Compression::Zstd] {
            let once = compressed(compression, &archive).await;
            let twice = [once.clone(), once.clone()].concat();
            for chunk in [1, 7, 4096, twice.len()] {
                let (found, decompressed) = open(chunks(&twice, chunk)).await.unwrap();
                assert_eq!(found, Encoding::Supported(compression));
                assert!(
                    all(decompressed).await.unwrap() == [&archive[..], &archive[..]].concat(),
                    "{compression:?} by {chunk}"
                );
            }
            let (_, cut) = open(chunks(&once[..once.len() - 10], 4096)).await.unwrap();
            assert!(all(cut).await.is_err(), "{compression:?} cut off");
            let mut broken = once.clone();
            let middle = broken.len() / 2;
            broken[middle..].fill(0);
            let (_, broken) = open(chunks(&broken, 4096)).await.unwrap();
            assert!(all(broken).await.is_err(), "{compression:?} broken");
        }
    }

    /// The bytes that `chunks` yields before it fails, if it does.
    async fn before_the_end(mut chunks: Chunks) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some(Ok(chunk)) = chunks.next().await {
            bytes.extend_from_slice(&chunk);
        }
        bytes
    }

    #[tokio::test]
    async fn whatever_is_wrong_with_the_end_all_that_is_in_front_of_it_is_read() {
        let archive: Vec<u8> = (0..60_000u32).flat_map(|number| (number / 3).to_le_bytes()).collect();
        for (compression, trailer) in
            [(Compression::Gzip, 8), (Compression::Bzip2, 10), (Compression::Xz, 28), (Compression::Zstd, 4)]
        {
            let whole = match compression {
                // With a checksum at its end, as the program writes it.
                Compression::Zstd => made_of(&archive, "zstd", &["-c", "-q", "--check"]),
                Compression::Xz => made_of(&archive, "xz", &["-c", "--check=crc64"]),
                Compression::Bzip2 => made_of(&archive, "bzip2", &["-c"]),
                _ => compressed(compression, &archive).await,
            };
            let mut cases = Vec::new();
            for behind in [&b"\n"[..], b"text, and more of it", &[0], &[0; 3], &[0; 512], &[0; 10_240], &[0xff; 70]] {
                cases.push((format!("{behind:?} behind it"), [&whole[..], behind].concat()));
            }
            for missing in 1..=trailer {
                // dockerd's zstd needs the checksum to be there.
                if compression != Compression::Zstd {
                    cases.push((format!("{missing} bytes missing"), whole[..whole.len() - missing].to_vec()));
                }
                let mut wrong = whole.clone();
                let at = whole.len() - missing;
                wrong[at] ^= 0x55;
                cases.push((format!("{missing} from the end is wrong"), wrong));
            }
            for (what, bytes) in cases {
                for chunk in [50, bytes.len()] {
                    let (_, decompressed) = open(chunks(&bytes, chunk)).await.unwrap();
                    let read = before_the_end(decompressed).await;
                    assert!(read.starts_with(&archive), "{compression:?}, {what}: {} of {}", read.len(), archive.len());
                }
            }
        }
    }

    #[tokio::test]
    async fn what_has_no_mark_is_plain() {
        for bytes in [&b""[..], b"B", b"blobs/", &[0x1f, 0x8b], &[0; 1024]] {
            let (encoding, passed) = open(chunks(bytes, 3)).await.unwrap();
            assert_eq!(encoding, Encoding::Supported(Compression::None));
            assert_eq!(all(passed).await.unwrap(), bytes);
        }
    }

    /// The output of a program for one megabyte.
    fn made_by(program: &str, args: &[&str]) -> Vec<u8> {
        made_of(&vec![7; 1 << 20], program, args)
    }

    fn made_of(bytes: &[u8], program: &str, args: &[&str]) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, bytes).unwrap();
        let stdin = std::fs::File::open(file).unwrap();
        let made = Command::new(program).args(args).stdin(stdin).stderr(Stdio::inherit()).output().unwrap();
        assert!(made.status.success());
        made.stdout
    }

    #[tokio::test]
    async fn large_windows_are_left_to_docker() {
        for (program, args, expected) in [
            ("xz", ["-c", "-6"], Encoding::Supported(Compression::Xz)),
            ("xz", ["-c", "-7"], Encoding::Supported(Compression::Xz)),
            ("xz", ["-c", "-9"], Encoding::PassThrough),
            ("zstd", ["-c", "-19"], Encoding::Supported(Compression::Zstd)),
            ("zstd", ["-c", "--long=27"], Encoding::PassThrough),
        ] {
            let bytes = made_by(program, &args);
            let (encoding, passed) = open(chunks(&bytes, 4096)).await.unwrap();
            assert_eq!(encoding, expected, "{program} {args:?}");
            let expected = if encoding == Encoding::PassThrough { bytes } else { vec![7; 1 << 20] };
            assert!(all(passed).await.unwrap() == expected, "{program} {args:?}");
        }
        assert_eq!(Encoding::of(&[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0, 0]), Encoding::PassThrough);
    }
}
