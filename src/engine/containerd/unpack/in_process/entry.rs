//! Reads the entries of an archive as Go's `archive/tar` reads them for containerd.
//!
//! Only what Go's reader has one way to understand is accepted: headers in the POSIX and the GNU format, with extended headers
//! and long names. Everything else is [`Fault::Unsupported`].

use super::fault::{Fault, shown};
use super::pax::{Records, Xattr};
use super::reader::LayerReader;
use super::time::{Nanos, SECONDS, bound};
use crate::output::member::Body;
use crate::tar::{BLOCK, binary_number, octal, padding, text};

/// The largest extended header or long name (Go's `archive/tar`, `maxSpecialFileSize`).
const SPECIAL_BYTES: i64 = 1 << 20;
/// The longest path within the layer. containerd's has the snapshot's folder in front, and both may have `PATH_MAX` bytes only.
pub(super) const PATH_BYTES: usize = 3500;

/// An entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// As in the archive.
    pub(super) name: Vec<u8>,
    pub(super) body: Body,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Nanoseconds since 1970, as they are set.
    pub(super) atime: u64,
    pub(super) mtime: u64,
    pub(super) xattrs: Vec<Xattr>,
}

/// What the headers before an entry's own say.
#[derive(Default)]
struct Special {
    records: Option<Records>,
    name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
}

/// The next entry, of which the content follows; `None` at the end.
pub(super) fn next(reader: &mut LayerReader<'_>) -> Result<Option<Entry>, Fault> {
    let mut special = Special::default();
    loop {
        let Some(block) = reader.block()? else { return end(&special) };
        if block == [0; BLOCK] {
            return match reader.block()? {
                None => end(&special),
                Some(block) if block == [0; BLOCK] => end(&special),
                Some(_) => Err(Fault::unsupported("it goes on behind a block of zeros")),
            };
        }
        let header = Header(&block);
        header.check()?;
        let duplicate = || Fault::unsupported("an entry has several headers of one kind");
        match header.kind() {
            b'x' => {
                let records = Records::parse(&header.content(reader)?)?;
                special.records.replace(records).map_or(Ok(()), |_| Err(duplicate()))?;
            }
            b'L' => {
                let name = text(&header.content(reader)?).to_vec();
                special.name.replace(name).map_or(Ok(()), |_| Err(duplicate()))?;
            }
            b'K' => {
                let target = text(&header.content(reader)?).to_vec();
                special.target.replace(target).map_or(Ok(()), |_| Err(duplicate()))?;
            }
            _ => return header.entry(special).map(Some),
        }
    }
}

fn end(special: &Special) -> Result<Option<Entry>, Fault> {
    match special {
        Special { records: None, name: None, target: None } => Ok(None),
        _ => Err(Fault::unsupported("it ends with an extended header")),
    }
}

/// A header.
struct Header<'a>(&'a [u8; BLOCK]);

impl Header<'_> {
    /// Fails unless it has a known format and its checksum.
    fn check(&self) -> Result<(), Fault> {
        let sum: u32 = self.0.iter().map(|&byte| u32::from(byte)).sum();
        let own: u32 = self.0[148..156].iter().map(|&byte| u32::from(byte)).sum();
        if octal(&self.0[148..156]) != Some(i64::from(sum - own + 8 * u32::from(b' '))) {
            return Err(Fault::unsupported("a header has a wrong checksum"));
        }
        let is_star = &self.0[508..512] == b"tar\0";
        if self.is_gnu() || (&self.0[257..263] == b"ustar\0" && !is_star) {
            return Ok(());
        }
        Err(Fault::unsupported("a header is in neither the POSIX nor the GNU format"))
    }

    fn is_gnu(&self) -> bool {
        &self.0[257..265] == b"ustar  \0"
    }

    fn kind(&self) -> u8 {
        self.0[156]
    }

    fn number(&self, from: usize, to: usize) -> Result<i64, Fault> {
        let field = &self.0[from..to];
        let number = match binary_number(field) {
            Some(number) => number.ok(),
            None => octal(field),
        };
        number.ok_or_else(|| Fault::unsupported("a header has a malformed number"))
    }

    fn time(&self, from: usize, to: usize) -> Result<Nanos, Fault> {
        let seconds = self.number(from, to)?;
        if seconds.unsigned_abs() >= SECONDS.unsigned_abs() {
            return Err(Fault::unsupported("a header has a time out of range"));
        }
        Ok(Nanos::from(seconds) * 1_000_000_000)
    }

    /// The content of an extended header.
    fn content(&self, reader: &mut LayerReader<'_>) -> Result<Vec<u8>, Fault> {
        let size = self.number(124, 136)?;
        if !(0..=SPECIAL_BYTES).contains(&size) {
            return Err(Fault::unsupported(format!("an extended header has {size} bytes")));
        }
        let mut left = size.unsigned_abs();
        let mut content = Vec::new();
        while left > 0 {
            let bytes = reader.take(left)?;
            left -= bytes.len() as u64;
            content.extend_from_slice(bytes);
        }
        reader.skip(padding(size.unsigned_abs()) as u64)?;
        Ok(content)
    }

    fn name(&self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        let prefix = if self.is_gnu() { b"".as_slice() } else { text(&self.0[345..500]) };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    /// The entry that it and the headers before it describe.
    fn entry(&self, special: Special) -> Result<Entry, Fault> {
        let records = special.records.unwrap_or_default();
        let name = special.name.filter(|name| !name.is_empty());
        let name = match name {
            Some(name) => name,
            None => records.text("path").unwrap_or_else(|| self.name()),
        };
        let unsupported = |what: String| Fault::unsupported(format!("`{}` {what}", shown(&name)));
        if name.len() > PATH_BYTES {
            return Err(unsupported("is too long a name".to_owned()));
        }
        let target = special.target.filter(|target| !target.is_empty());
        let target = match target {
            Some(target) => target,
            None => records.text("linkpath").unwrap_or_else(|| text(&self.0[157..257]).to_vec()),
        };
        let size = self.number(124, 136)?;
        let size = records.number("size")?.unwrap_or(size);
        let body = self.body(&name, target.into(), u64::try_from(size).ok()).map_err(unsupported)?;
        let mode = self.number(100, 108)?;
        let mode = u32::try_from(mode).map_err(|_| unsupported(format!("has the mode {mode:o}")))?;
        let id = |key: &str, from, to| {
            let id = self.number(from, to)?;
            let id = records.number(key)?.unwrap_or(id);
            // To chown(2) the largest id means "unchanged".
            let known = u32::try_from(id).ok().filter(|id| *id != u32::MAX);
            known.ok_or_else(|| unsupported(format!("has the owner {id}")))
        };
        let (uid, gid) = (id("uid", 108, 116)?, id("gid", 116, 124)?);
        let mtime = self.time(136, 148)?;
        let mtime = records.time("mtime")?.unwrap_or(mtime);
        let atime = records.time("atime")?.or(self.gnu_atime()?);
        records.time("ctime")?;
        // containerd's `latestTime`; absent is before everything.
        let atime = atime.map_or(mtime, |atime| atime.max(mtime));
        let xattrs = records.xattrs()?;
        Ok(Entry { body, mode: mode & 0o7777, uid, gid, atime: bound(atime), mtime: bound(mtime), xattrs, name })
    }

    /// The access time of the GNU format, in which the change time must be readable as well.
    fn gnu_atime(&self) -> Result<Option<Nanos>, Fault> {
        if !self.is_gnu() {
            return Ok(None);
        }
        if self.0[357] != 0 {
            self.time(357, 369)?;
        }
        (self.0[345] != 0).then(|| self.time(345, 357)).transpose()
    }

    fn body(&self, name: &[u8], target: Box<[u8]>, size: Option<u64>) -> Result<Body, String> {
        let size = size.ok_or("has a negative size")?;
        let is_slashed = name.ends_with(b"/");
        let (major, minor) = (self.number(329, 337), self.number(337, 345));
        let device = || {
            // What the kernel's interface can express.
            let major =
                major.as_ref().ok().and_then(|&major| u32::try_from(major).ok()).filter(|major| *major < 1 << 12);
            let minor =
                minor.as_ref().ok().and_then(|&minor| u32::try_from(minor).ok()).filter(|minor| *minor < 1 << 20);
            major.zip(minor).ok_or("is a device with a number out of range")
        };
        if major.is_err() || minor.is_err() {
            return Err("has a malformed device number".to_owned());
        }
        let body = match self.kind() {
            b'0' if !is_slashed => Body::File { size },
            0 if !is_slashed => Body::File { size },
            0 | b'5' => Body::Folder,
            b'1' => Body::Link { target },
            b'2' => Body::Symlink { target },
            b'3' => device().map(|(major, minor)| Body::Char { major, minor })?,
            b'4' => device().map(|(major, minor)| Body::Block { major, minor })?,
            b'6' => Body::Fifo,
            kind => return Err(format!("is of the type {:?}", char::from(kind))),
        };
        match body {
            Body::File { .. } => Ok(body),
            _ if size > 0 => Err("has content and is no file".to_owned()),
            _ => Ok(body),
        }
    }
}
