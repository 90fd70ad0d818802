//! Writing tar archives for dockerd: plain files under fixed names need none of what a tar library is for.

/// The size of a tar header and of the blocks that files are padded to (POSIX `pax`, "ustar Interchange Format").
pub(super) const BLOCK: usize = 512;
/// What ends an archive: two empty blocks.
pub(super) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// The largest size that twelve octal digits, one of them the terminator, can say.
const MAX_OCTAL: u64 = 0o777_7777_7777;

/// The header of a file of `size` bytes. `name` is of at most 100 bytes; the rest of a longer one would be left out.
pub(super) fn header(name: &str, size: u64) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &name.as_bytes()[..name.len().min(100)]);
    put(100, b"0000444\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    if size <= MAX_OCTAL {
        put(124, format!("{size:011o}\0").as_bytes());
    } else {
        // Larger ones are binary, with the first bit set: GNU's way, which Go reads (`archive/tar`, `parseNumeric`).
        put(124, &[0x80]);
        put(128, &size.to_be_bytes());
    }
    put(136, b"00000000000\0");
    put(156, b"0");
    put(257, b"ustar\x0000");
    // The checksum is taken with its own field full of spaces.
    put(148, b"        ");
    let sum: u32 = header.iter().copied().map(u32::from).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// How many zero bytes follow a file of `size` bytes.
pub(super) fn padding(size: u64) -> usize {
    // Less than a block, so it fits.
    (size.next_multiple_of(BLOCK as u64) - size) as usize
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn tar_understands_small_and_huge_sizes() {
        for size in [0, 1, 512, MAX_OCTAL, MAX_OCTAL + 1, 1 << 40] {
            let mut tar = Command::new("tar")
                .args(["-tv"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            // It lists the header before it misses the content.
            tar.stdin.take().unwrap().write_all(&header("blobs/sha256/0", size)).unwrap();
            let said = String::from_utf8(tar.wait_with_output().unwrap().stdout).unwrap();
            let words: Vec<_> = said.split_whitespace().collect();
            assert_eq!((words[2], *words.last().unwrap()), (size.to_string().as_str(), "blobs/sha256/0"), "{said}");
        }
    }

    #[test]
    fn files_end_at_blocks() {
        for (size, zeros) in [(0, 0), (1, 511), (511, 1), (512, 0), (513, 511)] {
            assert_eq!(padding(size), zeros, "{size}");
        }
    }
}
