//! Writes the headers of archives: files and folders of root, those of images without times.

use bytes::Bytes;
use tar_core::{EntryBuilder, EntryType};

/// The size of a header, and of the blocks that files are padded to (POSIX `pax`, "ustar Interchange Format").
pub(crate) const BLOCK: usize = 512;
/// The end of an archive: two empty blocks.
pub(crate) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// The header of a file of `size` bytes, with an extended one (POSIX `pax`, "pax Extended Header") before it if the name or
/// the size needs it.
pub(crate) fn member(name: &str, size: u64) -> Bytes {
    head(name, EntryType::Regular, 0o444, size, 0)
}

/// The header of a folder, `name` of which ends with a slash.
pub(crate) fn folder(name: &str) -> Bytes {
    head(name, EntryType::Directory, 0o755, 0, 0)
}

/// The header of a program of `size` bytes, of the time `mtime` (in seconds of Unix).
pub(crate) fn program(name: &str, size: u64, mtime: u64) -> Bytes {
    head(name, EntryType::Regular, 0o755, size, mtime)
}

/// Another name for the file `target` of the same archive: it is there when all of the file is.
pub(crate) fn link(name: &str, target: &str, mtime: u64) -> Bytes {
    let mut builder = EntryBuilder::new_ustar();
    builder.path(name).link_name(target).entry_type(EntryType::Link);
    let _ = builder.mode(0o755).and_then(|builder| builder.uid(0)?.gid(0)?.mtime(mtime)?.size(0));
    builder.finish_bytes().into()
}

fn head(name: &str, kind: EntryType, mode: u32, size: u64, mtime: u64) -> Bytes {
    let mut builder = EntryBuilder::new_ustar();
    builder.path(name).entry_type(kind);
    // None of them fails: a number that is too large for the header goes into the extended one.
    let _ = builder.mode(mode).and_then(|builder| builder.uid(0)?.gid(0)?.mtime(mtime)?.size(size));
    builder.finish_bytes().into()
}

/// The padding after a file of `size` bytes.
pub(crate) fn padding(size: u64) -> usize {
    // The result is less than a block, so it fits. (`next_multiple_of` would overflow for the largest sizes.)
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
            for size in [0, 1, 512, 0o777_7777_7777, 0o1000_0000_0000, 1 << 40] {
                let mut tar = Command::new("tar")
                    .args(["-tv"])
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap();
                // It lists the header before it misses the content.
                tar.stdin.take().unwrap().write_all(&member(name, size)).unwrap();
                let listing = String::from_utf8(tar.wait_with_output().unwrap().stdout).unwrap();
                let words: Vec<_> = listing.split_whitespace().collect();
                assert_eq!((words[2], *words.last().unwrap()), (size.to_string().as_str(), name), "{listing}");
            }
        }
    }

    #[test]
    fn files_end_at_blocks() {
        for (size, zeros) in [(0, 0), (1, 511), (511, 1), (512, 0), (513, 511), (u64::MAX, 1)] {
            assert_eq!(padding(size), zeros, "{size}");
        }
    }
}
