//! Image names as Docker understands them.
//!
//! The grammar and the normalisation are those of `github.com/distribution/reference` v0.6.0
//! (`ParseNormalizedNamed`, then `TagNameOnly`), which the engine, buildx and BuildKit all use:
//! a record under any other spelling is one that `docker` cannot find.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use super::Digest;

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL_PREFIX: &str = "library/";
const DEFAULT_TAG: &str = "latest";

/// The longest path, in bytes, domain not counted.
const MAX_PATH: usize = 255;
/// The longest tag, in bytes.
const MAX_TAG: usize = 128;

/// A normalised image name: `docker.io/library/alpine:latest`.
///
/// Always holds a tag or a digest, or both.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// The registry part, `docker.io` unless another was named. Empty for the few names whose first part looks like a
    /// registry but is none, and yet makes a path (`foo_bar.com/x`): Docker does not normalise such a name. Therefore
    /// only [`Reference::name`] joins domain and path.
    domain: String,
    /// The repository path, `library/…` included.
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid image name `{name}`: {reason}")]
pub struct ReferenceError {
    /// The name as it was given, cut to 300 characters.
    pub name: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Reference {
    /// The tag, if there is one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if the name is pinned.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Whether the image with this root may be called so: a name with a digest is that image's only.
    pub fn admits(&self, root: &Digest) -> bool {
        self.digest.as_ref().is_none_or(|digest| digest == root)
    }

    /// The repository: what is left without tag and digest, registry included.
    pub fn name(&self) -> String {
        if self.domain.is_empty() { self.path.clone() } else { format!("{}/{}", self.domain, self.path) }
    }

    /// The path at which a registry that holds the images of all registries has the repository `full` ([`Reference::name`]):
    /// `app` for `docker.io/library/app`, `ghcr.io/o/app` for itself. `None` where no path leads to it, as for a registry with
    /// a port.
    pub(crate) fn path_in_registry(full: &str) -> Option<String> {
        let short = full.strip_prefix("docker.io/").map(|path| match path.strip_prefix(OFFICIAL_PREFIX) {
            Some(rest) if !rest.contains('/') => rest,
            _ => path,
        });
        let leads_there = |path: &&str| {
            !path.contains(':') && format!("{path}:{DEFAULT_TAG}").parse::<Self>().is_ok_and(|it| it.name() == full)
        };
        short.into_iter().chain([full]).find(leads_there).map(str::to_owned)
    }

    /// `names` without those that came before, in the same order.
    pub fn each_once(names: Vec<Self>) -> Vec<Self> {
        let mut known = HashSet::new();
        names.into_iter().filter(|name| known.insert(name.clone())).collect()
    }

    /// The name as people type it: without `docker.io/` and `library/`.
    ///
    /// To be shown, not to be parsed: `docker.io/localhost/x` is `localhost/x` here, which names another image.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        if self.domain != DEFAULT_DOMAIN {
            return full;
        }
        let short = match self.path.strip_prefix(OFFICIAL_PREFIX) {
            Some(rest) if !rest.contains('/') => DEFAULT_DOMAIN.len() + 1 + OFFICIAL_PREFIX.len(),
            _ => DEFAULT_DOMAIN.len() + 1,
        };
        full[short..].to_owned()
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    /// Parses and normalises; a name with neither tag nor digest gets `latest`.
    fn from_str(name: &str) -> Result<Self, ReferenceError> {
        parse(name).map_err(|reason| ReferenceError { name: name.chars().take(300).collect(), reason })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.domain.is_empty() {
            write!(f, "{}/", self.domain)?;
        }
        f.write_str(&self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn parse(name: &str) -> Result<Reference, &'static str> {
    if name.is_empty() {
        return Err("it is empty");
    }
    if name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err("64 hex characters are an image id, not a name");
    }
    if name.contains("://") {
        return Err("it is a URL; a name begins with the registry's host, or with none");
    }
    let (mut domain, rest) = split_domain(name);
    // No other part may hold an `@`, and no path a `:`.
    let (rest, digest) = match rest.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (rest, None),
    };
    let (path, tag) = match rest.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (rest, None),
    };
    let official = domain == DEFAULT_DOMAIN && !path.contains('/');
    let mut path = if official { format!("{OFFICIAL_PREFIX}{path}") } else { path.to_owned() };
    check_path(&path)?;
    if !is_domain(domain) {
        check_component(domain).map_err(|_| "the part before the first `/` is not a registry host")?;
        path = format!("{domain}/{path}");
        domain = "";
    }
    if path.len() > MAX_PATH {
        return Err("the repository path is longer than 255 characters");
    }
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let digest = digest.map(check_digest).transpose()?;
    let tag = match tag {
        None if digest.is_none() => Some(DEFAULT_TAG),
        given => given,
    };
    Ok(Reference { domain: domain.to_owned(), path, tag: tag.map(str::to_owned), digest })
}

/// Cuts off the registry, which is there if the first part cannot be a path component of the hub's.
fn split_domain(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((LEGACY_DOMAIN, rest)) => (DEFAULT_DOMAIN, rest),
        Some((first, rest))
            if first == "localhost" || first.contains(['.', ':']) || first.chars().any(char::is_uppercase) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    }
}

/// A host name, an IPv4 address or a bracketed IPv6 address without zone, and perhaps a port.
fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (domain, None),
    };
    if port.is_some_and(|port| port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit())) {
        return false;
    }
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':'),
        None => host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        }),
    }
}

fn check_path(path: &str) -> Result<(), &'static str> {
    path.split('/').try_for_each(check_component)
}

/// `[a-z0-9]+` joined by `.`, `_`, `__` or any number of `-`.
fn check_component(component: &str) -> Result<(), &'static str> {
    if component.is_empty() {
        return Err("a part of the repository path is empty");
    }
    if component.chars().any(char::is_uppercase) {
        return Err("the repository path must be lower case");
    }
    let alphanumeric = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'z');
    if !component.bytes().all(|b| alphanumeric(&b) || matches!(b, b'.' | b'_' | b'-')) {
        return Err("the repository path may hold only `a` to `z`, digits, `.`, `_`, `-` and `/`");
    }
    let bytes = component.as_bytes();
    if ![bytes.first(), bytes.last()].into_iter().flatten().all(alphanumeric) {
        return Err("each part of the repository path must begin and end with a letter or digit");
    }
    let separators = bytes.split(alphanumeric).filter(|separator| !separator.is_empty());
    for separator in separators {
        if !matches!(separator, b"." | b"_" | b"__") && !separator.iter().all(|b| *b == b'-') {
            return Err("separators in the repository path are `.`, `_`, `__` or dashes, one kind at a time");
        }
    }
    Ok(())
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    if tag.is_empty() {
        return Err("the tag is empty");
    }
    if tag.len() > MAX_TAG {
        return Err("the tag is longer than 128 characters");
    }
    if tag.starts_with(['.', '-']) || !tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
    {
        return Err("a tag may hold only letters, digits, `_`, `.` and `-`, and not begin with `.` or `-`");
    }
    Ok(())
}

fn check_digest(digest: &str) -> Result<Digest, &'static str> {
    digest.parse().map_err(|_| "what follows `@` must be a sha256 or sha512 digest in lower-case hex")
}

#[cfg(test)]
mod tests {
    use super::Reference;

    /// One table for this test and for those that ask real engines.
    const TABLE: &str = include_str!("../../tests/data/references.txt");

    #[test]
    fn agrees_with_the_table() {
        let (mut accepted, mut refused) = (0, 0);
        for line in TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            match line.split('\t').collect::<Vec<_>>()[..] {
                ["accepted", name, canonical, familiar] => {
                    let reference: Reference = name.parse().unwrap_or_else(|error| panic!("{error}"));
                    assert_eq!(reference.to_string(), canonical, "{name}");
                    assert_eq!(reference.familiar(), familiar, "{name}");
                    assert_eq!(canonical.parse::<Reference>().unwrap(), reference, "{name}");
                    accepted += 1;
                }
                ["refused", name, reason] => {
                    let error = name.parse::<Reference>().expect_err(name);
                    assert!(error.reason.contains(reason), "{error}");
                    refused += 1;
                }
                _ => panic!("the table has a line of another form: {line:?}"),
            }
        }
        assert!(accepted >= 40 && refused >= 40, "{accepted} accepted, {refused} refused");
    }

    #[test]
    fn gives_its_parts() {
        let hex = "0a".repeat(32);
        let reference: Reference = format!("[::1]:5000/a/b:c@sha256:{hex}").parse().unwrap();
        assert_eq!((&*reference.domain, &*reference.path, reference.tag()), ("[::1]:5000", "a/b", Some("c")));
        assert_eq!(reference.digest().unwrap().hex(), hex);
        assert_eq!(reference.name(), "[::1]:5000/a/b");
        let bare: Reference = "foo_bar.com/x".parse().unwrap();
        assert_eq!((&*bare.domain, &*bare.path, bare.name().as_str()), ("", "foo_bar.com/x", "foo_bar.com/x"));
    }

    #[test]
    fn pins_without_a_tag() {
        let reference: Reference = format!("alpine@sha256:{}", "0a".repeat(32)).parse().unwrap();
        assert_eq!(reference.tag(), None);
        assert!(reference.digest().is_some());
    }

    #[test]
    fn cuts_long_names_in_errors() {
        assert_eq!("É".repeat(1000).parse::<Reference>().unwrap_err().name.chars().count(), 300);
    }
}
