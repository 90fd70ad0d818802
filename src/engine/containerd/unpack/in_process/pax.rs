//! Extended headers, as Go's `archive/tar` reads them.

use std::collections::BTreeMap;

use super::fault::Fault;
use super::time::{Nanos, SECONDS};

const XATTR: &[u8] = b"SCHILY.xattr.";
/// The records that must not contain NUL, read or not (Go's `archive/tar`, `validPAXRecord`).
const TEXTS: [&[u8]; 4] = [b"path", b"linkpath", b"uname", b"gname"];

/// The name and value of an extended attribute.
pub(super) type Xattr = (Vec<u8>, Vec<u8>);

/// The records of an extended header; the last of each key counts.
#[derive(Debug, Default)]
pub(super) struct Records(BTreeMap<Vec<u8>, Vec<u8>>);

impl Records {
    /// Parses `%d %s=%s\n`, as often as it comes.
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, Fault> {
        let mut records = BTreeMap::new();
        while !bytes.is_empty() {
            let (record, rest) = split(bytes).ok_or_else(|| Fault::unsupported("an extended header is malformed"))?;
            let equals = record.iter().position(|&byte| byte == b'=');
            let equals = equals.ok_or_else(|| Fault::unsupported("an extended header has no `=`"))?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            if key.is_empty() || key.contains(&0) || key.starts_with(b"GNU.sparse.") {
                let key = String::from_utf8_lossy(key);
                return Err(Fault::unsupported(format!("an extended header has the record `{key}`")));
            }
            if TEXTS.contains(&key) && value.contains(&0) {
                let key = String::from_utf8_lossy(key);
                return Err(Fault::unsupported(format!("the record `{key}` contains NUL")));
            }
            records.insert(key.to_vec(), value.to_vec());
            bytes = rest;
        }
        Ok(Self(records))
    }

    /// A record. An empty one counts as absent.
    fn get(&self, key: &str) -> Option<&[u8]> {
        self.0.get(key.as_bytes()).map(|value| &value[..]).filter(|value| !value.is_empty())
    }

    /// A name, without NUL.
    pub(super) fn text(&self, key: &str) -> Option<Vec<u8>> {
        self.get(key).map(<[u8]>::to_vec)
    }

    /// A number without a sign.
    pub(super) fn number(&self, key: &str) -> Result<Option<i64>, Fault> {
        let wrong = || Fault::unsupported(format!("the record `{key}` is no number"));
        self.get(key).map(|value| digits(value).ok_or_else(wrong)).transpose()
    }

    /// A time.
    pub(super) fn time(&self, key: &str) -> Result<Option<Nanos>, Fault> {
        let wrong = || Fault::unsupported(format!("the record `{key}` is no time"));
        self.get(key).map(|value| time(value).ok_or_else(wrong)).transpose()
    }

    /// The extended attributes.
    pub(super) fn xattrs(&self) -> Result<Vec<Xattr>, Fault> {
        let found = self.0.iter().filter_map(|(key, value)| Some((key.strip_prefix(XATTR)?, value)));
        let check = |(key, value): (&[u8], &Vec<u8>)| {
            // What is made in a folder with a default access control list depends on the order of the calls.
            if key.is_empty() || value.is_empty() || key.starts_with(b"system.posix_acl_") {
                let key = String::from_utf8_lossy(key);
                return Err(Fault::unsupported(format!("it has the extended attribute `{key}`")));
            }
            Ok((key.to_vec(), value.clone()))
        };
        found.map(check).collect()
    }
}

/// The first record, without its length and newline, and what follows.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = bytes.iter().position(|&byte| byte == b' ')?;
    let length = usize::try_from(digits(&bytes[..space])?).ok()?;
    let record = bytes.get(space + 1..length)?;
    Some((record.strip_suffix(b"\n")?, &bytes[length..]))
}

/// A number that consists of digits only.
fn digits(value: &[u8]) -> Option<i64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(value).ok()?.parse().ok()
}

/// A time as `17.25` or `-17.25`. Digits beyond nanoseconds do not count.
fn time(value: &[u8]) -> Option<Nanos> {
    let (is_negative, value) = match value.strip_prefix(b"-") {
        Some(value) => (true, value),
        None => (false, value),
    };
    let dot = value.iter().position(|&byte| byte == b'.');
    let (seconds, fraction) = match dot {
        Some(dot) => (&value[..dot], &value[dot + 1..]),
        None => (value, &value[value.len()..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = digits(seconds).filter(|seconds| *seconds < SECONDS)?;
    let digit = |at| Nanos::from(fraction.get(at).map_or(0, |digit| digit - b'0'));
    let nanos = (0..9).fold(0, |nanos, at| nanos * 10 + digit(at));
    let time = Nanos::from(seconds) * 1_000_000_000 + nanos;
    Some(if is_negative { -time } else { time })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_as_in_go() {
        let records = Records::parse(b"9 a=b=\nc\n10 a=bcde\n8 path=\n23 SCHILY.xattr.u.x=\0\n\n").unwrap();
        assert_eq!(records.text("a"), Some(b"bcde".to_vec()));
        assert_eq!(records.text("path"), None);
        assert_eq!(records.xattrs().unwrap(), [(b"u.x".to_vec(), b"\0\n".to_vec())]);
        for bad in ["5 a=b\n", "6 a=b", "6 a=bc\n", "7 =abc\n", "6 abc\n", "x a=b\n", "-6 a=b\n", "99 a=b\n", "0 \n"] {
            assert!(Records::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        for bad in ["11 path=\0a\n", "15 linkpath=\0a\n", "12 uname=\0a\n", "12 gname=\0a\n"] {
            let fault = Records::parse(bad.as_bytes()).unwrap_err();
            assert!(
                matches!(&fault, Fault::Unsupported(reason) if reason.ends_with("contains NUL")),
                "{bad:?}: {fault:?}"
            );
        }
        assert!(Records::parse(b"7 a=\0b\n").is_ok());
        assert!(Records::parse(b"7 a\0=b\n").is_err());
        assert!(Records::parse(b"22 GNU.sparse.major=1\n").is_err());
    }

    #[test]
    fn times_have_nanoseconds_and_a_sign() {
        for (text, expected) in [
            ("0", Some(0)),
            ("17.25", Some(17_250_000_000)),
            ("-1.5", Some(-1_500_000_000)),
            ("-0.000000001", Some(-1)),
            ("1.0000000019", Some(1_000_000_001)),
            ("5.", Some(5_000_000_000)),
            ("", None),
            ("-", None),
            (".5", None),
            ("1.x", None),
            ("+1", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(time(text.as_bytes()), expected, "{text}");
        }
    }
}
