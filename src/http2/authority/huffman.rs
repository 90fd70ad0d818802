//! The Huffman code of HPACK (RFC 7541, appendix B).
//!
//! It is a canonical one: codes of one length count up in the order of the bytes that they stand for, and follow those
//! that are shorter. So the lengths alone define it.

/// The code lengths of the 256 bytes, and of EOS.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];
const MAX_CODE_BITS: u8 = 30;

/// The text that `coded` encodes; `None` if it is malformed or longer than `most` bytes.
pub(super) fn decode(coded: &[u8], most: usize) -> Option<Vec<u8>> {
    let (mut text, mut code, mut length) = (Vec::new(), 0u32, 0u8);
    for bit in coded.iter().flat_map(|byte| (0..8).rev().map(move |at| u32::from(byte >> at & 1))) {
        (code, length) = (code << 1 | bit, length + 1);
        if length > MAX_CODE_BITS {
            return None;
        }
        if let Some(byte) = symbol(code, length) {
            if text.len() == most {
                return None;
            }
            // EOS must not occur in a string.
            text.push(u8::try_from(byte).ok()?);
            (code, length) = (0, 0);
        }
    }
    // What is left fills the last byte up: the beginning of the mark, all ones.
    (length < 8 && code == (1 << length) - 1).then_some(text)
}

/// The symbol of a code of this length.
fn symbol(code: u32, length: u8) -> Option<usize> {
    let mut first = 0;
    for shorter in 1..length {
        first = (first + count(shorter)) << 1;
    }
    let nth = usize::try_from(code.checked_sub(first)?).ok()?;
    LENGTHS.iter().enumerate().filter(|(_, of)| **of == length).nth(nth).map(|(byte, _)| byte)
}

fn count(length: u8) -> u32 {
    COUNTS[length as usize]
}

/// How many codes have each length.
const COUNTS: [u32; MAX_CODE_BITS as usize + 1] = {
    let (mut counts, mut at) = ([0; MAX_CODE_BITS as usize + 1], 0);
    while at < LENGTHS.len() {
        counts[LENGTHS[at] as usize] += 1;
        at += 1;
    }
    counts
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_rfc_are_read() {
        // RFC 7541, appendix C.4 and C.6.
        for (coded, text) in [
            ("f1e3c2e5f23a6ba0ab90f4ff", "www.example.com"),
            ("a8eb10649cbf", "no-cache"),
            ("25a849e95bb8e8b4bf", "custom-value"),
            ("9d29ad171863c78f0b97c8e9ae82ae43d3", "https://www.example.com"),
            ("d07abe941054d444a8200595040b8166e082a62d1bff", "Mon, 21 Oct 2013 20:13:21 GMT"),
            ("", ""),
        ] {
            assert_eq!(decode(&hex::decode(coded).unwrap(), 100).as_deref(), Some(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_or_too_long_is_refused() {
        let coded = hex::decode("f1e3c2e5f23a6ba0ab90f4ff").unwrap();
        assert!(decode(&coded, 14).is_none() && decode(&coded, 15).is_some());
        // Cut off, padded with zeros or with a whole byte, and the EOS symbol.
        for coded in [&coded[..11], &[0x18], &[0xff], &[0xff; 4]] {
            assert_eq!(decode(coded, 100), None, "{coded:x?}");
        }
    }
}
