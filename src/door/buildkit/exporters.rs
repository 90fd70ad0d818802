//! Which exporters mean "into the local engine", and the exporters that replace them in the builder's request.

pub(super) use super::entry::Entry as Exporter;

/// The type that requests a direct export explicitly: `-o type=linkspan,name=…`.
pub(super) const EXPLICIT_TYPE: &str = "linkspan";

/// Makes the `image` exporter name the image by its digest.
pub(super) const DANGLING_PREFIX: &str = "dangling-name-prefix";
/// Makes it do so only if the image has no other name. The builder spells it so.
pub(super) const DANGLING_ONLY: &str = "danging-name-empty-only";

/// Attributes that the builder's `image` exporter would act on and the `oci` and `docker` exporters ignore
/// (BuildKit `exporter/containerimage/exptypes/keys.go`), and those that only concern a load.
const DROPPED: [&str; 12] = [
    "context",
    DANGLING_ONLY,
    DANGLING_PREFIX,
    "name-canonical",
    "prefer-image-digest",
    "push",
    "push-by-digest",
    "registry.insecure",
    "store",
    "tar",
    "unpack",
    "unsafe-internal-store-allow-incomplete",
];

impl Exporter {
    /// Whether this is a load into the local engine. A load from buildx to an engine with the containerd store is
    /// `oci` with `prefer-image-digest` (buildx `build/opt.go`, since 0.24); one that [is plain](Self::is_plain) counts
    /// only where the endpoint is configured so.
    pub(super) fn is_load(&self, plain_is_load: bool) -> bool {
        let is_marked = || self.attrs.get("prefer-image-digest").is_some_and(|value| value == "true");
        match self.kind.as_str() {
            EXPLICIT_TYPE => true,
            "oci" if is_marked() => !self.is_elsewhere(),
            _ => plain_is_load && self.is_plain(),
        }
    }

    /// Whether this may be a load or an archive for the client's file: on the wire both are the same.
    pub(super) fn is_plain(&self) -> bool {
        let is_marked =
            self.kind == "oci" && self.attrs.get("prefer-image-digest").is_some_and(|value| value == "true");
        matches!(self.kind.as_str(), "oci" | "docker") && !is_marked && !self.is_elsewhere()
    }

    /// Whether it is the user's own choice of output (`tar`, `dest`) or for another engine (`context`).
    fn is_elsewhere(&self) -> bool {
        let has = |key: &str| self.attrs.get(key).is_some_and(|value| !value.is_empty());
        self.attrs.contains_key("tar") || has("dest") || has("context")
    }

    /// The exporter that replaces a load: the same image, left in the builder's own content store. The names are kept,
    /// because the builder makes them the subjects of attestations. Without `store` and `push` it tags nothing.
    pub(super) fn rewritten(&self) -> Self {
        let mut attrs = self.attrs.clone();
        attrs.retain(|key, _| !DROPPED.contains(&key.as_str()));
        attrs.insert("store".into(), "false".into());
        // The default of the `oci` exporter, but not of `image`: otherwise the digest would differ.
        attrs.entry("attestation-inline".into()).or_insert_with(|| "false".into());
        if self.kind != "docker" {
            attrs.entry("oci-mediatypes".into()).or_insert_with(|| "true".into());
        }
        Self { kind: "image".into(), attrs }
    }

    /// The exporter that makes the builder fetch every lazy layer: the `oci` exporter does so before it looks for a
    /// receiver (BuildKit `exporter/oci/export.go`).
    pub(super) fn unlazying(&self) -> Self {
        let mut attrs = self.rewritten().attrs;
        attrs.remove("store");
        Self { kind: "oci".into(), attrs }
    }
}

/// Whether the builder parses an attribute's value as true (Go's `strconv.ParseBool`).
pub(super) fn is_true(value: &str) -> bool {
    ["1", "t", "T", "TRUE", "true", "True"].contains(&value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exporter(kind: &str, attrs: &[(&str, &str)]) -> Exporter {
        let attrs = attrs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Exporter { kind: kind.to_owned(), attrs }
    }

    #[test]
    fn loads_are_distinguished_from_outputs() {
        let digest = ("prefer-image-digest", "true");
        for (kind, attrs, plain_is_load, expected) in [
            ("oci", &[digest][..], false, true),
            ("oci", &[digest, ("name", "a")], false, true),
            ("oci", &[], false, false),
            ("oci", &[], true, true),
            ("oci", &[("prefer-image-digest", "false")], true, true),
            ("oci", &[("tar", "false")], true, false),
            ("oci", &[digest, ("tar", "true")], true, false),
            ("oci", &[digest, ("tar", "false")], false, false),
            ("oci", &[digest, ("tar", "")], false, false),
            ("oci", &[digest, ("context", "other")], false, false),
            ("oci", &[digest, ("context", "")], false, true),
            ("docker", &[], false, false),
            ("docker", &[], true, true),
            ("docker", &[("tar", "false")], true, false),
            ("linkspan", &[], false, true),
            ("linkspan", &[("name", "a")], false, true),
            ("image", &[("push", "true")], true, false),
            ("local", &[], true, false),
        ] {
            assert_eq!(exporter(kind, attrs).is_load(plain_is_load), expected, "{kind} {attrs:?} {plain_is_load}");
        }
    }

    #[test]
    fn the_builder_is_requested_to_make_the_same_image_and_nothing_else() {
        let requested = exporter(
            "oci",
            &[("prefer-image-digest", "true"), ("name", "a"), ("compression", "zstd"), ("push", "true")],
        );
        let expected = exporter(
            "image",
            &[
                ("store", "false"),
                ("attestation-inline", "false"),
                ("oci-mediatypes", "true"),
                ("name", "a"),
                ("compression", "zstd"),
            ],
        );
        assert_eq!(requested.rewritten(), expected);
    }

    #[test]
    fn what_the_user_chose_is_kept() {
        let requested =
            exporter("docker", &[("name", "*"), ("attestation-inline", "true"), ("oci-mediatypes", "false")]);
        let expected = exporter(
            "image",
            &[("name", "*"), ("store", "false"), ("attestation-inline", "true"), ("oci-mediatypes", "false")],
        );
        assert_eq!(requested.rewritten(), expected);
    }
}
