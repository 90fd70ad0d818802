//! `--filter` and the name argument, with docker's rules.

use std::str::FromStr;
use std::time::Duration;

use glob::{MatchOptions, Pattern};

use super::{Facts, age};
use crate::engine::images::Record;
use crate::image::Reference;

/// One condition.
#[derive(Debug, Clone)]
pub(super) enum Filter {
    Dangling(bool),
    /// A label, or a label with its value.
    Label(String, Option<String>),
    Reference(NameFilter),
    /// Created before this image, or after it.
    Before(String),
    Since(String),
    /// Created before this time.
    Until(Duration),
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
        match key {
            "dangling" => match value {
                "true" | "1" => Ok(Self::Dangling(true)),
                "false" | "0" => Ok(Self::Dangling(false)),
                _ => Err("expected `dangling=true` or `dangling=false`".to_owned()),
            },
            "label" => Ok(match value.split_once('=') {
                Some((key, value)) => Self::Label(key.to_owned(), Some(value.to_owned())),
                None => Self::Label(value.to_owned(), None),
            }),
            "reference" => value.parse().map(Self::Reference),
            "before" => Ok(Self::Before(value.to_owned())),
            "since" | "after" => Ok(Self::Since(value.to_owned())),
            "until" => {
                let limit = age(value).or_else(|| duration(value));
                limit
                    .map(Self::Until)
                    .ok_or_else(|| "expected a time (RFC 3339) or a duration such as `24h`".to_owned())
            }
            _ => Err("expected `dangling`, `label`, `reference`, `before`, `since` or `until`".to_owned()),
        }
    }
}

/// Parses a duration of Go, in hours, minutes and seconds.
fn duration(text: &str) -> Option<Duration> {
    let (mut seconds, mut rest) = (0_u64, text);
    while !rest.is_empty() {
        let at = rest.find(|letter: char| !letter.is_ascii_digit()).filter(|at| *at > 0)?;
        let number: u64 = rest[..at].parse().ok()?;
        let unit = match rest[at..].chars().next()? {
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return None,
        };
        seconds = seconds.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[at + 1..];
    }
    (!text.is_empty()).then(|| Duration::from_secs(seconds))
}

/// The ages of the images in `before` and `since`.
#[derive(Debug, Default)]
pub(super) struct Ages {
    /// Images must be older than this.
    pub(super) before: Option<Duration>,
    /// Images must be younger than this.
    pub(super) since: Option<Duration>,
}

/// Whether an image matches: one of the names, as with docker, and every other filter.
pub(super) fn is_match(filters: &[Filter], record: &Record, facts: &Facts, ages: &Ages) -> bool {
    let mut names = filters.iter().filter_map(|filter| match filter {
        Filter::Reference(pattern) => Some(pattern.is(record)),
        _ => None,
    });
    let is_named = names.next().is_none_or(|first| first || names.any(|is| is));
    let age = facts.created.as_deref().and_then(age);
    let holds = |filter: &Filter| match filter {
        Filter::Reference(_) => true,
        Filter::Dangling(dangling) => record.name.is_none() == *dangling,
        Filter::Label(key, value) => {
            facts.labels.get(key).is_some_and(|own| value.as_ref().is_none_or(|value| value == own))
        }
        Filter::Until(until) => age.is_some_and(|age| age >= *until),
        Filter::Before(_) => age.zip(ages.before).is_some_and(|(age, before)| age > before),
        Filter::Since(_) => age.zip(ages.since).is_some_and(|(age, since)| age < since),
    };
    is_named && filters.iter().all(holds)
}

/// A name, a repository, or a pattern.
#[derive(Debug, Clone)]
pub(super) enum NameFilter {
    Name(String),
    /// A pattern for familiar names; `*` does not match `/`, as with docker.
    Pattern(Box<Pattern>),
}

impl FromStr for NameFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !text.contains(['*', '?', '[']) {
            return Ok(Self::Name(text.to_owned()));
        }
        // Go's `[^a]` is `[!a]` here.
        let pattern = Pattern::new(&text.replace("[^", "[!"));
        pattern.map(|pattern| Self::Pattern(Box::new(pattern))).map_err(|error| error.to_string())
    }
}

impl NameFilter {
    /// Whether a record matches. A repository without a tag matches all of its images, as with docker.
    pub(super) fn is(&self, record: &Record) -> bool {
        let Some(name) = record.name.as_deref() else { return false };
        let own = name.parse::<Reference>();
        match (self, own) {
            (Self::Name(pattern), Ok(own)) => {
                let Ok(reference) = pattern.parse::<Reference>() else { return name == pattern };
                let last = pattern.rsplit('/').next().unwrap_or_default();
                own.name() == reference.name() && (!last.contains([':', '@']) || own == reference)
            }
            (Self::Name(pattern), Err(_)) => name == pattern,
            (Self::Pattern(pattern), own) => {
                let options = MatchOptions { require_literal_separator: true, ..MatchOptions::default() };
                let familiar = own.as_ref().map_or_else(|_| name.to_owned(), |own| own.familiar());
                let last = familiar.rfind('/').map_or(0, |at| at + 1);
                let end = familiar[last..].find([':', '@']).map_or(familiar.len(), |at| last + at);
                [&familiar, &familiar[..end], name].into_iter().any(|text| pattern.matches_with(text, options))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Descriptor, Digest};

    fn record(name: &str) -> Record {
        Record { name: Some(name.to_owned()), target: Descriptor::new("", Digest::sha256(b""), 0) }
    }

    #[test]
    fn patterns_are_dockers() {
        for (pattern, name, expected) in [
            ("al*", "docker.io/library/alpine:3", true),
            ("alpine:*", "docker.io/library/alpine:3", true),
            ("*:latest", "docker.io/library/alpine:3", false),
            ("*", "docker.io/library/alpine:3", true),
            ("*", "docker.io/team/app:1", false),
            ("team/*", "docker.io/team/app:1", true),
            ("localhost:5000/*:1", "localhost:5000/app:1", true),
            ("[^b]*", "docker.io/library/alpine:3", true),
            ("alpine", "docker.io/library/alpine:3", true),
            ("alpine:4", "docker.io/library/alpine:3", false),
        ] {
            assert_eq!(pattern.parse::<NameFilter>().unwrap().is(&record(name)), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn durations_are_gos() {
        assert_eq!(duration("1h30m"), Some(Duration::from_secs(5400)));
        for wrong in ["", "h", "1d", "10"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }
}
