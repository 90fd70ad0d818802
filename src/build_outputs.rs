//! How doors treat the outputs of builds, and which loads were slow.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a door treats the outputs of builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OutputOptions {
    /// Whether the plain exporters `docker` and `oci` (which on the wire cannot be told from `dest=FILE`) mean a load.
    pub plain_is_load: bool,
    /// The compression of loads where the client names none.
    pub load_compression: LoadCompression,
    /// The compression of pushes where the client names none.
    pub push_compression: PushCompression,
}

/// How a builder compresses the layers that it makes for a load. Layers that it has made before stay as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LoadCompression {
    /// As without Linkspan: BuildKit's default, which is gzip.
    #[default]
    Unchanged,
    /// gzip at its quickest level.
    Fast,
    /// zstd.
    Zstd,
    /// Not at all.
    Uncompressed,
}

/// How a builder compresses the layers that it pushes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PushCompression {
    /// As without Linkspan: as each layer was made first.
    #[default]
    Unchanged,
    /// gzip, whatever it was before.
    Gzip,
}

/// A load that spent most of its time in the builder's compression.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowLoad {
    /// The builder.
    pub builder: String,
    /// How long the builder made layers, in milliseconds.
    pub compressing_ms: u64,
    /// How long all of the load took, in milliseconds.
    pub load_ms: u64,
    /// The compressed bytes of the layers that it made.
    pub bytes: u64,
}

/// The slowest of them, as all doors of a process share it.
#[derive(Debug, Clone, Default)]
pub struct SlowLoads(Arc<Mutex<Option<SlowLoad>>>);

impl SlowLoads {
    /// Notes one.
    pub fn note(&self, load: SlowLoad) {
        let mut slowest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if slowest.as_ref().is_none_or(|slowest| slowest.compressing_ms < load.compressing_ms) {
            *slowest = Some(load);
        }
    }

    /// The slowest so far.
    pub fn slowest(&self) -> Option<SlowLoad> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl SlowLoad {
    /// The share of the time, in percent, that `fast` and `uncompressed` save. An estimate, on the low side: on 666 MB of a Linux
    /// system's files gzip at level 1 took a third of the usual time, and without gzip nearly nothing was left of it.
    const SAVED_PERCENT: [(&'static str, u64); 2] = [("fast", 50), ("uncompressed", 80)];

    /// Where the time went.
    pub fn cost(&self) -> String {
        let seconds = |ms: u64| Duration::from_millis(ms).as_secs_f64();
        format!("{:.1} s of {:.1} s", seconds(self.compressing_ms), seconds(self.load_ms))
    }

    /// What would save some of it.
    pub fn remedy(&self) -> String {
        let saved = |percent: u64| (self.compressing_ms * percent / 100 + 500) / 1000;
        let [(fast, some), (uncompressed, most)] = Self::SAVED_PERCENT;
        format!(
            "`linkspan serve --load-compression {fast}` saves about {} s of it, `{uncompressed}` about {} s",
            saved(some),
            saved(most)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slow(builder: &str, compressing_ms: u64) -> SlowLoad {
        SlowLoad { builder: builder.to_owned(), compressing_ms, load_ms: 26_000, bytes: 230_000_000 }
    }

    #[test]
    fn the_slowest_is_kept() {
        let loads = SlowLoads::default();
        assert_eq!(loads.slowest(), None);
        for (builder, ms) in [("a", 7_000), ("b", 20_160), ("c", 9_000)] {
            loads.note(slow(builder, ms));
        }
        assert_eq!(loads.slowest(), Some(slow("b", 20_160)));
    }

    #[test]
    fn the_remedy_has_the_seconds_that_it_saves() {
        let slow = slow("b", 20_160);
        assert_eq!(slow.cost(), "20.2 s of 26.0 s");
        assert_eq!(
            slow.remedy(),
            "`linkspan serve --load-compression fast` saves about 10 s of it, `uncompressed` about 16 s"
        );
    }
}
