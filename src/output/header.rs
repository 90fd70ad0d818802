//! The header of a member in a tar stream, extended (POSIX `pax`) where the plain one is too small.

use tar_core::{EntryBuilder, EntryType, HeaderError};

use super::member::{Body, Member};

/// The largest time in a plain header: eleven octal digits.
const MAX_SECONDS: u64 = 0o777_7777_7777;

/// The header of `member`, a whole number of blocks.
///
/// # Errors
/// When a device number is too large: extended headers have no record for it.
pub(super) fn header(member: &Member) -> Result<Vec<u8>, HeaderError> {
    let mut builder = EntryBuilder::new_ustar();
    let (kind, size) = match &member.body {
        Body::Folder => (EntryType::Directory, 0),
        Body::File { size } => (EntryType::Regular, *size),
        Body::Symlink { .. } => (EntryType::Symlink, 0),
        Body::Link { .. } => (EntryType::Link, 0),
        Body::Char { .. } => (EntryType::Char, 0),
        Body::Block { .. } => (EntryType::Block, 0),
        Body::Fifo => (EntryType::Fifo, 0),
    };
    match &member.body {
        Body::Folder => builder.path([&member.path[..], b"/"].concat()),
        _ => builder.path(&member.path),
    };
    match &member.body {
        Body::Symlink { target } | Body::Link { target } => {
            builder.link_name(target);
        }
        Body::Char { major, minor } | Body::Block { major, minor } => {
            builder.device(*major, *minor)?;
        }
        Body::Folder | Body::File { .. } | Body::Fifo => {}
    }
    let meta = &member.meta;
    builder.entry_type(kind).mode(meta.mode)?.uid(meta.uid.into())?.gid(meta.gid.into())?.size(size)?;
    builder.mtime(meta.mtime.seconds.min(MAX_SECONDS))?;
    if meta.mtime.nanos != 0 || meta.mtime.seconds > MAX_SECONDS {
        builder.add_pax("mtime", meta.mtime.to_string());
    }
    for (name, value) in meta.xattrs.iter().flat_map(|xattrs| xattrs.iter()) {
        builder.add_pax(&format!("SCHILY.xattr.{name}"), value);
    }
    Ok(builder.finish_bytes())
}
