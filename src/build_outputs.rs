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

impl LoadCompression {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Unchanged, Self::Fast, Self::Zstd, Self::Uncompressed];

    /// As it is written in a setting.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unchanged => "as-asked",
            Self::Fast => "fast",
            Self::Zstd => "zstd",
            Self::Uncompressed => "uncompressed",
        }
    }
}

impl PushCompression {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Unchanged, Self::Gzip];

    /// As it is written in a setting.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unchanged => "as-asked",
            Self::Gzip => "gzip",
        }
    }
}

impl OutputOptions {
    /// What its compressions change, in one line; `None` if nothing.
    pub fn compression(&self) -> Option<String> {
        compression(Some(self.load_compression.name()), Some(self.push_compression.name()))
    }
}

/// What the compressions with these names change, in one line; `None` if nothing.
pub fn compression(loads: Option<&str>, pushes: Option<&str>) -> Option<String> {
    let changed = |name: &&str| *name != LoadCompression::Unchanged.name();
    let loads = loads.filter(changed).map(|name| {
        let fast = if name == LoadCompression::Fast.name() { "gzip level 1" } else { name };
        format!("new layers of loads: {fast} (--load-compression {name})")
    });
    let pushes = pushes.filter(changed).map(|name| format!("pushes: {name}"));
    let parts: Vec<_> = loads.into_iter().chain(pushes).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
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
    /// The share of the time, in percent, that `fast` and `uncompressed` save. An estimate: a load with a new
    /// layer of 347 MB of a Linux system's files (`scripts/bench --case big-edit`) went from 9.5 s to 5.5 s and to 3.7 s.
    const SAVED_PERCENT: [(&'static str, u64); 2] = [("fast", 50), ("uncompressed", 80)];

    /// Where the time went.
    pub fn cost(&self) -> String {
        let seconds = |ms: u64| Duration::from_millis(ms).as_secs_f64();
        format!("{:.1} s of {:.1} s", seconds(self.compressing_ms), seconds(self.load_ms))
    }

    /// What would save some of it.
    pub fn remedy(&self) -> String {
        let [(fast, some), (uncompressed, most)] = self.saved();
        format!(
            "`linkspan serve --load-compression {fast}` saves about {some} s of it, `{uncompressed}` about {most} s"
        )
    }

    /// Both in lines that are short enough for a client's progress display, which cuts them at the width of the terminal.
    pub fn lines(&self) -> [String; 2] {
        let [(fast, some), (uncompressed, most)] = self.saved();
        [
            format!("{}: the builder's gzip of new layers", self.cost()),
            format!("serve --load-compression {fast}: -{some} s; {uncompressed}: -{most} s"),
        ]
    }

    /// The settings and the seconds that each saves.
    fn saved(&self) -> [(&'static str, u64); 2] {
        Self::SAVED_PERCENT.map(|(name, percent)| (name, (self.compressing_ms * percent / 100 + 500) / 1000))
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
        assert_eq!(
            slow.lines(),
            [
                "20.2 s of 26.0 s: the builder's gzip of new layers",
                "serve --load-compression fast: -10 s; uncompressed: -16 s"
            ]
        );
    }

    #[test]
    fn the_lines_of_a_long_load_fit_the_progress_of_a_terminal_of_80_columns() {
        // buildx puts ` => => ` before a line, and the seconds that it took behind it.
        const ROOM: usize = 80 - " => => ".len() - " 9999.0s".len();
        let longest = SlowLoad { load_ms: 9_999_000, ..slow("b", 9_998_000) };
        for line in longest.lines() {
            assert!(line.len() < ROOM, "{line}");
        }
    }

    #[test]
    fn compressions_are_named_as_they_are_given() {
        let names = LoadCompression::ALL.map(LoadCompression::name);
        assert_eq!(names, ["as-asked", "fast", "zstd", "uncompressed"]);
        assert_eq!(PushCompression::ALL.map(PushCompression::name), ["as-asked", "gzip"]);
    }

    #[test]
    fn only_settings_that_change_something_are_described() {
        let outputs = |load_compression, push_compression| {
            OutputOptions { load_compression, push_compression, ..OutputOptions::default() }.compression()
        };
        assert_eq!(outputs(LoadCompression::Unchanged, PushCompression::Unchanged), None);
        assert_eq!(
            outputs(LoadCompression::Fast, PushCompression::Gzip).unwrap(),
            "new layers of loads: gzip level 1 (--load-compression fast); pushes: gzip"
        );
        assert_eq!(outputs(LoadCompression::Unchanged, PushCompression::Gzip).unwrap(), "pushes: gzip");
        assert_eq!(
            outputs(LoadCompression::Uncompressed, PushCompression::Unchanged).unwrap(),
            "new layers of loads: uncompressed (--load-compression uncompressed)"
        );
    }
}
