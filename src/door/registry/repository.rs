//! Repositories: which of the engine's names a client's stands for.
//!
//! A name whose first part has a dot or is `localhost` begins with a registry, as in references; another one is docker.io's.
//! A mirror's client says in `ns` whose name it is, which is the only way to a registry with a port.

use http::StatusCode;

use super::query;
use super::refusal::{Code, Refusal};
use crate::image::Reference;

/// The longest name of a repository, in bytes.
const MAX_NAME: usize = 255;
/// The longest `ns`: a host name and a port.
const MAX_NAMESPACE: usize = 255 + 6;

/// A repository, as a client names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Repository {
    /// The client's name of it.
    pub(super) name: String,
    /// The registry that is mirrored.
    pub(super) mirrored: Option<String>,
    /// The name in the engine, registry included.
    pub(super) full: String,
}

impl Repository {
    pub(super) fn of(name: &str, query: Option<&str>) -> Result<Self, Refusal> {
        let refused = |reason: &str| {
            let shown: String = name.chars().take(300).collect();
            let message = format!("this is no name of a repository: {reason}");
            Err(Refusal::bad(Code::NameInvalid, message).about("name", shown))
        };
        if name.len() > MAX_NAME {
            return refused("it is longer than 255 bytes");
        }
        if let Some((host, rest)) = name.split_once('/').filter(|(host, _)| host.contains(':')) {
            let hint = format!(
                "`{host}` is a host, which does not belong into the name; hint: `{rest}`, or with `?ns={host}`"
            );
            return refused(&hint);
        }
        // Behind a registry, a name is checked as it is.
        if let Err(error) = format!("registry.invalid/{name}:1").parse::<Reference>() {
            return refused(error.reason);
        }
        let mirrored = query::value(query, "ns");
        let whole = match &mirrored {
            Some(registry) if !is_registry(registry) => {
                return Err(Refusal::absent(Code::NameUnknown, "`ns` is no registry: expected `HOST` or `HOST:PORT`"));
            }
            Some(registry) => format!("{registry}/{name}"),
            None => name.to_owned(),
        };
        match format!("{whole}:1").parse::<Reference>() {
            Ok(reference) => Ok(Self { name: name.to_owned(), mirrored, full: reference.name() }),
            Err(error) => refused(error.reason),
        }
    }

    /// The image `tag` of it.
    pub(super) fn tagged(&self, tag: &str) -> Result<Reference, Refusal> {
        format!("{}:{tag}", self.full).parse().map_err(|_| {
            let shown: String = tag.chars().take(140).collect();
            let message =
                "this is neither a tag nor a digest: expected at most 128 of letters, digits, `_`, `.` and `-`";
            Refusal::new(StatusCode::BAD_REQUEST, Code::TagInvalid, message).about("reference", shown)
        })
    }
}

/// Whether a text can be the registry of a name.
fn is_registry(text: &str) -> bool {
    let begins_so = || text == "localhost" || text.contains(['.', ':']);
    let is_read_so =
        || format!("{text}/a/b:1").parse::<Reference>().is_ok_and(|it| it.name() == canonical(text) + "/a/b");
    text.len() <= MAX_NAMESPACE && !text.contains('/') && begins_so() && is_read_so()
}

/// The registry's own name.
fn canonical(registry: &str) -> String {
    if registry == "index.docker.io" { "docker.io".to_owned() } else { registry.to_owned() }
}

/// The name by which clients reach the repository with the engine's name `full`; `None` if no client can.
pub(super) fn public_name(full: &str) -> Option<String> {
    let leads_there = |name: &String| Repository::of(name, None).is_ok_and(|found| found.full == full);
    Reference::path_in_registry(full).filter(leads_there)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(name: &str, query: &str) -> Result<String, Code> {
        Repository::of(name, Some(query)).map(|found| found.full).map_err(|refusal| refusal.code)
    }

    #[test]
    fn names_are_those_of_references() {
        for (name, query, expected) in [
            ("app", "", "docker.io/library/app"),
            ("library/app", "", "docker.io/library/app"),
            ("user/app", "", "docker.io/user/app"),
            ("a.b", "", "docker.io/library/a.b"),
            ("ghcr.io/o/app", "", "ghcr.io/o/app"),
            ("localhost/app", "", "localhost/app"),
            ("docker.io/library/app", "", "docker.io/library/app"),
            ("app", "ns=docker.io", "docker.io/library/app"),
            ("library/app", "ns=docker.io", "docker.io/library/app"),
            ("o/app", "ns=registry:5000", "registry:5000/o/app"),
            ("o/app", "ns=ghcr.io", "ghcr.io/o/app"),
        ] {
            assert_eq!(full(name, query).as_deref(), Ok(expected), "{name}?{query}");
        }
        for name in ["", "A/b", "a//b", "../b", "a/", "-a", "a:1", "a@b", "a b", &"a".repeat(256)] {
            assert_eq!(full(name, ""), Err(Code::NameInvalid), "{name}");
        }
        let refused = Repository::of("localhost:5000/app", None).unwrap_err();
        let refused = format!("{refused:?}");
        assert!(refused.contains("does not belong into the name; hint: `app`"), "{refused}");
        assert!(full(&"a".repeat(247), "").is_ok(), "docker.io's names have `library/` before them");
        for query in ["ns=", "ns=word", "ns=a.b/c", "ns=-.", "ns=a%20b.c", "ns=a.b:x"] {
            assert_eq!(full("app", query), Err(Code::NameUnknown), "{query}");
        }
    }

    #[test]
    fn what_is_listed_leads_back() {
        for (full, expected) in [
            ("docker.io/library/app", Some("app")),
            ("docker.io/user/app", Some("user/app")),
            ("docker.io/library/a/b", Some("library/a/b")),
            ("docker.io/localhost/app", Some("docker.io/localhost/app")),
            ("ghcr.io/o/app", Some("ghcr.io/o/app")),
            ("registry:5000/app", None),
        ] {
            assert_eq!(public_name(full).as_deref(), expected, "{full}");
        }
    }

    #[test]
    fn tags_are_checked() {
        let repository = Repository::of("app", None).unwrap();
        assert_eq!(repository.tagged("1").unwrap().to_string(), "docker.io/library/app:1");
        assert!(repository.tagged(&"t".repeat(128)).is_ok());
        for tag in ["", ".x", "a b", "sha256:12", "a@b", &"t".repeat(129)] {
            assert_eq!(repository.tagged(tag).unwrap_err().code, Code::TagInvalid, "{tag}");
        }
    }
}
