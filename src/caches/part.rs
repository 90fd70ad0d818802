//! Parts: what builds of different platforms and targets write under one ref, so that none replaces another's.

use crate::image::Digest;

/// The Dockerfile that is built when none is named; buildx says it all the same.
const DEFAULT_FILE: &str = "Dockerfile";

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
        let text = [self.platform.as_str(), &self.target, &self.filename].join("\0");
        Digest::sha256(text.as_bytes()).hex()[..32].to_owned()
    }

    /// What people are shown.
    pub fn title(&self) -> String {
        let named = [("target=", &self.target), ("file=", &self.filename)];
        let named = named.into_iter().filter(|(_, value)| !["", DEFAULT_FILE].contains(&value.as_str()));
        let words = named.map(|(name, value)| format!("{name}{value}"));
        let words = std::iter::once(self.platform.clone()).filter(|it| !it.is_empty()).chain(words);
        let title: String = words.collect::<Vec<_>>().join(" ");
        title.chars().filter(|it| !it.is_control()).take(100).collect()
    }
}
