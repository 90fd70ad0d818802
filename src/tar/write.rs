//! Writing tar archives: plain files need none of what a tar library is for.

use bytes::{BufMut as _, Bytes, BytesMut};

/// The size of a tar header and of the blocks that files are padded to (POSIX `pax`, "ustar Interchange Format").
pub(crate) const BLOCK: usize = 512;
/// What ends an archive: two empty blocks.
pub(crate) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// The longest name that a header holds, in bytes.
const NAME: usize = 100;
/// The largest size that twelve octal digits, one of them the terminator, can say.
const MAX_OCTAL: u64 = 0o777_7777_7777;

/// The header of a file of `size` bytes. `name` is of at most 100 bytes; the rest of a longer one would be left out.
pub(crate) fn header(name: &str, size: u64) -> [u8; BLOCK] {
    block(name, size, b'0')
}

/// What precedes the content of a file of `size` bytes, however long its name is: its header, after an extended one
/// (POSIX `pax`, "pax Extended Header") if the name needs it.
pub(crate) fn member(name: &str, size: u64) -> Bytes {
    let mut bytes = BytesMut::with_capacity(BLOCK);
    if name.len() > NAME {
        let record = record("path", name);
        let length = record.len() as u64;
        bytes.put_slice(&block("PaxHeaders/long", length, b'x'));
        bytes.put_slice(record.as_bytes());
        bytes.put_bytes(0, padding(length));
    }
    bytes.put_slice(&header(name, size));
    bytes.freeze()
}

/// A folder, `name` of which ends with a slash and has at most 100 bytes.
pub(crate) fn folder(name: &str) -> [u8; BLOCK] {
    block(name, 0, b'5')
}

fn block(name: &str, size: u64, kind: u8) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &name.as_bytes()[..name.len().min(NAME)]);
    put(100, if kind == b'5' { b"0000755\0" } else { b"0000444\0" });
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
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    // The checksum is taken with its own field full of spaces.
    put(148, b"        ");
    let sum: u32 = header.iter().copied().map(u32::from).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// A record of an extended header, which begins with its own length.
fn record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let length = (rest + 1..).find(|length| length.to_string().len() + rest == *length).unwrap_or(rest);
    format!("{length} {key}={value}\n")
}

/// How many zero bytes follow a file of `size` bytes.
pub(crate) fn padding(size: u64) -> usize {
    // Less than a block, so it fits. The largest sizes have no next multiple.
    ((BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64) as usize
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn tar_understands_long_names_and_huge_sizes() {
        let long = format!("blobs/sha512/{}", "a".repeat(128));
        for name in ["blobs/sha256/0", &long] {
            for size in [0, 1, 512, MAX_OCTAL, MAX_OCTAL + 1, 1 << 40] {
                let mut tar = Command::new("tar")
                    .args(["-tv"])
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap();
                // It lists the header before it misses the content.
                tar.stdin.take().unwrap().write_all(&member(name, size)).unwrap();
                let said = String::from_utf8(tar.wait_with_output().unwrap().stdout).unwrap();
                let words: Vec<_> = said.split_whitespace().collect();
                assert_eq!((words[2], *words.last().unwrap()), (size.to_string().as_str(), name), "{said}");
            }
        }
    }

    #[test]
    fn a_record_counts_itself() {
        for length in 1..2000 {
            let record = record("path", &"a".repeat(length));
            let said: usize = record.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(said, record.len());
        }
    }

    #[test]
    fn files_end_at_blocks() {
        for (size, zeros) in [(0, 0), (1, 511), (511, 1), (512, 0), (513, 511), (u64::MAX, 1)] {
            assert_eq!(padding(size), zeros, "{size}");
        }
    }
}
