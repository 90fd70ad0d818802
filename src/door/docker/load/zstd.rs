//! The blocks of zstd frames (RFC 8878, section 3.1.1).

use std::io;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream};

/// The magic number of a frame.
pub(super) const FRAME: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// A position in the compressed stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// Before a frame or a skippable frame.
    Frame,
    /// Before a block of a frame with or without a checksum.
    Block { checksum: bool },
    /// Within `left` bytes that pass unchanged, and what follows them.
    Passing { left: u64, checksum: Option<bool> },
    /// Within bytes that are not zstd, which the decompressor reports.
    Strange,
}

/// Delays the last block of each frame in `chunks` until its checksum has arrived.
///
/// dockerd's decompressor (klauspost/compress `zstd`) yields nothing of such a block if the checksum is missing;
/// libzstd yields it all. For an archive that was cut off there, that decides whether it is complete.
pub(super) fn with_checksums(
    chunks: impl Stream<Item = io::Result<Bytes>> + Unpin,
) -> impl Stream<Item = io::Result<Bytes>> {
    stream::unfold(
        (chunks, BytesMut::new(), Position::Frame, false),
        |(mut chunks, mut held, mut at, mut ended)| async move {
            loop {
                let ready = advance(&mut at, &held);
                if ready > 0 {
                    return Some((Ok(held.split_to(ready).freeze()), (chunks, held, at, ended)));
                }
                if ended {
                    return None;
                }
                match chunks.next().await {
                    Some(Ok(chunk)) => held.extend_from_slice(&chunk),
                    Some(Err(error)) => return Some((Err(error), (chunks, held, at, ended))),
                    None => {
                        ended = true;
                        // Without its checksum the block is dropped.
                        if at == (Position::Block { checksum: true }) && held.first().is_some_and(|&byte| byte & 1 == 1)
                        {
                            return None;
                        }
                        at = Position::Strange;
                    }
                }
            }
        },
    )
}

/// How many of the buffered bytes may pass.
fn advance(at: &mut Position, bytes: &[u8]) -> usize {
    let length = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    match *at {
        Position::Strange => bytes.len(),
        Position::Passing { left, checksum } => {
            let ready = length(left).min(bytes.len());
            let left = left - ready as u64;
            *at = match (left, checksum) {
                (0, None) => Position::Frame,
                (0, Some(checksum)) => Position::Block { checksum },
                _ => Position::Passing { left, checksum },
            };
            ready
        }
        Position::Frame => {
            let Some((head, checksum)) = frame(bytes) else { return 0 };
            let Some(left) = head else {
                *at = Position::Strange;
                return bytes.len();
            };
            *at = Position::Passing { left, checksum };
            advance(at, bytes)
        }
        Position::Block { checksum } => {
            let Some(&[one, two, three]) = bytes.first_chunk() else { return 0 };
            let size = u64::from(one >> 3) | u64::from(two) << 5 | u64::from(three) << 13;
            // A repeated byte is stored once.
            let content = if one >> 1 & 3 == 1 { 1 } else { size };
            if one & 1 == 0 {
                *at = Position::Passing { left: 3 + content, checksum: Some(checksum) };
                return advance(at, bytes);
            }
            let left = 3 + content + if checksum { 4 } else { 0 };
            if checksum && (bytes.len() as u64) < left {
                return 0;
            }
            *at = Position::Passing { left, checksum: None };
            advance(at, bytes)
        }
    }
}

/// The length of the frame at the start of `bytes` up to its first block, and whether it has a checksum (`None`: it has
/// no blocks). Without a length it is no frame; `None` if there are too few bytes to tell.
fn frame(bytes: &[u8]) -> Option<(Option<u64>, Option<bool>)> {
    let magic = bytes.first_chunk::<4>()?;
    if let [0x50..=0x5f, 0x2a, 0x4d, 0x18] = magic {
        let size = bytes.get(4..8)?.first_chunk::<4>()?;
        return Some((Some(8 + u64::from(u32::from_le_bytes(*size))), None));
    }
    if *magic != FRAME {
        return Some((None, None));
    }
    let descriptor = *bytes.get(4)?;
    let is_single = descriptor & 0x20 != 0;
    let size = match descriptor >> 6 {
        0 => u64::from(is_single),
        shift => 1 << shift,
    };
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    Some((Some(5 + u64::from(!is_single) + dictionary + size), Some(descriptor & 4 != 0)))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    async fn passed(bytes: &[u8], chunk: usize) -> Vec<u8> {
        let chunks: Vec<_> = bytes.chunks(chunk).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        let mut passed = std::pin::pin!(with_checksums(stream::iter(chunks)));
        let mut all = Vec::new();
        while let Some(bytes) = passed.next().await {
            all.extend_from_slice(&bytes.unwrap());
        }
        all
    }

    fn made(args: &[&str], bytes: &[u8]) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, bytes).unwrap();
        let made = Command::new("zstd").arg("-c").args(args).arg(&file).stderr(Stdio::null()).output().unwrap();
        made.stdout
    }

    #[tokio::test]
    async fn only_a_last_block_without_its_checksum_is_held_back() {
        let noise: Vec<u8> =
            (0..200_000u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let skipped = [&[0x51, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &made(&["-q"], b"more")].concat();
        for bytes in [&noise[..], &[7; 700_000], b"", b"short"] {
            for args in [["-q", "-1"], ["--check", "-q"], ["--no-check", "-q"], ["--no-content-size", "-q"]] {
                let whole = made(&args, bytes);
                for chunk in [1, 5000, whole.len() + 1] {
                    assert_eq!(passed(&whole, chunk).await, whole, "{args:?}");
                    let several = [&whole[..], &skipped, &whole, b"and what is no frame"].concat();
                    assert!(passed(&several, chunk).await == several, "{args:?}");
                }
                for missing in 1..=4.min(whole.len() - 4) {
                    let cut = passed(&whole[..whole.len() - missing], 5000).await;
                    if args.contains(&"--no-check") {
                        assert!(cut == whole[..whole.len() - missing]);
                    } else {
                        assert!(cut.len() < whole.len() - 4 && whole.starts_with(&cut), "{args:?}, {missing}");
                    }
                }
            }
        }
    }
}
