//! The exporter `type=linkspan`: its attributes, and the errors where it is not available.
//!
//! Only Linkspan knows this type: clients forward its attributes as they were typed, so no other program would report a
//! misspelled one, and a builder that gets the type reports only that it does not know it.

use http::Response;
use tonic::Status;

use super::exporters::{DANGLING_ONLY, DANGLING_PREFIX, EXPLICIT_TYPE, Exporter, is_true};
use super::grpc::error_response;
use crate::http2::Body;

/// The attributes that it knows, as error messages list them; annotations come beside these.
const KNOWN: [&str; 10] = [
    "attestation-inline",
    "compression",
    "compression-level",
    "force-compression",
    "name",
    "oci-artifact",
    "oci-mediatypes",
    "prefer-nondist-layers",
    "rewrite-timestamp",
    "source-date-epoch",
];

/// Attributes that are accepted but not listed: those that override the frontend's metadata (BuildKit
/// `exptypes/types.go`), those of older builders, and those that buildx adds to a load.
const TAKEN: [&str; 6] =
    ["buildinfo", "buildinfo-attrs", "image.name", "prefer-image-digest", "refs.platforms", "source.date.epoch"];
const TAKEN_BEGINNING: &str = "containerimage.";

/// Attributes of other exporters, each with the value that has no effect and the hint to show.
const FOREIGN: [(&[&str], Option<bool>, &str); 4] = [
    (
        &["push", "push-by-digest", "registry.insecure", "name-canonical"],
        Some(false),
        "it pushes nothing: put `--push` or `-o type=registry,name=NAME` beside it",
    ),
    (
        &["dest", "tar"],
        None,
        "it writes no file: put `-o type=oci,dest=FILE` beside it, or use `linkspan save` afterwards",
    ),
    (
        &["context"],
        None,
        "the image goes to the engine of `linkspan serve`: build through the one that serves the other engine",
    ),
    (
        &["store", "unpack", DANGLING_ONLY, DANGLING_PREFIX],
        Some(true),
        "the engine keeps and unpacks the image in any case: leave it out",
    ),
];

/// The error for an invalid explicit export among `exporters`, before anything is built.
pub(super) fn refusal(exporters: &[Exporter]) -> Option<Status> {
    let mut wrong = Vec::new();
    let mut unknown = Vec::new();
    for (key, value) in exporters.iter().filter(|exporter| exporter.kind == EXPLICIT_TYPE).flat_map(|one| &one.attrs) {
        if KNOWN.contains(&&**key) || TAKEN.contains(&&**key) || key.starts_with(TAKEN_BEGINNING) || is_annotation(key)
        {
            continue;
        }
        match FOREIGN.iter().find(|(keys, ..)| keys.contains(&&**key)) {
            Some((_, Some(idle), _))
                if !value.is_empty() && (is_true(value) || is_false(value)) && is_true(value) == *idle => {}
            Some((_, _, instead)) => wrong.push(format!("`{key}` is not for it: {instead}")),
            None => unknown.push(format!("`{key}`")),
        }
    }
    if !unknown.is_empty() {
        let known = KNOWN.join(", ");
        wrong.push(format!(
            "it does not know {}; hint: use {known}, or annotation….KEY as for an image",
            unknown.join(", ")
        ));
    }
    (!wrong.is_empty())
        .then(|| Status::unknown(format!("linkspan: the output `type={EXPLICIT_TYPE}`: {}", wrong.join("; "))))
}

/// `annotation.KEY`, `annotation-index.KEY`, `annotation-manifest[linux/amd64].KEY`; the builder reports unknown ones.
fn is_annotation(key: &str) -> bool {
    let rest = key.strip_prefix("annotation").filter(|rest| rest.starts_with(['.', '-', '[']));
    rest.is_some_and(|rest| rest.split_once('.').is_some_and(|(_, name)| !name.is_empty()))
}

fn is_false(value: &str) -> bool {
    ["0", "f", "F", "FALSE", "false", "False"].contains(&value)
}

/// The builder's response to a request that was forwarded unchanged: its error that it does not know our exporter
/// becomes `why`.
pub(super) fn explained(response: Response<Body>, why: &str) -> Response<Body> {
    let unknown = format!("exporter \"{EXPLICIT_TYPE}\" could not be found");
    // The response to a call that fails before its first message has headers alone.
    match Status::from_header_map(response.headers()) {
        Some(status) if status.message().contains(&unknown) => {
            error_response(&Status::unknown(format!("linkspan: {unknown} by the builder itself: {why}")))
        }
        _ => response,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(kind: &str, attrs: &[(&str, &str)]) -> Option<String> {
        let attrs = attrs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        refusal(&[Exporter::default(), Exporter { kind: kind.into(), attrs }]).map(|status| status.message().to_owned())
    }

    #[test]
    fn what_the_image_exporter_knows_passes() {
        for attrs in [
            &[][..],
            &KNOWN.map(|key| (key, "x")),
            &[("image.name", "a,b"), ("name", "*"), ("containerimage.config", "{}"), ("prefer-image-digest", "true")],
            &[("annotation.a.b", "x"), ("annotation-index.a", ""), ("annotation-manifest[linux/amd64].a", "x")],
            &[("push", "false"), ("push-by-digest", "0"), ("store", "true"), ("unpack", "1")],
        ] {
            assert_eq!(refused("linkspan", attrs), None, "{attrs:?}");
        }
        assert_eq!(refused("oci", &[("nam", "x"), ("dest", "x")]), None, "other types are the builder's");
    }

    #[test]
    fn a_builder_that_does_not_know_it_is_explained() {
        let message_of = |words: &str| {
            let response = explained(error_response(&Status::unknown(words)), "it is too old");
            Status::from_header_map(response.headers()).unwrap().message().to_owned()
        };
        let words = message_of("exporter \"linkspan\" could not be found");
        assert_eq!(words, "linkspan: exporter \"linkspan\" could not be found by the builder itself: it is too old");
        assert_eq!(message_of("exporter \"nonesuch\" could not be found"), "exporter \"nonesuch\" could not be found");
    }

    #[test]
    fn what_it_cannot_do_is_refused_with_what_can() {
        for (key, value, expected) in [
            ("nam", "x", "know `nam`; hint: use attestation-inline, "),
            ("annotation", "x", "know `annotation`;"),
            ("annotationx.y", "x", "know `annotationx.y`;"),
            ("push", "true", "`--push`"),
            ("push", "", "`--push`"),
            ("push", "yes", "`--push`"),
            ("push-by-digest", "1", "`--push`"),
            ("dest", "a.tar", "`-o type=oci,dest=FILE`"),
            ("tar", "false", "writes no file"),
            ("context", "other", "`linkspan serve`"),
            ("store", "false", "leave it out"),
            ("dangling-name-prefix", "x", "leave it out"),
        ] {
            let refused = refused("linkspan", &[("name", "a"), (key, value)]).unwrap_or_default();
            assert!(refused.contains(expected), "{key}={value}: {refused}");
        }
        let both = refused("linkspan", &[("nam", "x"), ("size", "1"), ("push", "true")]).unwrap();
        assert!(both.contains("`nam`, `size`") && both.contains("`push`"), "{both}");
    }
}
