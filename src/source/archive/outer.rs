//! What an archive as a whole is compressed with, or a layer.

use async_compression::tokio::bufread::{BzDecoder, GzipDecoder, XzDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead};

/// The most that a decompressor may have to remember of what it wrote, as a power of two: 128 MiB, what the highest
/// levels of `zstd` and `xz` ask for, and what `zstd -d` grants.
const WINDOW_LOG: u32 = 27;
/// The same for xz, together with its own state.
const XZ_BYTES: u64 = (1 << WINDOW_LOG) + (1 << 20);

/// An archive without its outer compression.
pub(crate) type Plain = Box<dyn AsyncRead + Send + Unpin>;

/// What something is compressed with, by the marks that dockerd goes by (go-archive `compression_detect.go`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outer {
    Plain,
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

impl Outer {
    /// How many bytes [`Outer::of`] looks at.
    pub(super) const MARK_BYTES: usize = 6;

    /// By the first bytes.
    pub(super) fn of(bytes: &[u8]) -> Self {
        match bytes {
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip,
            [b'B', b'Z', b'h', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            // A frame, or one to be skipped in front of it.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

/// The archive that `reader` yields, decompressed. Any may consist of several streams, one after another.
pub(crate) async fn open(mut reader: impl AsyncBufRead + Send + Unpin + 'static) -> std::io::Result<Plain> {
    // A reader whose buffer is smaller than the mark, or that got a single byte from a pipe, shows an uncompressed
    // archive at worst, which is then refused as malformed.
    let outer = Outer::of(reader.fill_buf().await?);
    Ok(match outer {
        Outer::Plain => Box::new(reader),
        Outer::Gzip => {
            let mut decoder = GzipDecoder::new(reader);
            decoder.multiple_members(true);
            Box::new(decoder)
        }
        Outer::Bzip2 => {
            let mut decoder = BzDecoder::new(reader);
            decoder.multiple_members(true);
            Box::new(decoder)
        }
        Outer::Xz => {
            let mut decoder = XzDecoder::with_mem_limit(reader, XZ_BYTES);
            decoder.multiple_members(true);
            Box::new(decoder)
        }
        Outer::Zstd => {
            let mut decoder = ZstdDecoder::with_params(reader, &[DParameter::window_log_max(WINDOW_LOG)]);
            decoder.multiple_members(true);
            Box::new(decoder)
        }
    })
}
