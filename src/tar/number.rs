//! The numbers of headers. `tar-core` leaves the upper bits of those out that do not fit, and the sign.

use super::write::BLOCK;

/// Where a header has numbers that a reader goes by: what they are called, where they begin and end.
const FIELDS: [(&str, usize, usize); 4] =
    [("mode", 100, 108), ("owner", 108, 116), ("group", 116, 124), ("size", 124, 136)];
const TIME: std::ops::Range<usize> = 136..148;
const SIZE: std::ops::Range<usize> = 124..136;
const KIND: usize = 156;

/// A number that is written in binary, with the first bit set (GNU's way), as Go reads it (`archive/tar`, `parseNumeric`):
/// with a sign, and at most 63 bits. `None` if it is not written so.
fn binary(field: &[u8]) -> Option<Result<i64, ()>> {
    let first = *field.first().filter(|first| **first & 0x80 != 0)?;
    // Of the first byte one bit is the mark and the next one the sign.
    let sign = if first & 0x40 != 0 { -1i64 } else { 0 };
    let head = i64::from(first & 0x3f) | if sign < 0 { !0x3f } else { 0 };
    let number = field[1..].iter().try_fold(head, |number, byte| {
        let shifted = number.checked_mul(256).ok_or(())?;
        Ok(shifted | i64::from(*byte))
    });
    Some(number)
}

/// The time of a header, if it is written in binary.
///
/// # Errors
/// When it does not fit.
pub(crate) fn binary_time(header: &[u8; BLOCK]) -> Result<Option<i64>, String> {
    binary(&header[TIME]).transpose().map_err(|()| "it has a time of more than 63 bits".to_owned())
}

/// Checks the numbers of the headers that `bytes` begin with: that of a member, and those of its extended headers
/// before it.
///
/// # Errors
/// When one is negative or has more than 63 bits, which no reader of Go takes.
pub(crate) fn check_numbers(bytes: &[u8]) -> Result<(), String> {
    let mut rest = bytes;
    while let Some(header) = rest.first_chunk::<BLOCK>() {
        for (what, from, to) in FIELDS {
            match binary(&header[from..to]) {
                None | Some(Ok(0..)) => {}
                Some(Ok(number)) => return Err(format!("it has the {what} {number}, which is less than zero")),
                Some(Err(())) => return Err(format!("it has a {what} of more than 63 bits")),
            }
        }
        if !matches!(header[KIND], b'x' | b'g' | b'L' | b'K') {
            return Ok(());
        }
        let size = match binary(&header[SIZE]) {
            Some(number) => number.unwrap_or_default().unsigned_abs(),
            None => {
                let digits = header[SIZE].iter().copied().filter(u8::is_ascii_digit);
                digits.fold(0u64, |size, digit| size.saturating_mul(8).saturating_add(u64::from(digit & 7)))
            }
        };
        let blocks = usize::try_from(size).unwrap_or(usize::MAX).div_ceil(BLOCK).saturating_mul(BLOCK);
        rest = rest.get(blocks.saturating_add(BLOCK)..).unwrap_or_default();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_numbers_have_a_sign_and_63_bits() {
        let field = |text: &str| hex::decode(text).unwrap();
        for (text, expected) in [
            ("303030303030303030303000", None),
            ("800000000000000000000000", Some(Ok(0))),
            ("800000000000000000000100", Some(Ok(256))),
            ("800000007fffffffffffffff", Some(Ok(i64::MAX))),
            ("800000008000000000000000", Some(Err(()))),
            ("800100000000000000000000", Some(Err(()))),
            ("ffffffffffffffffffffffff", Some(Ok(-1))),
            ("fffffffffffffffffffffe00", Some(Ok(-512))),
            ("ffffffff8000000000000000", Some(Ok(i64::MIN))),
            ("ffffffff7fffffffffffffff", Some(Err(()))),
            ("ffffffffffffffff", Some(Ok(-1))),
        ] {
            assert_eq!(binary(&field(text)), expected, "{text}");
        }
    }

    #[test]
    fn numbers_that_would_be_cut_off_are_refused_wherever_they_stand() {
        let huge = [0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut plain = super::super::member("file", 3).to_vec();
        assert_eq!(check_numbers(&plain), Ok(()));
        plain[124..136].copy_from_slice(&huge);
        assert!(check_numbers(&plain).unwrap_err().contains("a size of more than 63 bits"));
        let mut long = super::super::member(&"a".repeat(200), 1 << 40).to_vec();
        assert_eq!(check_numbers(&long), Ok(()));
        let at = long.len() - BLOCK;
        long[at + 124..at + 136].copy_from_slice(&[0xff; 12]);
        assert!(check_numbers(&long).unwrap_err().contains("the size -1"));
        long[124..136].copy_from_slice(&huge);
        assert!(check_numbers(&long).unwrap_err().contains("a size of more than 63 bits"));
    }
}
