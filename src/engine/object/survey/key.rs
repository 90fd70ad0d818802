//! Digests in little memory.

use crate::image::Digest;

/// A digest in 32 bytes: the hash itself, or that of a longer one.
pub(in super::super) type Key = [u8; 32];

/// The key of a digest.
pub(in super::super) fn key(digest: &Digest) -> Key {
    let hex = if digest.hex().len() == 64 { digest.clone() } else { Digest::sha256(digest.as_str().as_bytes()) };
    let mut key = [0; 32];
    for (byte, pair) in key.iter_mut().zip(hex.hex().as_bytes().chunks(2)) {
        let value =
            |letter: u8| char::from(letter).to_digit(16).and_then(|digit| u8::try_from(digit).ok()).unwrap_or(0);
        *byte = value(pair[0]) << 4 | value(pair[1]);
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(text: &str) -> Digest {
        Digest::sha256(text.as_bytes())
    }

    #[test]
    fn keys_are_the_hashes() {
        let long = Digest::of(crate::image::Algorithm::Sha512, b"x");
        assert_ne!(key(&long), key(&digest("x")));
        let hex: String = key(&digest("x")).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, digest("x").hex());
    }
}
