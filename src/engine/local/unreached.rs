//! Since when blobs are needed by no image: the collector's notes, kept between its runs.
//!
//! An image that has just lost its name may be in use: another tool read the index before that, and writes its own copy
//! last; somebody reads the image; somebody begins one that shares its layers. So a blob is removed only when an hour has
//! gone by since it was found to be needed by nothing, whoever took the name. The notes may be lost or left out by others
//! (earlier versions do not know them): then the hour begins anew.
//!
//! They are of the index that was read for them. Others change it and tell nobody: a blob may have been needed meanwhile,
//! and be needed by nothing again. So all hours begin anew with an index that is another one. When we change it we know what
//! lost its name, and the notes of the rest go on ([`index_written`]).

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::files::read_lines;
use super::paths::LayoutPaths;
use super::reachable::Reachable;
use super::seal::Seal;
use crate::image::{Descriptor, Digest};

/// The most that is read of the notes, in bytes: 700,000 blobs. What is beyond has its hour again.
const MAX_BYTES: u64 = 64 << 20;
/// How the line begins that says which index they are of.
const INDEX: &str = "index ";

/// When each blob was first found to be needed by nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unreached {
    /// The index that was read then. Without one the notes are worth nothing.
    index: Option<Seal>,
    since: HashMap<Digest, u64>,
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Unreached {
    /// The notes of `place`; none if there are none that can be read.
    pub(super) fn read(paths: &LayoutPaths) -> Self {
        let text = read_lines(&paths.unreached(), MAX_BYTES).unwrap_or_else(|error| {
            tracing::warn!(%error, "since when blobs are needed by nothing cannot be read; each has its hour again");
            String::new()
        });
        let pair = |line: &str| {
            let (since, digest) = line.split_once(' ')?;
            Some((digest.parse().ok()?, since.parse().ok()?))
        };
        let index = text.lines().next().and_then(|line| Seal::parse(line.strip_prefix(INDEX)?));
        Self { index, since: text.lines().filter_map(pair).collect() }
    }

    /// None yet, of this index.
    pub(super) fn of(index: Seal) -> Self {
        Self { index: Some(index), since: HashMap::new() }
    }

    /// Whether they were made of this index.
    pub(super) fn is_of(&self, index: &Seal) -> bool {
        self.index.as_ref() == Some(index)
    }

    /// Keeps the notes. Past the disk's syncs: nothing is lost with them but time.
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

    /// How long a blob has been needed by nothing. A note from the future is of a clock that went wrong.
    pub(super) fn age(&self, digest: &Digest, now: SystemTime) -> Duration {
        let since = self.since.get(digest).copied().unwrap_or(u64::MAX);
        Duration::from_secs(seconds(now).saturating_sub(since))
    }

    /// Takes over what `former` says of a blob, or notes that it is needed by nothing as of `now`.
    pub(super) fn note(&mut self, digest: Digest, former: &Self, now: SystemTime) {
        let since = former.since.get(&digest).copied().unwrap_or(u64::MAX).min(seconds(now));
        self.since.insert(digest, since);
    }
}

/// Lets the notes go on that are of the index as it was `before`, when we have put the one in its place that was `written`.
/// What `replaced`, the roots that lost a name by that, reach was needed until now. The lock must be held.
pub(crate) fn index_written(paths: &LayoutPaths, before: &Seal, written: &Seal, replaced: &[Descriptor]) {
    let mut notes = Unreached::read(paths);
    if !notes.is_of(before) {
        return;
    }
    let mut lost = Reachable::default();
    replaced.iter().for_each(|root| lost.follow(paths, root));
    notes.since.retain(|digest, _| !lost.all.contains(digest));
    // Others lock nothing, and may have put theirs there since.
    let index = Seal::at(&paths.index()).filter(|index| index.is_renamed(written));
    notes.index = index.filter(|_| lost.doubts.is_empty());
    if let Err(error) = notes.write(paths) {
        tracing::debug!(%error, "what is needed by nothing has its hour again");
    }
}
