//! The seal of a file: the metadata that shows whether it is still the same file, unchanged.

use std::fmt;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// A file's metadata at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seal {
    pub(crate) inode: u64,
    pub(crate) size: u64,
    pub(crate) modified: (i64, i64),
    pub(crate) changed: (i64, i64),
}

impl Seal {
    pub(crate) fn of(found: &Metadata) -> Self {
        Self {
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }

    /// The seal of the file at `path`, if there is one.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|found| Self::of(&found))
    }

    /// Whether it may be the same file after a rename, which changes its ctime.
    pub(crate) fn is_renamed(&self, before: &Self) -> bool {
        Self { changed: before.changed, ..*self } == *before
    }

    /// Parses what [`Display`](fmt::Display) wrote.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let (inode, size) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let mut number = || words.next()?.parse::<i64>().ok();
        let (modified, changed) = ((number()?, number()?), (number()?, number()?));
        words.next().is_none().then_some(Self { inode, size, modified, changed })
    }
}

impl fmt::Display for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { inode, size, modified, changed } = self;
        write!(f, "{inode} {size} {} {} {} {}", modified.0, modified.1, changed.0, changed.1)
    }
}
