//! Reads the numbers of headers as Go does, and checks them, because `tar-core` drops sign and upper bits of binary ones.

use super::name::text;
use super::write::BLOCK;

/// The numeric fields: name, begin, end.
const FIELDS: [(&str, usize, usize); 4] =
    [("mode", 100, 108), ("owner", 108, 116), ("group", 116, 124), ("size", 124, 136)];
const TIME: std::ops::Range<usize> = 136..148;
const SIZE: std::ops::Range<usize> = 124..136;
const KIND: usize = 156;

/// A binary number (GNU's format, with the first bit set) as Go reads it (`archive/tar`, `parseNumeric`): signed, of at most
/// 63 bits. `None` if the field is not binary.
pub(crate) fn binary(field: &[u8]) -> Option<Result<i64, ()>> {
    let first = *field.first().filter(|first| **first & 0x80 != 0)?;
    // The first bit marks a binary number, the second one is the sign.
    let sign = if first & 0x40 != 0 { -1i64 } else { 0 };
    let head = i64::from(first & 0x3f) | if sign < 0 { !0x3f } else { 0 };
    let number = field[1..].iter().try_fold(head, |number, byte| {
        let shifted = number.checked_mul(256).ok_or(())?;
        Ok(shifted | i64::from(*byte))
    });
    Some(number)
}

/// An octal number between spaces and NULs as Go reads it (`archive/tar`, `parseOctal`); nothing is 0.
pub(crate) fn octal(field: &[u8]) -> Option<i64> {
    let is_blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !is_blank(byte)).unwrap_or(field.len());
    let end = field.iter().rposition(|byte| !is_blank(byte)).map_or(start, |end| end + 1);
    text(&field[start..end]).iter().try_fold(0i64, |number, digit| match digit {
        b'0'..=b'7' => number.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

/// An octal number that every reader of tar reads alike: spaces, at least one digit, then only spaces and NULs.
pub(crate) fn plain_octal(field: &[u8]) -> Option<u64> {
    let start = field.iter().position(|byte| *byte != b' ')?;
    let digits = field[start..].iter().take_while(|byte| matches!(byte, b'0'..=b'7')).count();
    let is_plain = digits > 0 && field[start + digits..].iter().all(|byte| matches!(byte, b' ' | 0));
    octal(field).filter(|_| is_plain).and_then(|number| u64::try_from(number).ok())
}

/// The time of a header, if it is binary.
///
/// # Errors
/// When it does not fit.
pub(crate) fn binary_time(header: &[u8; BLOCK]) -> Result<Option<i64>, String> {
    binary(&header[TIME]).transpose().map_err(|()| "it has a time of more than 63 bits".to_owned())
}

/// Checks the numbers of the headers at the beginning of `bytes`: a member's, and those of its extended headers.
///
/// # Errors
/// When one is negative or has more than 63 bits, which Go's reader refuses.
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
    fn octal_numbers_are_as_in_go_and_plain_ones_as_everywhere() {
        for (field, expected, plain) in [
            ("0000644\0", Some(0o644), Some(0o644)),
            ("   644 \0", Some(0o644), Some(0o644)),
            ("77777777777 ", Some(0o777_7777_7777), Some(0o777_7777_7777)),
            ("644", Some(0o644), Some(0o644)),
            ("\0\0 644\0", Some(0o644), None),
            ("644\0x\0", Some(0o644), None),
            ("644 1\0", None, None),
            ("\t644\0", None, None),
            ("648\0", None, None),
            ("+644\0", None, None),
            ("-1\0", None, None),
            ("777777777777777777777", Some(i64::MAX), Some(i64::MAX as u64)),
            ("1000000000000000000000", None, None),
            ("        ", Some(0), None),
            ("\0\0\0\0", Some(0), None),
            ("", Some(0), None),
        ] {
            assert_eq!((octal(field.as_bytes()), plain_octal(field.as_bytes())), (expected, plain), "{field:?}");
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
