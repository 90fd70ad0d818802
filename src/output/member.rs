//! An entry of a file system, read from a layer and written into a tar stream or a folder.

use std::sync::Arc;

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// Without a slash at either end.
    pub(crate) path: Vec<u8>,
    pub(crate) body: Body,
    pub(crate) meta: Meta,
}

/// The type of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    Folder,
    /// A file; its content follows.
    File {
        size: u64,
    },
    Symlink {
        target: Box<[u8]>,
    },
    /// A hard link to an earlier entry.
    Link {
        target: Box<[u8]>,
    },
    Char {
        major: u32,
        minor: u32,
    },
    Block {
        major: u32,
        minor: u32,
    },
    Fifo,
}

/// Extended attributes: names and values.
pub(crate) type Xattrs = Arc<[(Box<str>, Box<[u8]>)]>;

/// The metadata of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    /// The permission bits: the lower twelve.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Mtime,
    /// `None` for nearly every file.
    pub(crate) xattrs: Option<Xattrs>,
}

impl Meta {
    /// The metadata of a folder that no layer describes: as containerd's (`pkg/archive`, `mkparent`), with a constant time.
    pub(crate) const FOLDER: Self =
        Self { mode: 0o755, uid: 0, gid: 0, mtime: Mtime { seconds: 0, nanos: 0 }, xattrs: None };

    /// The size of the extended attributes, in bytes.
    pub(crate) fn xattr_bytes(&self) -> usize {
        self.xattrs.iter().flat_map(|xattrs| xattrs.iter()).map(|(name, value)| name.len() + value.len()).sum()
    }
}

/// A modification time, from 1970 to the last second of a signed 64-bit clock of nanoseconds. containerd replaces times beyond
/// that by 1970 (`pkg/archive/time.go`), and so do we.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Mtime {
    pub(crate) seconds: u64,
    pub(crate) nanos: u32,
}

impl Mtime {
    /// The last second of such a clock.
    const LAST: i64 = i64::MAX / 1_000_000_000;

    /// This time, or 1970 if it is out of bounds.
    pub(crate) fn bounded(seconds: i64, nanos: u32) -> Self {
        match u64::try_from(seconds) {
            Ok(seconds) if seconds < Self::LAST as u64 => Self { seconds, nanos },
            _ => Self::default(),
        }
    }

    /// Parses the form of extended headers, `1700000000.25`. Digits beyond nanoseconds are ignored.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
        if !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        let nanos = format!("{:0<9}", &fraction[..fraction.len().min(9)]).parse().ok()?;
        let digits = seconds.strip_prefix(['-', '+']).unwrap_or(seconds);
        if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        // A negative time is before 1970, whatever its fraction.
        let seconds = if seconds.starts_with('-') { -1 } else { digits.parse().unwrap_or(i64::MAX) };
        Some(Self::bounded(seconds, nanos))
    }
}

impl std::fmt::Display for Mtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let fraction = format!("{:09}", self.nanos);
        match fraction.trim_end_matches('0') {
            "" => write!(f, "{}", self.seconds),
            fraction => write!(f, "{}.{fraction}", self.seconds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back_as_they_went() {
        for (text, seconds, nanos) in [("0", 0, 0), ("17.25", 17, 250_000_000), ("1.000000001", 1, 1)] {
            let parsed = Mtime::parse(text).unwrap();
            assert_eq!(parsed, Mtime { seconds, nanos });
            assert_eq!(parsed.to_string(), text);
        }
        assert_eq!(Mtime::parse("1.0000000019"), Some(Mtime { seconds: 1, nanos: 1 }));
        for text in ["-1", "-1.5", "-0.5", "-99999999999999999999", "99999999999999999999", "9223372037"] {
            assert_eq!(Mtime::parse(text), Some(Mtime::default()), "{text}");
        }
        assert_eq!(Mtime::parse("9223372035.5").map(|time| time.seconds), Some(9_223_372_035));
        for text in ["", "-", "x", "1.x", "1.é0", "--1", "0x1"] {
            assert_eq!(Mtime::parse(text), None, "{text}");
        }
    }
}
