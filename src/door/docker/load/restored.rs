//! The header of a member that is sent after all.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::member::{BLOCK, padding};
use crate::image::Digest;

/// Names up to here fit the header itself; one of sha512 does not.
const NAME_BYTES: usize = 100;
/// Sizes below this fit its eleven octal digits.
const OCTAL_SIZE: u64 = 1 << 33;

/// The header of the blob `digest` as a plain file of `size` bytes (POSIX `pax`, ustar and extended header format).
pub(super) fn header(digest: &Digest, size: u64) -> Bytes {
    let name = format!("blobs/{}/{}", digest.algorithm().name(), digest.hex());
    let mut records = String::new();
    if name.len() > NAME_BYTES {
        records.push_str(&record("path", &name));
    }
    if size >= OCTAL_SIZE {
        records.push_str(&record("size", &size.to_string()));
    }
    let mut bytes = BytesMut::new();
    if !records.is_empty() {
        let length = records.len() as u64;
        bytes.put_slice(&block("PaxHeaders/blob", length, b'x'));
        bytes.put_slice(records.as_bytes());
        bytes.put_bytes(0, padding(length));
    }
    // With a record for it, the header's own size counts for nothing.
    bytes.put_slice(&block(&name[..name.len().min(NAME_BYTES)], if size < OCTAL_SIZE { size } else { 0 }, b'0'));
    bytes.freeze()
}

fn block(name: &str, size: u64, kind: u8) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    // The checksum is that of a header with spaces in its place.
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().copied().map(u32::from).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// A record, which begins with its own length.
fn record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let length = (rest + 1..).find(|length| length.to_string().len() + rest == *length).unwrap_or(rest);
    format!("{length} {key}={value}\n")
}

#[cfg(test)]
mod tests {
    use super::super::member::{Read, read};
    use super::*;

    #[test]
    fn headers_are_read_as_they_were_meant() {
        let short = Digest::sha256(b"");
        let long = Digest::of(crate::image::Algorithm::Sha512, b"");
        for digest in [short, long] {
            for size in [0, 1, 512, OCTAL_SIZE - 1, OCTAL_SIZE, 1 << 50] {
                let header = header(&digest, size);
                let name = format!("blobs/{}", digest.as_str().replace(':', "/"));
                let Read::Member(member) = read(&header) else { panic!("{digest} {size}") };
                assert_eq!(member.head, header.len());
                assert_eq!(member.size, size);
                assert_eq!(member.file, Some(name.into_bytes()));
                assert!(member.plain);
            }
        }
    }
}
