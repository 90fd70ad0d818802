//! The header blocks of one connection (RFC 7541, section 6), walked over field by field.

use std::collections::VecDeque;

use http::uri::Authority;

use super::huffman;

/// What replaces an authority that no URI could have. gRPC's Go clients send it on unix sockets.
const REPLACEMENT: &[u8] = b"localhost";
/// The longest authority that is left as it is: a host's name has 253 bytes at most (RFC 1035), and a user may precede it.
const MAX_AUTHORITY: usize = 1024;
/// The name of the field, and the same in HPACK's Huffman code, of which there is only one for a text.
const NAME: &[u8] = b":authority";
const CODED: &[u8] = &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];
/// The field's index in the static table, and the length of that table.
const STATIC: usize = 1;
const STATIC_TABLE_LEN: usize = 61;
/// The most fields that a table of 4096 bytes holds, the size that servers of ours leave it at: each takes 32 bytes and
/// more.
const ENTRIES: usize = 4096 / 32;

/// A block that is not rightly formed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// A field in the table that client and server share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    /// Some other field, or at least none that is known to be an authority.
    Other,
    /// An authority that the server has, too.
    Kept,
    /// One that only the client has.
    Replaced,
}

/// What is known of a client's header table: what is in it, the newest first. Older ones than the client still has may
/// be among them, for nobody refers to those.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: VecDeque<Entry>,
}

impl Table {
    /// The block for the server; `None` if it is the same one.
    pub(super) fn rewrite(&mut self, block: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
        let (mut rest, mut written, mut changed) = (block, Vec::with_capacity(block.len() + 16), false);
        while let Some(&first) = rest.first() {
            let field = rest;
            match first {
                0x80.. => {
                    let index = integer(&mut rest, 7)?;
                    // The authority of the static table is an empty one.
                    if index == STATIC || self.entry(index) == Some(Entry::Replaced) {
                        put_authority(&mut written);
                        changed = true;
                    } else {
                        changed |= self.put(&mut written, 0x80, 7, index);
                    }
                }
                0x40.. => changed |= self.literal(&mut rest, &mut written, 0x40, 6)?,
                0x20.. => {
                    // The table's size.
                    integer(&mut rest, 5)?;
                    written.extend_from_slice(&field[..field.len() - rest.len()]);
                }
                _ => changed |= self.literal(&mut rest, &mut written, first & 0x10, 4)?,
            }
        }
        Ok(changed.then_some(written))
    }

    /// A field whose value is in the block; those with the bit 0x40 get into the table. Returns whether it was changed.
    fn literal(&mut self, rest: &mut &[u8], written: &mut Vec<u8>, kind: u8, bits: u8) -> Result<bool, Malformed> {
        let index = integer(rest, bits)?;
        let name = if index == 0 { Some(string(rest)?) } else { None };
        let value = string(rest)?;
        let is_authority = match (&name, self.entry(index)) {
            (Some(name), _) => name.bytes == if name.is_coded { CODED } else { NAME },
            (None, Some(Entry::Kept | Entry::Replaced)) => true,
            (None, _) => index == STATIC,
        };
        let replaced = is_authority && !value.is_authority();
        let changed = if replaced {
            put_authority(written);
            true
        } else {
            let changed = if self.entry(index) == Some(Entry::Replaced) {
                // The server does not know the name by this index.
                put_integer(written, kind, bits, STATIC);
                true
            } else {
                self.put(written, kind, bits, index)
            };
            written.extend(name.iter().flat_map(|name| name.whole));
            written.extend_from_slice(value.whole);
            changed
        };
        if kind == 0x40 {
            let entry = match (is_authority, replaced) {
                (_, true) => Entry::Replaced,
                (true, false) => Entry::Kept,
                (false, false) => Entry::Other,
            };
            self.entries.push_front(entry);
            self.entries.truncate(ENTRIES);
        }
        Ok(changed)
    }

    /// What an index refers to, if not to the static table.
    fn entry(&self, index: usize) -> Option<Entry> {
        self.entries.get(index.checked_sub(STATIC_TABLE_LEN + 1)?).copied()
    }

    /// Writes an index, lowered by what the server's table lacks before it. Returns whether it was lowered.
    fn put(&self, written: &mut Vec<u8>, kind: u8, bits: u8, index: usize) -> bool {
        let newer = index.saturating_sub(STATIC_TABLE_LEN + 1);
        let lacking = self.entries.iter().take(newer).filter(|entry| **entry == Entry::Replaced).count();
        put_integer(written, kind, bits, index - lacking);
        lacking > 0
    }
}

/// Writes the authority that can be taken, not to be put into the table.
fn put_authority(written: &mut Vec<u8>) {
    put_integer(written, 0, 4, STATIC);
    put_integer(written, 0, 7, REPLACEMENT.len());
    written.extend_from_slice(REPLACEMENT);
}

/// A text in a block.
struct Text<'a> {
    bytes: &'a [u8],
    is_coded: bool,
    /// With its length before it.
    whole: &'a [u8],
}

impl Text<'_> {
    fn is_authority(&self) -> bool {
        let decoded;
        let text = if self.is_coded {
            let Some(text) = huffman::decode(self.bytes, MAX_AUTHORITY) else { return false };
            decoded = text;
            &decoded[..]
        } else {
            self.bytes
        };
        text.len() <= MAX_AUTHORITY && Authority::try_from(text).is_ok()
    }
}

fn string<'a>(rest: &mut &'a [u8]) -> Result<Text<'a>, Malformed> {
    let all = *rest;
    let is_coded = all.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer(rest, 7)?;
    let (bytes, after) = rest.split_at_checked(length).ok_or(Malformed)?;
    *rest = after;
    Ok(Text { bytes, is_coded, whole: &all[..all.len() - after.len()] })
}

/// A number that begins in the lower `bits` of the first byte (section 5.1).
fn integer(rest: &mut &[u8], bits: u8) -> Result<usize, Malformed> {
    let mut next = || {
        let (first, after) = rest.split_first().ok_or(Malformed)?;
        *rest = after;
        Ok(*first)
    };
    let most = (1usize << bits) - 1;
    let mut number = usize::from(next()?) & most;
    if number < most {
        return Ok(number);
    }
    // More than any frame is long.
    for shift in [0, 7, 14, 21] {
        let byte = next()?;
        number += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Malformed)
}

fn put_integer(written: &mut Vec<u8>, kind: u8, bits: u8, number: usize) {
    let most = (1usize << bits) - 1;
    let mut byte = |value: usize, flag: u8| written.push(flag | u8::try_from(value).unwrap_or(0x7f));
    if number < most {
        return byte(number, kind);
    }
    byte(most, kind);
    let mut left = number - most;
    while left >= 0x80 {
        byte(left & 0x7f, 0x80);
        left >>= 7;
    }
    byte(left, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_they_are_read() {
        for bits in [4, 5, 6, 7] {
            for number in (0..600).chain([1 << 14, (1 << 20) + 3, (1 << 28) - 1]) {
                let mut written = Vec::new();
                put_integer(&mut written, 0, bits, number);
                let mut rest = &written[..];
                assert_eq!(integer(&mut rest, bits), Ok(number), "{bits}");
                assert!(rest.is_empty());
            }
        }
        assert_eq!(integer(&mut &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff][..], 7), Err(Malformed));
    }

    #[test]
    fn the_coded_name_is_the_name() {
        assert_eq!(huffman::decode(CODED, 100).as_deref(), Some(NAME));
    }
}
