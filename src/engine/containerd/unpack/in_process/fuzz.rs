//! What holds of the entries of any archive.

use std::sync::atomic::AtomicBool;

use super::entry::{PATH_BYTES, next};
use super::fault::Fault;
use super::reader::LayerReader;
use crate::output::member::Body;

/// Reads an archive as it is read to be unpacked: what is given to system calls is within their bounds, and there is no more
/// content than bytes.
pub fn entries(bytes: &[u8]) {
    let cancelled = AtomicBool::new(false);
    let mut reader = LayerReader::of(bytes, &cancelled);
    // A fault is as good a result of such bytes.
    let _ = read(&mut reader, bytes.len() as u64);
}

fn read(reader: &mut LayerReader<'_>, length: u64) -> Result<(), Fault> {
    let mut content = 0;
    while let Some(entry) = next(reader)? {
        assert!(entry.name.len() <= PATH_BYTES && !entry.name.contains(&0), "{entry:?}");
        assert!(entry.mode <= 0o7777 && entry.uid != u32::MAX && entry.gid != u32::MAX, "{entry:?}");
        assert!([entry.mtime, entry.atime].into_iter().all(|time| i64::try_from(time).is_ok()), "{entry:?}");
        assert!(entry.xattrs.iter().all(|(key, _)| !key.is_empty() && !key.contains(&0)), "{entry:?}");
        match &entry.body {
            Body::Link { target } | Body::Symlink { target } => assert!(!target.contains(&0), "{entry:?}"),
            Body::Char { major, minor } | Body::Block { major, minor } => {
                assert!(*major < 1 << 12 && *minor < 1 << 20, "{entry:?}");
            }
            Body::File { size } => {
                let mut left = *size;
                while left > 0 {
                    left -= reader.take(left)?.len() as u64;
                }
                content += size;
                reader.skip(size.next_multiple_of(512) - size)?;
            }
            Body::Folder | Body::Fifo => {}
        }
        assert!(content < length, "{content} bytes of content");
    }
    Ok(())
}
