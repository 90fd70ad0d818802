//! Since when blobs are unreachable: a file of the collector, kept between its runs.
//!
//! An image that has just lost its name may be in use: by a tool that read the index before, and will write its own
//! copy of it; by a reader; by an export that shares its layers. So a blob is removed only when an hour has passed
//! since it was found to be unreachable. If the file is lost, or an earlier version that does not know it has run, the
//! hour starts again.
//!
//! The file belongs to one state of the index. Another tool may change the index, so that a blob was reachable
//! meanwhile: all hours start again with an index that we did not write. When we write it we know which roots lost a
//! name, and the hours of all other blobs continue ([`index_written`]).

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::files::read_lines;
use super::paths::LayoutPaths;
use super::reachable::Reachable;
use super::seal::Seal;
use crate::image::{Descriptor, Digest};

/// The limit of what is read of the file, in bytes: 700,000 blobs. The hour of further ones starts again.
const MAX_BYTES: u64 = 64 << 20;
/// The prefix of the line with the seal of the index that the file belongs to.
const INDEX: &str = "index ";

/// When each blob was first found to be unreachable.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unreached {
    /// The index that was read then; without it the times are invalid.
    index: Option<Seal>,
    since: HashMap<Digest, u64>,
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Unreached {
    /// Reads the file; empty if it is missing or cannot be parsed.
    pub(super) fn read(paths: &LayoutPaths) -> Self {
        let text = read_lines(&paths.unreached(), MAX_BYTES).unwrap_or_else(|error| {
            tracing::warn!(%error, "the record of unreachable blobs cannot be read; their grace period starts again");
            String::new()
        });
        let pair = |line: &str| {
            let (since, digest) = line.split_once(' ')?;
            Some((digest.parse().ok()?, since.parse().ok()?))
        };
        let index = text.lines().next().and_then(|line| Seal::parse(line.strip_prefix(INDEX)?));
        Self { index, since: text.lines().filter_map(pair).collect() }
    }

    /// An empty record for this index.
    pub(super) fn of(index: Seal) -> Self {
        Self { index: Some(index), since: HashMap::new() }
    }

    /// Whether the record belongs to this index.
    pub(super) fn is_of(&self, index: &Seal) -> bool {
        self.index.as_ref() == Some(index)
    }

    /// Writes the file. Not synced: its loss only makes the hours start again.
    pub(super) fn write(&self, paths: &LayoutPaths) -> std::io::Result<()> {
        let mut text = String::new();
        if let Some(index) = &self.index {
            let _ = writeln!(text, "{INDEX}{index}");
        }
        for (digest, since) in &self.since {
            let _ = writeln!(text, "{since} {digest}");
        }
        paths.jot(&paths.unreached(), text.as_bytes())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.since.is_empty()
    }

    /// How long a blob has been unreachable; zero for a time in the future, which a wrong clock wrote.
    pub(super) fn age(&self, digest: &Digest, now: SystemTime) -> Duration {
        let since = self.since.get(digest).copied().unwrap_or(u64::MAX);
        Duration::from_secs(seconds(now).saturating_sub(since))
    }

    /// Copies the time of a blob from `former`, or records that it is unreachable as of `now`.
    pub(super) fn note(&mut self, digest: Digest, former: &Self, now: SystemTime) {
        let since = former.since.get(&digest).copied().unwrap_or(u64::MAX).min(seconds(now));
        self.since.insert(digest, since);
    }
}

/// Moves the file from the index `before` to the index `written` that replaced it. Blobs that the roots in `replaced`,
/// which lost a name, reach were reachable until now. The lock must be held.
pub(crate) fn index_written(paths: &LayoutPaths, before: &Seal, written: &Seal, replaced: &[Descriptor]) {
    let mut notes = Unreached::read(paths);
    if !notes.is_of(before) {
        return;
    }
    let mut lost = Reachable::default();
    replaced.iter().for_each(|root| lost.follow(paths, root));
    notes.since.retain(|digest, _| !lost.all.contains(digest));
    // Other tools take no lock, and may have replaced the index since.
    let index = Seal::at(&paths.index()).filter(|index| index.is_renamed(written));
    notes.index = index.filter(|_| lost.doubts.is_empty());
    if let Err(error) = notes.write(paths) {
        tracing::debug!(%error, "the record of unreachable blobs cannot be written; their grace period starts again");
    }
}
