//! The age of files.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The clock of the grace periods. Tests advance it.
#[derive(Debug, Default)]
pub(crate) struct Clock(#[cfg(test)] std::sync::Mutex<Duration>);

impl Clock {
    pub(super) fn now(&self) -> SystemTime {
        #[cfg(test)]
        return SystemTime::now() + *self.0.lock().unwrap();
        #[cfg(not(test))]
        SystemTime::now()
    }

    /// How long ago a file was changed; zero if that is not known.
    pub(super) fn age(&self, path: &Path) -> Duration {
        fs::symlink_metadata(path).map(|found| self.age_of(&found)).unwrap_or_default()
    }

    /// The same, from metadata that was already read.
    pub(super) fn age_of(&self, found: &Metadata) -> Duration {
        self.now().duration_since(changed(found)).unwrap_or_default()
    }

    #[cfg(test)]
    pub(crate) fn advance(&self, by: Duration) {
        *self.0.lock().unwrap() += by;
    }
}

/// When a file was last changed: its mtime or its ctime, whichever is later. `cp -a`, `rsync -a` and `tar -x` preserve
/// the mtime, but the ctime cannot be set.
pub(super) fn changed(found: &Metadata) -> SystemTime {
    let since = |seconds: i64, nanos: i64| {
        let since = Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanos).unwrap_or(0));
        UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
    };
    since(found.mtime(), found.mtime_nsec()).max(since(found.ctime(), found.ctime_nsec()))
}
