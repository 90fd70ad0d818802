//! One member of a tar archive: where it ends, and whether it may be omitted.
//!
//! dockerd reads the archive after us with Go's `archive/tar`. If the two of us disagreed about a member's end or name,
//! the wrong bytes would be omitted. So `tar-core` reads every header, this module reads it once more by Go's rules
//! (`archive/tar/reader.go`, `strconv.go`), and only forms on which all readers of tar agree are accepted. From the
//! first other one on, the rest of the archive passes unchanged.

use tar_core::parse::{Limits, ParseEvent, Parser};

use crate::tar::{BLOCK, clean, padding, plain_octal, text};

/// The longest extended header that Go reads (`archive/tar/common.go`, `maxSpecialFileSize`).
const EXTENSION_BYTES: u64 = 1 << 20;
/// PAX records that do not affect a file's content. Others may have effects that we do not know.
const HARMLESS: &[&str] = &["mtime", "atime", "ctime", "uid", "gid", "uname", "gname"];

/// How the bytes after the last member are read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// Too few to tell: this many are needed, counted from the last member's end.
    More(usize),
    /// The next member.
    Member(Member),
    /// A block of zeros: the end, if there is another.
    Zeros,
    /// A form that another reader may read differently, and why.
    Strange(&'static str),
}

/// A member of an archive.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Bytes of all its headers.
    pub(super) head: usize,
    /// Bytes of its content, without the padding.
    pub(super) size: u64,
    /// Its name as containerd's importer knows it, if it is a regular file.
    pub(super) file: Option<Vec<u8>>,
    /// Its name, if it is a link: unpacking the archive puts another file there.
    pub(super) link: Option<Vec<u8>>,
    /// Whether all readers of tar read it alike.
    pub(super) plain: bool,
}

impl Member {
    /// Bytes of zeros that fill its content's last block.
    pub(super) fn padding(&self) -> usize {
        padding(self.size)
    }
}

/// Reads the member that `bytes` begin with.
pub(super) fn read(bytes: &[u8]) -> Read {
    let member = match walk(bytes) {
        Ok(member) => member,
        Err(other) => return other,
    };
    let (member, path) = member;
    let mut parser = Parser::new(Limits { max_metadata_size: EXTENSION_BYTES as u32, ..Limits::default() });
    // The name ends a header; the bytes after it are not read.
    match parser.parse(&bytes[..member.head]) {
        Ok(ParseEvent::Entry { consumed, entry })
            if consumed == member.head && entry.size == member.size && *entry.path == *path =>
        {
            Read::Member(member)
        }
        Ok(ParseEvent::GlobalExtensions { consumed, .. }) if consumed == member.head && path.is_empty() => {
            Read::Member(member)
        }
        Ok(_) => Read::Strange("a header that can be read in two ways"),
        Err(_) => Read::Strange("a header that is malformed"),
    }
}

/// The member and its name as written, which is empty for a global header.
fn walk(bytes: &[u8]) -> Result<(Member, Vec<u8>), Read> {
    let (mut at, mut records, mut long_name, mut long_link) = (0, None, None, false);
    let mut plain = true;
    loop {
        let header = Header(bytes.get(at..at + BLOCK).ok_or(Read::More(at + BLOCK))?);
        if header.0.iter().all(|&byte| byte == 0) {
            return Err(if at == 0 { Read::Zeros } else { Read::Strange("an extended header without a member") });
        }
        let size = header.size().ok_or(Read::Strange("a size that is not a plain number"))?;
        plain &= header.is_plain();
        if header.0.ends_with(b"tar\0") && header.is_ustar() {
            return Err(Read::Strange("a header of star"));
        }
        let kind = header.kind();
        if !matches!(kind, b'x' | b'g' | b'L' | b'K') {
            let (name, size) = resolve(&header, size, records, long_name, &mut plain)?;
            plain &= long_name.is_none() && !long_link;
            return Ok((member(at + BLOCK, kind, &name, size, plain)?, name));
        }
        if !header.is_ustar() && !header.is_gnu() {
            return Err(Read::Strange("an extended header in an archive of the oldest kind"));
        }
        if size > EXTENSION_BYTES {
            return Err(Read::Strange("an extended header of more than 1 MiB"));
        }
        let (start, length) = (at + BLOCK, size as usize);
        let end = start + length + padding(size);
        if bytes.len() < end {
            return Err(Read::More(end));
        }
        let content = &bytes[start..start + length];
        let again = match kind {
            b'g' if at > 0 => true,
            b'g' => return Ok((Member { head: end, size: 0, file: None, link: None, plain: false }, Vec::new())),
            b'x' => records.replace(content).is_some(),
            b'L' => long_name.replace(content).is_some(),
            _ => std::mem::replace(&mut long_link, true),
        };
        if again {
            return Err(Read::Strange("extended headers that contradict each other"));
        }
        at = end;
    }
}

/// Name and size after the extended headers.
fn resolve(
    header: &Header<'_>,
    mut size: u64,
    records: Option<&[u8]>,
    long_name: Option<&[u8]>,
    plain: &mut bool,
) -> Result<(Vec<u8>, u64), Read> {
    let mut name = header.name().ok_or(Read::Strange("a name in two parts, in an archive of GNU tar"))?;
    let mut seen: Vec<&str> = Vec::new();
    for record in Records(records.unwrap_or_default()) {
        let (key, value) = record.ok_or(Read::Strange("a malformed extended header"))?;
        if seen.contains(&key) {
            return Err(Read::Strange("an extended header that says something twice"));
        }
        // Limited, because each record searches the list of those before it.
        if seen.len() == 64 {
            return Err(Read::Strange("an extended header of many records"));
        }
        seen.push(key);
        match key {
            "path" if long_name.is_some() || value.is_empty() || value.contains(&0) => {
                return Err(Read::Strange("a name that is given twice"));
            }
            "path" => name = value.to_vec(),
            "size" => size = decimal(value).ok_or(Read::Strange("a size that is not a plain number"))?,
            key if key.starts_with("GNU.sparse.") => return Err(Read::Strange("a sparse file")),
            key => *plain &= HARMLESS.contains(&key) && is_harmless(key, value),
        }
    }
    if let Some(long) = long_name {
        name = text(long).to_vec();
    }
    if name.is_empty() {
        return Err(Read::Strange("a member without a name"));
    }
    Ok((name, size))
}

fn member(head: usize, kind: u8, name: &[u8], size: u64, plain: bool) -> Result<Member, Read> {
    let folder = kind == 0 && name.ends_with(b"/");
    match kind {
        b'S' => Err(Read::Strange("a sparse file")),
        // Go reads these as having no content, whatever their size.
        _ if (folder || matches!(kind, b'1'..=b'6')) && size != 0 => Err(Read::Strange("content where there is none")),
        b'0' | 0 if !folder => Ok(Member { head, size, file: Some(clean(name)), link: None, plain }),
        b'1' | b'2' => Ok(Member { head, size, file: None, link: Some(clean(name)), plain: false }),
        _ => Ok(Member { head, size, file: None, link: None, plain: false }),
    }
}

/// A block that is a header.
#[derive(Debug, Clone, Copy)]
struct Header<'a>(&'a [u8]);

impl<'a> Header<'a> {
    fn kind(&self) -> u8 {
        self.0[156]
    }

    fn is_ustar(&self) -> bool {
        &self.0[257..263] == b"ustar\0"
    }

    fn is_gnu(&self) -> bool {
        &self.0[257..265] == b"ustar  \0"
    }

    /// `None` if the second half of the name may have another meaning (times, in GNU tar's own format).
    fn name(&self) -> Option<Vec<u8>> {
        let (prefix, name) = (text(&self.0[345..500]), text(&self.0[..100]));
        if self.is_ustar() && !prefix.is_empty() {
            return Some([prefix, b"/", name].concat());
        }
        (!self.is_gnu() || self.0[345..500].iter().all(|&byte| byte == 0)).then(|| name.to_vec())
    }

    /// The size, if it is written in octal digits or, as for files of 8 GiB and more, as a positive binary number.
    fn size(&self) -> Option<u64> {
        let field = &self.0[124..136];
        match field.strip_prefix(&[0x80, 0, 0, 0]) {
            Some(number) => {
                let number = u64::from_be_bytes(number.try_into().ok()?);
                // Go uses signed numbers. No file is that large, and the end of the member must not overflow.
                (number <= i64::MAX as u64 - BLOCK as u64).then_some(number)
            }
            None => plain_octal(field),
        }
    }

    /// Whether every number is written in the usual way.
    fn is_plain(&self) -> bool {
        let numbers = [100..108, 108..116, 116..124, 136..148, 148..156];
        let devices = [329..337, 337..345];
        let has_devices = self.is_ustar() || self.is_gnu();
        let is_number = |field: &[u8]| field.iter().all(|&byte| byte == 0) || plain_octal(field).is_some();
        numbers.into_iter().all(|field| is_number(&self.0[field]))
            && (!has_devices || devices.into_iter().all(|field| is_number(&self.0[field])))
    }
}

/// A number of decimal digits, small enough for all readers.
fn decimal(text: &[u8]) -> Option<u64> {
    let is_number = !text.is_empty() && text.len() <= 18 && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| is_number)?.parse().ok()
}

fn is_harmless(key: &str, value: &[u8]) -> bool {
    match key {
        "uname" | "gname" => !value.contains(&0),
        "uid" | "gid" => decimal(value).is_some(),
        _ => {
            let mut parts = value.splitn(2, |&byte| byte == b'.');
            parts.next().is_some_and(|seconds| decimal(seconds).is_some())
                && parts.next().is_none_or(|fraction| fraction.len() <= 9 && decimal(fraction).is_some())
        }
    }
}

/// The records of a PAX header: `LENGTH KEY=VALUE\n`. `None` if one is malformed or unusual.
struct Records<'a>(&'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Option<(&'a str, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let record = self.split();
        if record.is_none() {
            self.0 = &[];
        }
        Some(record)
    }
}

impl<'a> Records<'a> {
    fn split(&mut self) -> Option<(&'a str, &'a [u8])> {
        let space = self.0.iter().take(20).position(|&byte| byte == b' ')?;
        if self.0[0] == b'0' {
            return None;
        }
        let length = usize::try_from(decimal(&self.0[..space])?).ok()?;
        let record = self.0.get(space + 1..length)?.strip_suffix(b"\n")?;
        self.0 = &self.0[length..];
        let equals = record.iter().position(|&byte| byte == b'=')?;
        let key = std::str::from_utf8(&record[..equals]).ok()?;
        let is_usual = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b':' | b'/');
        // A reader that splits records at newlines would read a longer value as several records.
        let value = &record[equals + 1..];
        let is_sound = !key.is_empty() && key.bytes().all(is_usual) && !value.contains(&b'\n');
        is_sound.then_some((key, value))
    }
}

#[cfg(test)]
mod tests;
