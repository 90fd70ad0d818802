//! The names that an exporter gives its image.

use tonic::Status;

use super::exporters::{DANGLING_ONLY, DANGLING_PREFIX, EXPLICIT_TYPE, Exporter, is_true};
use super::frontend_metadata::FrontendMetadata;
use crate::image::{Digest, Reference};

/// Requests the name that the frontend chose.
const WILDCARD: &str = "*";

/// The names of `exporter` as they were requested, separated by commas; may be empty.
pub(super) fn requested(exporter: &Exporter, frontend: &FrontendMetadata) -> String {
    match exporter.attrs.get("name").map(String::as_str) {
        Some(WILDCARD) => frontend.for_exporter(exporter).name.unwrap_or_else(|| WILDCARD.to_owned()),
        name => name.unwrap_or_default().to_owned(),
    }
}

/// The same as full references. Refused as late as by the builder's own `oci` exporter, so that a failing build fails
/// for its own reason.
pub(super) fn in_full(exporter: &Exporter, frontend: &FrontendMetadata) -> Result<Vec<Reference>, Status> {
    let requested = requested(exporter, frontend);
    if requested == WILDCARD {
        let how = if exporter.kind == EXPLICIT_TYPE { "-o type=linkspan,name=NAME" } else { "-t NAME" };
        return Err(Status::unknown(format!(
            "failed to parse *: linkspan: `name=*` stands for the name that the frontend chooses, and this one chose none; \
             hint: name the image with `{how}`"
        )));
    }
    if requested.is_empty() {
        return Ok(Vec::new());
    }
    requested
        .split(',')
        .map(|name| name.parse().map_err(|error| Status::unknown(format!("failed to parse {name}: {error}"))))
        .collect()
}

/// The names in the response of the builder's `image` exporter: as they were requested, with the one that it makes from
/// the digest (`dangling-name-prefix`).
pub(super) fn of_image(exporter: &Exporter, frontend: &FrontendMetadata, digest: &Digest) -> String {
    let mut names = requested(exporter, frontend);
    let only_then = exporter.attrs.get(DANGLING_ONLY).is_some_and(|value| value.is_empty() || is_true(value));
    if let Some(prefix) = exporter.attrs.get(DANGLING_PREFIX).filter(|prefix| !prefix.is_empty())
        && (names.is_empty() || !only_then)
    {
        let separator = if names.is_empty() { "" } else { "," };
        names = format!("{names}{separator}{prefix}@{digest}");
    }
    names
}

/// The valid names that are known before the build.
pub(super) fn known(exporter: &Exporter) -> Vec<Reference> {
    requested(exporter, &FrontendMetadata::default()).split(',').filter_map(|name| name.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exporter(name: Option<&str>) -> Exporter {
        let attrs = name.map(|name| ("name".to_owned(), name.to_owned())).into_iter().collect();
        Exporter { kind: "oci".into(), attrs }
    }

    #[test]
    fn names_are_those_of_the_oci_exporter() {
        let chose = |name: &str| FrontendMetadata { name: Some(name.to_owned()), epoch: None };
        for (name, frontend, expected) in [
            (None, chose("x"), Some(&[][..])),
            (Some(""), chose("x"), Some(&[][..])),
            (
                Some("a,b:1"),
                FrontendMetadata::default(),
                Some(&["docker.io/library/a:latest", "docker.io/library/b:1"][..]),
            ),
            (Some("*"), chose("n1,n2"), Some(&["docker.io/library/n1:latest", "docker.io/library/n2:latest"][..])),
            (Some("*"), chose(""), Some(&[][..])),
            (Some("*"), FrontendMetadata::default(), None),
            (Some("a,"), FrontendMetadata::default(), None),
            (Some("a, b"), FrontendMetadata::default(), None),
            (Some("*"), chose("n1,,n2"), None),
        ] {
            let names = in_full(&exporter(name), &frontend).ok();
            let names: Option<Vec<_>> = names.map(|names| names.iter().map(ToString::to_string).collect());
            assert_eq!(names, expected.map(|names| names.iter().map(|name| (*name).to_owned()).collect()), "{name:?}");
        }
    }

    #[test]
    fn an_image_may_be_named_by_its_digest() {
        let digest = Digest::sha256(b"x");
        let by_digest = format!("dangling@{digest}");
        for (name, only, expected) in [
            (None, None, by_digest.clone()),
            (Some("a"), None, format!("a,{by_digest}")),
            (Some("a"), Some("true"), "a".to_owned()),
            (None, Some(""), by_digest.clone()),
        ] {
            let mut exporter = exporter(name);
            exporter.attrs.insert(DANGLING_PREFIX.to_owned(), "dangling".to_owned());
            exporter.attrs.extend(only.map(|only| (DANGLING_ONLY.to_owned(), only.to_owned())));
            assert_eq!(of_image(&exporter, &FrontendMetadata::default(), &digest), expected);
        }
    }

    #[test]
    fn what_a_frontend_chooses_is_not_known_before() {
        assert_eq!(known(&exporter(Some("*"))), []);
        assert_eq!(known(&exporter(Some("a,Bad Name"))).len(), 1);
        let mut chosen = exporter(Some("*"));
        chosen.attrs.insert("image.name".to_owned(), "n1,n2".to_owned());
        assert_eq!(known(&chosen).len(), 2);
    }
}
