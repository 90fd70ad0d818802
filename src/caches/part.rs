//! Parts: what builds of different platforms and targets write under one ref, so that none replaces what it does not have.

use crate::image::{Digest, Platform};

/// The Dockerfile that is built when none is named; buildx says it all the same.
const DEFAULT_FILE: &str = "Dockerfile";

/// The longest title.
const TITLE: usize = 100;

/// What a cache export is of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Part {
    /// The platforms, as the client wrote them (`linux/amd64,linux/arm64`).
    pub platform: String,
    /// The target of the Dockerfile.
    pub target: String,
    /// The Dockerfile's name.
    pub filename: String,
}

impl Part {
    /// The key under which the part's versions are stored: 32 hexadecimal digits.
    pub fn key(&self) -> String {
        // A client that names no Dockerfile means this one.
        let filename = if self.filename.is_empty() { DEFAULT_FILE } else { &self.filename };
        let text = [&self.platform, &self.target, filename].join("\0");
        Digest::sha256(text.as_bytes()).hex()[..32].to_owned()
    }

    /// What people are shown.
    pub fn title(&self) -> String {
        let named = [("target=", &self.target), ("file=", &self.filename)];
        let named = named.into_iter().filter(|(_, value)| !["", DEFAULT_FILE].contains(&value.as_str()));
        let words = named.map(|(name, value)| format!("{name}{value}"));
        let words = std::iter::once(self.platform.clone()).filter(|it| !it.is_empty()).chain(words);
        let title: String = words.collect::<Vec<_>>().join(" ");
        title.chars().filter(|it| !it.is_control()).take(TITLE).collect()
    }

    /// The part of which `key` is the key and `title` the title. `None` if that cannot be told from the title, which is for
    /// people: it may be cut, and words of it may have spaces.
    pub(super) fn read(key: &str, title: &str) -> Option<Self> {
        let mut part = Self::default();
        for word in title.split(' ').filter(|word| !word.is_empty()) {
            match word.split_once('=') {
                Some(("target", target)) => part.target = target.to_owned(),
                Some(("file", filename)) => part.filename = filename.to_owned(),
                _ => part.platform = word.to_owned(),
            }
        }
        let default = Self { filename: DEFAULT_FILE.to_owned(), ..part.clone() };
        [part, default].into_iter().find(|part| part.key() == key)
    }

    /// The platforms; `None` if there are none, or they cannot be read.
    pub(super) fn platforms(&self) -> Option<Vec<Platform>> {
        let platforms = self.platform.split(',').map(|text| Some(text.parse::<Platform>().ok()?.normalised()));
        platforms.collect()
    }

    /// Whether what is stored of `other` is stored of this part as well: it has the same target and file, and no platform
    /// that this one has not.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let is_default = |filename: &str| ["", DEFAULT_FILE].contains(&filename);
        let is_same_file =
            self.filename == other.filename || (is_default(&self.filename) && is_default(&other.filename));
        let (Some(own), Some(others)) = (self.platforms(), other.platforms()) else { return false };
        self.target == other.target && is_same_file && others.iter().all(|platform| own.contains(platform))
    }
}
