//! Which blobs are verified: files below `blobs` whose content is known to match their name.
//!
//! Other tools do not always sync what they write: after a power loss a blob may have its name and its length, and
//! other bytes. So a blob that another tool wrote is read once before an export relies on it; ours need not be, because
//! their content was synced before they got their names. The verified files are recorded beside them; a record is valid
//! as long as the file is unchanged. Records that are lost cost reading the blobs again.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::OFlags;

use super::files::read_lines;
use super::hashed_file::hash;
use super::paths::LayoutPaths;
use super::seal::Seal;
use crate::image::Digest;

/// The longest file of records that is read, in bytes: some 1,000,000 blobs.
const MAX_BYTES: u64 = 128 << 20;
/// How many outdated records are left in the file.
const STALE: usize = 1024;

/// How often a file that is replaced while it is read is checked again. A file that is still being written never stays
/// the same, and cannot be relied on.
const TRIES: usize = 16;

/// The outcome of checking a file.
enum CheckOutcome {
    /// Its content matches its name, and it has this size.
    Good(u64),
    /// No file has matching content.
    Absent,
    /// It changed while it was read.
    Changed,
}

/// A line of the records.
fn line(digest: &Digest, seal: &Seal) -> String {
    format!("{digest} {seal}")
}

fn parse(line: &str) -> Option<(Digest, Seal)> {
    let (digest, seal) = line.split_once(' ')?;
    Some((digest.parse().ok()?, Seal::parse(seal)?))
}

/// The verified blobs of one layout.
#[derive(Debug, Default)]
pub(super) struct Verified(Mutex<Option<HashMap<Digest, (Seal, bool)>>>);

impl Verified {
    fn known(&self, paths: &LayoutPaths) -> MutexGuard<'_, Option<HashMap<Digest, (Seal, bool)>>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get_or_insert_with(|| read(paths).0.into_iter().map(|(digest, seal)| (digest, (seal, true))).collect());
        known
    }

    /// The size of a blob whose content matches its name. Reads all of it unless that is recorded. Blocks.
    pub(super) fn check(&self, paths: &LayoutPaths, digest: &Digest, size: Option<u64>) -> Option<u64> {
        for _ in 0..TRIES {
            match self.check_once(paths, digest, size) {
                CheckOutcome::Good(size) => return Some(size),
                CheckOutcome::Absent => return None,
                // Another process has replaced this file by its copy, which may match: check that.
                CheckOutcome::Changed => {}
            }
        }
        None
    }

    fn check_once(&self, paths: &LayoutPaths, digest: &Digest, size: Option<u64>) -> CheckOutcome {
        let path = paths.blob(digest);
        let Some(found) = std::fs::metadata(&path).ok().filter(Metadata::is_file) else { return CheckOutcome::Absent };
        if size.is_some_and(|size| size != found.len()) {
            return CheckOutcome::Absent;
        }
        let seal = Seal::of(&found);
        let judge = |is_good: bool| if is_good { CheckOutcome::Good(seal.size) } else { CheckOutcome::Absent };
        if let Some((known, is_good)) = self.known(paths).as_ref().and_then(|known| known.get(digest))
            && *known == seal
        {
            return judge(*is_good);
        }
        // Not under the lock: reading may take long. Two threads may read the same blob.
        let outcome = File::open(&path).and_then(|file| {
            let (hasher, length) = hash(&file, digest.algorithm())?;
            // Synced, so that the content that was verified in the page cache is what a power loss leaves.
            file.sync_data()?;
            // A file that loses its name changes, too: its link count and ctime do.
            let is_same = Seal::of(&file.metadata()?) == seal;
            Ok((is_same && length == seal.size, hasher.finish() == *digest))
        });
        match outcome {
            Ok((true, is_good)) => {
                if !is_good {
                    tracing::warn!(%digest, path = %path.display(), "a blob does not match its digest, and counts as absent");
                }
                self.learn(paths, [(digest.clone(), seal)], is_good);
                judge(is_good)
            }
            Ok((false, _)) => CheckOutcome::Changed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => CheckOutcome::Changed,
            Err(error) => {
                tracing::warn!(%digest, %error, path = %path.display(), "a blob cannot be read, and counts as absent");
                CheckOutcome::Absent
            }
        }
    }

    /// Records blobs that were just given their names, after their content was verified.
    pub(super) fn named<'a>(&self, paths: &LayoutPaths, digests: impl Iterator<Item = &'a Digest>) {
        let seal = |digest: &Digest| Some((digest.clone(), Seal::of(&std::fs::metadata(paths.blob(digest)).ok()?)));
        self.learn(paths, digests.filter_map(seal).collect::<Vec<_>>(), true);
    }

    fn learn(&self, paths: &LayoutPaths, seals: impl IntoIterator<Item = (Digest, Seal)>, is_good: bool) {
        let (mut known, mut lines) = (self.known(paths), String::new());
        for (digest, seal) in seals {
            if is_good {
                let _ = writeln!(lines, "{}", line(&digest, &seal));
            }
            if let Some(known) = &mut *known {
                known.insert(digest, (seal, is_good));
            }
        }
        // One write, so that records of several processes do not mix. An error only costs time.
        let noted = || open(&paths.verified())?.write_all(lines.as_bytes());
        if !lines.is_empty()
            && paths.own().is_dir()
            && let Err(error) = noted()
        {
            tracing::debug!(%error, "verified blobs could not be recorded");
        }
    }
}

/// Opens the records for appending. A pipe in their place has no reader, and must not block.
fn open(path: &Path) -> io::Result<File> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    OpenOptions::new().append(true).create(true).custom_flags(flags).open(path)
}

/// The records, and how many lines they take. Blobs beyond the limit are verified again.
fn read(paths: &LayoutPaths) -> (HashMap<Digest, Seal>, usize) {
    let text = read_lines(&paths.verified(), MAX_BYTES).unwrap_or_else(|error| {
        tracing::debug!(%error, "the record of verified blobs cannot be read; blobs are verified again");
        String::new()
    });
    (text.lines().filter_map(parse).collect(), text.lines().count())
}

/// Removes the records of blobs that are gone, if there are many. For the collector.
pub(super) fn compact(paths: &LayoutPaths) -> io::Result<()> {
    let Ok(found) = std::fs::metadata(paths.verified()) else { return Ok(()) };
    let (mut known, lines) = read(paths);
    known.retain(|digest, seal| std::fs::metadata(paths.blob(digest)).is_ok_and(|found| Seal::of(&found) == *seal));
    if found.len() <= MAX_BYTES && lines <= known.len() + STALE {
        return Ok(());
    }
    let text: String = known.iter().map(|(digest, seal)| line(digest, seal) + "\n").collect();
    paths.jot(&paths.verified(), text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_come_back_and_what_was_cut_off_does_not() {
        let seal = Seal { inode: 7, size: 1 << 40, modified: (-1, 5), changed: (1_700_000_000, 999_999_999) };
        let (digest, line) = (Digest::sha256(b"x"), line(&Digest::sha256(b"x"), &seal));
        assert_eq!(parse(&line), Some((digest, seal)));
        for cut in ["", " ", "sha256:12 1 2 3 4 5 6", line.rsplit_once(' ').unwrap().0, &format!("{line} 1")] {
            assert_eq!(parse(cut), None, "{cut}");
        }
    }
}
