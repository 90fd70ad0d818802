//! What the builds of one builder take from the engine.

use std::sync::Arc;

use crate::engine::images::Images;
use crate::export::Exports;
use crate::image::Reference;
use crate::net::Principal;
use crate::pattern;

/// The engine, and what builds take from it.
#[derive(Debug)]
pub(super) struct EngineContext {
    pub(super) exports: Arc<Exports>,
    pub(super) images: Arc<dyn Images>,
    /// The builder's name.
    pub(super) builder: String,
    /// What comes from there.
    pub(super) patterns: Vec<String>,
}

impl EngineContext {
    pub(super) fn engine(&self) -> &'static str {
        self.exports.engine().identity().kind.name()
    }

    /// Whether an image is to come from the engine: its name matches, and the client may read it.
    pub(super) fn is_wanted(&self, name: &Reference, client: &Principal) -> bool {
        is_named(&self.patterns, name) && self.exports.policy(client).may_pull(&full(name))
    }
}

/// The name without its digest, unless it has no tag.
fn full(name: &Reference) -> String {
    match (name.tag(), name.digest()) {
        (Some(tag), _) => format!("{}:{tag}", name.name()),
        (None, Some(digest)) => format!("{}@{digest}", name.name()),
        (None, None) => name.name(),
    }
}

/// Whether one of `patterns` describes `name`: as it is in full, or as docker shows it; with its tag, or without.
fn is_named(patterns: &[String], name: &Reference) -> bool {
    let (full, repository) = (full(name), name.name());
    let familiar = full.parse().map_or_else(|_| full.clone(), |name: Reference| name.familiar());
    let familiar_repository = &familiar[..familiar.len() - (full.len() - repository.len())];
    [&*full, &*familiar, &*repository, familiar_repository].iter().any(|text| pattern::is_any(patterns, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_of_the_full_name_or_of_the_one_that_docker_shows_with_its_tag_or_without() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let pinned = format!("demo@{digest}");
        for (pattern, name, expected) in [
            ("demo", "demo:1", true),
            ("demo:1", "demo:1", true),
            ("demo:1", "demo:2", false),
            ("demo:latest", "demo", true),
            ("docker.io/library/demo:*", "demo:1", true),
            ("local/*", "local/a/b:1", true),
            ("local/*", "docker.io/local/a", true),
            ("local/*", "ghcr.io/local/a", false),
            ("demo", &pinned, true),
            ("demo@*", &pinned, true),
            ("demo:*", &pinned, false),
            ("localhost:5000/*", "localhost:5000/a:1", true),
            ("*", "a", true),
        ] {
            assert_eq!(is_named(&[pattern.to_owned()], &name.parse().unwrap()), expected, "{pattern} {name}");
        }
    }
}
