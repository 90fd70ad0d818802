//! Since when blobs are needed by no image: the collector's notes, kept between its runs.
//!
//! An image that has just lost its name may be in use: another tool read the index before that, and writes its own copy
//! last; somebody reads the image; somebody begins one that shares its layers. So a blob is removed only when an hour has
//! gone by since it was found to be needed by nothing, whoever took the name. The notes may be lost or left out by others
//! (earlier versions do not know them): then the hour begins anew.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::place::{Place, read_lines};
use crate::image::Digest;

/// The most that is read of the notes, in bytes: 700,000 blobs. What is beyond has its hour again.
const MAX_BYTES: u64 = 64 << 20;

/// When each blob was first found to be needed by nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unreached(HashMap<Digest, u64>);

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Unreached {
    /// The notes of `place`; none if there are none that can be read.
    pub(super) fn read(place: &Place) -> Self {
        let text = read_lines(&place.unreached(), MAX_BYTES).unwrap_or_else(|error| {
            tracing::warn!(%error, "since when blobs are needed by nothing cannot be read; each has its hour again");
            String::new()
        });
        let pair = |line: &str| {
            let (since, digest) = line.split_once(' ')?;
            Some((digest.parse().ok()?, since.parse().ok()?))
        };
        Self(text.lines().filter_map(pair).collect())
    }

    /// Keeps the notes. Past the disk's syncs: nothing is lost with them but time.
    pub(super) fn write(&self, place: &Place) -> std::io::Result<()> {
        let mut text = String::new();
        for (digest, since) in &self.0 {
            let _ = writeln!(text, "{since} {digest}");
        }
        place.jot(&place.unreached(), text.as_bytes())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How long a blob has been needed by nothing. A note from the future is of a clock that went wrong.
    pub(super) fn age(&self, digest: &Digest, now: SystemTime) -> Duration {
        let since = self.0.get(digest).copied().unwrap_or(u64::MAX);
        Duration::from_secs(seconds(now).saturating_sub(since))
    }

    /// Takes over what `former` says of a blob, or notes that it is needed by nothing as of `now`.
    pub(super) fn note(&mut self, digest: Digest, former: &Self, now: SystemTime) {
        let since = former.0.get(&digest).copied().unwrap_or(u64::MAX).min(seconds(now));
        self.0.insert(digest, since);
    }
}
