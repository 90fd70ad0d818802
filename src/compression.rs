//! Detects and decodes the compression of archives and layers.

use async_compression::tokio::bufread::{BzDecoder, GzipDecoder, XzDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead};
use tokio_util::io::{ReaderStream, StreamReader};

/// The largest window of a decompressor, as a power of two: 128 MiB, which the highest levels of `zstd` and `xz` use, and the
/// limit of `zstd -d`.
const WINDOW_LOG: u32 = 27;
/// The memory of xz beside its window.
const XZ_STATE_BYTES: u64 = 1 << 20;

/// The length of the trailer with the checksums; xz has the sizes of its blocks between them.
const TAIL_BYTES: usize = 1 << 10;

/// The read size.
const ARCHIVE_BYTES: usize = 64 << 10;

/// A compression, detected by the magic numbers that dockerd uses (go-archive `compression_detect.go`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

/// A decompressed stream.
pub(crate) type Decompressed = Box<dyn AsyncRead + Send + Unpin>;

impl Compression {
    /// How many bytes [`Compression::of`] needs.
    pub(crate) const MARK_BYTES: usize = 6;

    /// Detects it by the first bytes.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        match bytes {
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip,
            [b'B', b'Z', b'h', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            // A frame, or a skippable frame before it.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// Its name in messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "tar",
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        }
    }

    /// Decompresses `reader`, which may consist of several concatenated streams. A window of more than 2^`window_log` bytes is
    /// refused.
    pub(crate) fn decompress(
        self,
        reader: impl AsyncBufRead + Send + Unpin + 'static,
        window_log: u32,
    ) -> Decompressed {
        match self {
            Self::None => Box::new(reader),
            Self::Gzip => {
                let mut decoder = GzipDecoder::new(reader);
                decoder.multiple_members(true);
                Box::new(decoder)
            }
            Self::Bzip2 => {
                let mut decoder = BzDecoder::new(reader);
                decoder.multiple_members(true);
                Box::new(decoder)
            }
            Self::Xz => {
                let mut decoder = XzDecoder::with_mem_limit(reader, (1 << window_log) + XZ_STATE_BYTES);
                decoder.multiple_members(true);
                Box::new(decoder)
            }
            Self::Zstd => {
                let mut decoder = ZstdDecoder::with_params(reader, &[DParameter::window_log_max(window_log)]);
                decoder.multiple_members(true);
                Box::new(decoder)
            }
        }
    }
}

/// Decompresses `reader` if it is compressed.
pub(crate) async fn decompress(
    mut reader: impl AsyncBufRead + Send + Unpin + 'static,
) -> std::io::Result<Decompressed> {
    // If the buffer has fewer bytes than the magic number, the data counts as uncompressed and is then refused as malformed.
    let compression = Compression::of(reader.fill_buf().await?);
    Ok(compression.decompress(reader, WINDOW_LOG))
}

/// The same for a whole archive, of which everything before an error must be readable.
pub(crate) async fn decompress_archive(
    mut reader: impl AsyncBufRead + Send + Unpin + 'static,
) -> std::io::Result<Decompressed> {
    let compression = Compression::of(reader.fill_buf().await?);
    if compression == Compression::None {
        return Ok(Box::new(reader));
    }
    let chunks = with_slow_end(ReaderStream::with_capacity(reader, ARCHIVE_BYTES));
    Ok(compression.decompress(StreamReader::new(Box::pin(chunks)), WINDOW_LOG))
}

/// Splits compressed input so that its trailer comes a byte at a time.
///
/// A decompressor that finds a wrong checksum discards its output for the same chunk of input. dockerd's decompressors do not,
/// so dockerd loads a complete archive with a wrong checksum. Chunks with the checksum must therefore have no other data.
pub(crate) fn with_slow_end(
    chunks: impl Stream<Item = std::io::Result<Bytes>> + Unpin,
) -> impl Stream<Item = std::io::Result<Bytes>> {
    let state = (chunks, BytesMut::new(), None);
    stream::unfold(state, |(mut chunks, mut held, mut end)| async move {
        loop {
            if let Some(last) = &mut end {
                let next = if held.is_empty() { Option::take(last)? } else { Ok(held.split_to(1).freeze()) };
                return Some((next, (chunks, held, end)));
            }
            match chunks.next().await {
                Some(Ok(chunk)) => held.extend_from_slice(&chunk),
                // The kept bytes come first.
                Some(Err(error)) => end = Some(Some(Err(error))),
                None => end = Some(None),
            }
            if end.is_none() && held.len() > TAIL_BYTES {
                let ready = held.split_to(held.len() - TAIL_BYTES).freeze();
                return Some((Ok(ready), (chunks, held, end)));
            }
        }
    })
}
