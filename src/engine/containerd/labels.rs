//! The labels by which containerd's garbage collector finds its way through an image.

use std::collections::{HashMap, HashSet};

pub(crate) use crate::image::UNCOMPRESSED;
use crate::image::{Descriptor, Digest, Document, Kind, SUBJECT};

/// Every label by which one blob keeps another alive starts so (containerd `core/metadata/gc.go`).
const CONTENT: &str = "containerd.io/gc.ref.content";
/// On a config: the snapshot of the unpacked image.
const SNAPSHOT: &str = "containerd.io/gc.ref.snapshot.";

/// The labels of a content blob.
pub(crate) type Labels = HashMap<String, String>;

/// The labels that keep the children of `document` alive, with the keys that containerd's Go client uses
/// (containerd `core/images/mediatypes.go`, `ChildGCLabels`): others may set them too, and must not count twice.
pub(crate) fn children(document: &Document) -> Labels {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    let mut labels = Labels::new();
    for child in document.children() {
        let base = base(child);
        let count = counts.entry(base).or_default();
        let key = match (base, *count) {
            ("referrer", _) => {
                format!("{CONTENT}.referrer.{}.{}", child.digest.algorithm().name(), child.digest.short())
            }
            ("config", 0) => format!("{CONTENT}.config"),
            ("config", n) => format!("{CONTENT}.config{n}"),
            ("", n) => format!("{CONTENT}.{n}"),
            (base, n) => format!("{CONTENT}.{base}.{n}"),
        };
        *count += 1;
        labels.insert(key, child.digest.to_string());
    }
    labels
}

fn base(child: &Descriptor) -> &'static str {
    if child.annotations.contains_key(SUBJECT) {
        return "referrer";
    }
    match child.kind() {
        Kind::Config => "config",
        Kind::Manifest => "m",
        Kind::Layer | Kind::ForeignLayer => "l",
        Kind::Index | Kind::Other => "",
    }
}

/// The labels by which a document that is no image's refers to `digests`.
pub(crate) fn references<'a>(digests: impl IntoIterator<Item = &'a Digest>) -> Labels {
    let numbered = digests.into_iter().enumerate();
    numbered.map(|(number, digest)| (format!("{CONTENT}.{number}"), digest.to_string())).collect()
}

/// The label by which a document of ours pins `digest`, the document's label of that `number`.
pub(crate) fn pin(number: usize, digest: &Digest) -> (String, String) {
    (format!("{CONTENT}.linkspan.{number}"), digest.to_string())
}

/// Whether a label is one of [`pin`].
pub(crate) fn is_pin(key: &str) -> bool {
    key.strip_prefix(CONTENT).is_some_and(|rest| rest.starts_with(".linkspan."))
}

/// The label that keeps the unpacked image alive: set on its config, it names the snapshot of the whole chain.
pub(crate) fn snapshot(snapshotter: &str, chain: &Digest) -> (String, String) {
    (format!("{SNAPSHOT}{snapshotter}"), chain.to_string())
}

/// Which of `expected` must be written so that everything they name is kept alive. A digest counts as kept when any
/// label of the right kind names it: another client may have numbered the children of an index differently, because
/// it left some out. If one is missing, all that differ are written, so that no two children fight for one key.
pub(crate) fn missing(expected: &Labels, have: &Labels) -> Labels {
    let content = |labels: &Labels| -> HashSet<String> {
        labels.iter().filter(|(key, _)| key.starts_with(CONTENT)).map(|(_, value)| value.clone()).collect()
    };
    let complete = content(expected).is_subset(&content(have));
    let lacks =
        |(key, value): &(&String, &String)| (!complete || !key.starts_with(CONTENT)) && have.get(*key) != Some(*value);
    expected.iter().filter(lacks).map(|(key, value)| (key.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn digest(text: &str) -> Digest {
        Digest::sha256(text.as_bytes())
    }

    fn child(media_type: &str, name: &str) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"{}","size":1}}"#, digest(name))
    }

    fn document(media_type: &str, json: &str) -> Document {
        let descriptor = Descriptor {
            media_type: media_type.to_owned(),
            digest: digest(json),
            size: json.len() as u64,
            annotations: Default::default(),
            platform: None,
            artifact_type: None,
        };
        Document::parse(descriptor, Bytes::copy_from_slice(json.as_bytes())).unwrap()
    }

    fn label(key: &str, name: &str) -> (String, String) {
        (format!("containerd.io/gc.ref.content.{key}"), digest(name).to_string())
    }

    #[test]
    fn manifests_name_config_and_layers() {
        let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
        let json = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[{},{}]}}"#,
            child("application/vnd.oci.image.config.v1+json", "config"),
            child(layer, "one"),
            child(layer, "two"),
        );
        let labels = children(&document("application/vnd.oci.image.manifest.v1+json", &json));
        assert_eq!(labels, Labels::from([label("config", "config"), label("l.0", "one"), label("l.1", "two")]));
    }

    #[test]
    fn indexes_number_each_kind_by_itself() {
        let index = "application/vnd.oci.image.index.v1+json";
        let manifest = "application/vnd.oci.image.manifest.v1+json";
        let json = format!(
            r#"{{"schemaVersion":2,"mediaType":"{index}","manifests":[{},{},{}]}}"#,
            child(manifest, "a"),
            child(index, "nested"),
            child(manifest, "b"),
        );
        let labels = children(&document(index, &json));
        assert_eq!(labels, Labels::from([label("m.0", "a"), label("0", "nested"), label("m.1", "b")]));
    }

    #[test]
    fn only_what_is_missing_is_written() {
        let expected = Labels::from([label("m.0", "a"), label("m.1", "b")]);
        assert_eq!(missing(&expected, &expected), Labels::new());
        let numbered_otherwise = Labels::from([label("m.0", "b"), label("m.1", "a")]);
        assert_eq!(missing(&expected, &numbered_otherwise), Labels::new());
        let partial = Labels::from([label("m.0", "b"), ("other".to_owned(), "x".to_owned())]);
        assert_eq!(missing(&expected, &partial), expected, "m.0 must not be lost to a");
    }

    #[test]
    fn a_snapshot_label_counts_by_its_key() {
        let expected = Labels::from([snapshot("overlayfs", &digest("chain"))]);
        let other = Labels::from([snapshot("native", &digest("chain"))]);
        assert_eq!(missing(&expected, &other), expected);
        assert_eq!(missing(&expected, &expected), Labels::new());
    }
}
